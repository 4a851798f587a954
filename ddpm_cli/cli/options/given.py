"""Options of images that a model is given, for models that are conditioned on an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli.options.common import CONDITIONS
from ddpm_cli.core.errors import UsageError

if TYPE_CHECKING:
    from ddpm_cli.core.conditioning.requests import ConditionRequest
    from ddpm_cli.core.diffusion.settings import Sampling
    from ddpm_cli.core.generation.model import Model
    from ddpm_cli.core.generation.starts.given import Given
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
        recorded: Mapping[str, Any] | None = None,
    ) -> Given | None:
        """The images for a model; None without any.

        recorded: of the image to draw again, which image it was given, and how.
        """
        from ddpm_cli.core.generation.starts import cascade
        from ddpm_cli.core.generation.starts.given import GivenRequest

        recorded = recorded or {}
        options, name = self._again(recorded), recorded.get("given")
        if options.cascade is None:
            request = GivenRequest(options.given, mask, options.degrade, options.given_noise, name)
            return request.resolve(model, reporter)
        if options.given is not None or options.degrade or mask is not None:
            raise UsageError("--cascade samples the images that --given would name: give one")
        return cascade.given_by(
            options.cascade, model, count, seed, conditions, sampling, options.given_noise, reporter
        )

    def _again(self, recorded: Mapping[str, Any]) -> GivenOptions:
        """The options with those of an image to draw again that are not given."""
        if self.given is None and self.cascade is None:
            if "given" in recorded:
                raise UsageError(
                    f"--like: that image was given {recorded['given']}: say where it is by --given"
                )
            if "cascade" in recorded:
                return replace(self, cascade=Path(recorded["cascade"]))._noise_of(recorded)
        degrade = self.degrade or bool(recorded.get("degrade"))
        return replace(self, degrade=degrade)._noise_of(recorded)

    def _noise_of(self, recorded: Mapping[str, Any]) -> GivenOptions:
        chosen = recorded.get("given_noise") if self.given_noise is None else self.given_noise
        return replace(self, given_noise=chosen)
