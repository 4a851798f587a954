"""Options of images that a model is given, for models that are conditioned on an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options.common import CONDITIONS
from ddpm_cli.core.errors import UsageError

if TYPE_CHECKING:
    from ddpm_cli.core.conditioning.requests import ConditionRequest
    from ddpm_cli.core.diffusion.settings import Sampling
    from ddpm_cli.core.generation.given import Given
    from ddpm_cli.core.generation.model import Model
    from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class GivenOptions:
    """The image that each sampled image is made of."""

    given: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Of a model trained with --given or --given-data: the image, or a folder or "
            "archive of images in turn, to be enlarged, coloured, sharpened, filled or drawn.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="The images of --given are whole ones: make of them what the model is given, as "
            "in training.",
            rich_help_panel=CONDITIONS,
        ),
    ] = False
    cascade: Annotated[
        Path | None,
        typer.Option(
            metavar="SMALL",
            help="A run that samples the small images on which RUN is conditioned.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None
    given_noise: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Deviation of noise to add to low-resolution images, as in training, where grey "
            "levels are from -1 to 1: more corrects more of their flaws.",
            show_default="0; with --cascade half of the most in training",
            rich_help_panel=CONDITIONS,
        ),
    ] = None

    def resolve(
        self,
        model: Model,
        count: int | None,
        seed: int,
        conditions: ConditionRequest,
        sampling: Sampling,
        reporter: Reporter,
        mask: str | None,
    ) -> Given | None:
        """The images for a model; None without any."""
        from ddpm_cli.core.generation import cascade
        from ddpm_cli.core.generation.given import GivenRequest

        if self.cascade is None:
            request = GivenRequest(self.given, mask, self.degrade, self.given_noise)
            return request.resolve(model, reporter)
        if self.given is not None or self.degrade or mask is not None:
            raise UsageError("--cascade samples the images that --given would name: give one")
        return cascade.given_by(
            self.cascade, model, count, seed, conditions, sampling, self.given_noise, reporter
        )
