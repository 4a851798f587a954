"""`ddpm inspect-schedule`: how much noise when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console, options
from ddpm_cli.core.errors import UsageError

_ROWS = 11  # timesteps shown in the table


def inspect_schedule(
    schedule: Annotated[str, typer.Option(help="linear or cosine.")] = "linear",
    timesteps: Annotated[int, typer.Option(min=1, help="Number of timesteps T.")] = 1000,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Sampling steps, to see which timesteps they visit.", show_default="50, at most T"
        ),
    ] = None,
    spacing: options.Spacing = "trailing",
    plot: Annotated[
        Path | None, typer.Option(help="Draw abar, beta and the SNR into this PNG.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="Show this picture being destroyed: a strip of PNGs, at --strip."),
    ] = None,
    strip: Annotated[
        Path | None,
        typer.Option(help="The strip's file.", show_default="<picture>-<schedule>.png, here"),
    ] = None,
    overwrite: options.OverwriteFile = False,
    json: options.Json = False,
) -> None:
    """Look at a noise schedule: how much signal is left at each timestep."""
    from ddpm_cli.core import inspection

    if image is None and strip is not None:
        raise UsageError("--strip names the file for an --image, and there is none")
    if image is not None and strip is None:
        strip = Path(f"{image.stem}-{schedule}.png")
    table = inspection.tabulate(
        schedule, timesteps, min(50, timesteps) if steps is None else steps, spacing
    )
    written = inspection.draw(table, plot, image, strip, overwrite=overwrite)
    text = "\n".join([_table(table), *(f"Wrote {path}" for path in written)])
    console.result(text, table, json)


def _table(table: dict[str, Any]) -> str:
    total = table["timesteps"]
    shown = sorted({round(i * (total - 1) / (_ROWS - 1)) for i in range(_ROWS)})
    lines = [
        f"{table['schedule']}, {total} timesteps, "
        f"sigma from {table['sigma'][0]:.4g} to {table['sigma'][-1]:,.5g}",
        f"{'t':>6}  {'beta':>10}  {'abar':>10}  {'sigma':>10}  {'SNR':>10}  signal left",
    ]
    for t in shown:
        abar = table["alpha_bar"][t]
        bar = "█" * round(24 * abar**0.5)
        lines.append(
            f"{t:>6}  {table['beta'][t]:>10.4g}  {abar:>10.4g}  {table['sigma'][t]:>10.4g}  "
            f"{table['snr'][t]:>10.4g}  {bar}"
        )
    visited = table["steps"]
    named = visited if len(visited) <= 12 else [*visited[:6], "…", *visited[-5:]]
    lines.append(f"{len(visited)} steps visit {' '.join(map(str, named))}")
    return "\n".join(lines)
