"""Options for images to begin at, in place of noise alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ddpm_cli.core.config.network import NetworkConfig
    from ddpm_cli.core.generation.starts.initial import InitialRequest
    from ddpm_cli.core.generation.starts.starting_noise import StartingNoise

_PANEL = "Editing images"


@dataclass(frozen=True)
class InitialOptions:
    """Images to begin at, how far they are changed, and where."""

    init: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Begin at this image, or at each of a folder or .zip, in place of noise alone. "
            "Results have their names, order and sizes; with a larger -n each has several.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much of the image to begin at is forgotten, as the share of the model's "
            "timesteps whose noise is added: 0 gives the image back, 1 samples.",
            show_default="0.6; with --mask 1",
            rich_help_panel=_PANEL,
        ),
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Draw anew where this image is white, keep exactly what is black, and blend both "
            "where it is grey. One for all, or a folder of pairs by name. What a larger mask has "
            "around the image is drawn too. Of a model trained with --given mask: white where "
            "--given is to be drawn anew.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    resample: Annotated[
        int | None,
        typer.Option(
            help="With --mask: take each ten steps so often, adding noise again in between, so "
            "that new pixels fit the known ones (RePaint); the time grows as much.",
            show_default="1",
            rich_help_panel=_PANEL,
        ),
    ] = None

    noise: Annotated[
        Path | None,
        typer.Option(
            metavar="NOISE.npy",
            help="Start from this noise, as ddpm invert writes it, in place of that of the seeds. "
            "Class, guidance and sampler must be those of ddpm invert, to get its images again.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def start(self, network: NetworkConfig) -> StartingNoise | None:
        """The noise to start from; None without. Raises DdpmError where it is not the network's."""
        from ddpm_cli.core.generation.starts.starting_noise import StartingNoise

        return None if self.noise is None else StartingNoise.read(self.noise, network)

    @cached_property
    def request(self) -> InitialRequest | None:
        """The request that they are; None without images. Raises UsageError."""
        from ddpm_cli.core.generation.starts.initial import InitialRequest

        mask = None if self.mask_of_given else self.mask
        return InitialRequest.of(self.init, self.strength, mask, self.resample)

    @property
    def mask_of_given(self) -> str | None:
        """The mask, where it is not that of images to begin at but of a model's --given."""
        return self.mask if self.init is None else None
