"""`ddpm gif`: films of images emerging from noise, and of what else a model does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, film
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

if TYPE_CHECKING:
    from ddpm_cli.core.generation.animation import Film
    from ddpm_cli.core.generation.model import Model

_VISITED = {"steps", "spacing", "timesteps", "sigmas", "sections", "final_sigma", "sampler"}
_WAY_COUNT, _STRIP_COUNT = 4, 4  # images by default


class _Plan(NamedTuple):
    """A film that has not been drawn yet."""

    folder: Path  # where it is written by default
    draw: Callable[[int], Film]  # by the number of states wanted; it may have more
    settings: dict[str, Any]  # that determine it, for the document


@grouped
@stop_at_once()
def gif(
    run: common.Run = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images in the grid.",
            show_default="16, or as many as --grid, --class and --prompts say; 4 there and back, "
            "and in a strip",
        ),
    ] = None,
    *,
    grid: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="The grid of images, such as 4x4."),
    ] = None,
    shown: film.ShownOptions,
    length: film.LengthOptions,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help=common.SEED, show_default="0", rich_help_panel=common.SAMPLING
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The film: .gif, .webp, .mp4 or .png.",
            show_default="denoising.gif, denoising-2.gif, … beside the weights",
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Show images emerging from noise, as a film."""
