"""`ddpm inspect-schedule`: noise schedules as tables, as curves and on an image."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import SettingOptions, grouped
from ddpm_cli.core.config import diffusion
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

_ROWS = 11  # timesteps in the table
_HEIGHT = 10  # lines of the curves
_MARKS = "*o+x#%@"  # one per schedule


class BetaOptions(SettingOptions, of=diffusion.DiffusionConfig, only=("beta_min", "beta_max")):
    """The range of betas."""


class VisitOptions(
    SettingOptions,
    of=Sampling,
    only=("steps", "sampler", "spacing", "sigmas", "sections", "final_sigma"),
):
    """The noise levels that sampling visits."""


@grouped
@stop_at_once()
def inspect_schedule(
    schedule: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(diffusion.SCHEDULES)}; or several to compare: linear,cosine."
        ),
    ] = "linear",
    timesteps: Annotated[int, typer.Option(min=1, help="Number of timesteps T.")] = 1000,
    *,
    betas: BetaOptions,
    visits: VisitOptions,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot abar, beta, the SNR and the steps' noise levels to this PNG."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Show the forward process on this image: as a strip, at --strip, and a GIF."
        ),
    ] = None,
    strip: Annotated[
        Path | None,
        typer.Option(
            help="The strip's PNG; the GIF is written beside it.",
            show_default="<image>-<schedule>.png, here",
        ),
    ] = None,
    max_pixels: common.MaxPixels = None,
    overwrite: common.OverwriteFile = False,
    json: common.Json = False,
) -> None:
    """Show noise schedules: how much signal is left at each timestep.

    Examples:
        ddpm inspect-schedule --schedule cosine --steps 10
        ddpm inspect-schedule --schedule linear,cosine --plot schedules.png
    """
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.figures import inspection

    start_up.end()
    allow_pixels(max_pixels)
    names = [name.strip() for name in schedule.split(",")]
    beta_range = betas.nested()
    if beta_range and not set(names) & set(diffusion.BETA_RANGED):
        raise UsageError(f"--beta-min and --beta-max are for {', '.join(diffusion.BETA_RANGED)}")
    if image is None and strip is not None:
        raise UsageError("--strip names the file for an --image, and there is none")
    for option, path in (("--strip", strip), ("--plot", plot)):
        if path is not None and path.suffix.lower() != ".png":
            raise UsageError(f"{option} {path} should end in .png")
    if image is not None and strip is None:
        strip = Path(f"{image.stem}-{'-'.join(names)}.png")
    sampling = Sampling(**visits.nested()).with_default_steps(timesteps)
    tables = [
        inspection.tabulate(diffusion.DiffusionConfig(name, timesteps, **beta_range), sampling)
        for name in names
    ]
    written = inspection.save_figures(tables, plot, image, strip, overwrite=overwrite)
    width = shutil.get_terminal_size().columns
    paragraphs = [
        *(_table(table) for table in tables),
        _curve([(table["schedule"], inspection.signal(table)) for table in tables], width),
        "\n".join(fill(line, width) for table in tables for line in inspection.diagnosis(table)),
        "\n".join(_visits(table) for table in tables),
        "\n".join(f"Wrote {path}" for path in written),
    ]
    document = tables[0] if len(tables) == 1 else {"schedules": tables}
    console.result("\n\n".join(filter(None, paragraphs)), document, json)


def _table(table: dict[str, Any]) -> str:
    total = table["timesteps"]
    timesteps = sorted({round(i * (total - 1) / (_ROWS - 1)) for i in range(_ROWS)})
    lines = [
        f"{table['schedule']}, {total} timesteps, "
        f"sigma from {table['sigma'][0]:.4g} to {table['sigma'][-1]:,.5g}",
        f"{'t':>6}  {'beta':>10}  {'abar':>10}  {'sigma':>10}  {'SNR':>10}",
    ]
    for t in timesteps:
        columns = (table[name][t] for name in ("beta", "alpha_bar", "sigma", "snr"))
        lines.append("  ".join([f"{t:>6}", *(f"{value:>10.4g}" for value in columns)]))
    return "\n".join(lines)


def _curve(curves: Sequence[tuple[str, Sequence[float]]], width: int) -> str:
    """Plot the signal coefficients over the timesteps, a mark per schedule, `width` wide."""
    columns = max(10, min(width, 100) - 8)
    rows = [[" "] * columns for _ in range(_HEIGHT)]
    for (_, values), mark in zip(curves, _MARKS * len(curves), strict=False):
        for column in range(columns):
            value = values[round(column * (len(values) - 1) / (columns - 1))]
            rows[round((1 - value) * (_HEIGHT - 1))][column] = mark
    labels = ["100 %", *[""] * (_HEIGHT - 2), "0 %"]
    legend = ", ".join(f"{mark} {name}" for (name, _), mark in zip(curves, _MARKS, strict=False))
    last = str(len(curves[0][1]) - 1)
    return "\n".join(
        [
            f"How much of the image is left, sqrt(abar): {legend}",
            *(f"{x:>5} |{''.join(row).rstrip()}" for x, row in zip(labels, rows, strict=True)),
            f"{'':>5} +{'-' * columns}",
            f"{'':>5}  t = 0{last:>{columns - 5}}",
        ]
    )


def _visits(table: dict[str, Any]) -> str:
    visited = table["steps"]
    listed = visited if len(visited) <= 12 else [*visited[:6], "…", *visited[-5:]]
    end = table["levels"][-1]
    ending = f", ending at sigma {end:.4g}" if end > 0 else ""
    return f"{table['schedule']}: {len(visited)} steps visit {' '.join(map(str, listed))}{ending}"
