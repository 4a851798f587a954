"""Options of `ddpm ema --sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli.options import common
from ddpm_cli.cli.options import sweep as options

_SWEEP = "Scores of several lengths"  # a panel


@dataclass(frozen=True)
class SweepOptions:
    """How several lengths are scored."""

    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Score all lengths, from the same seeds, and draw the scores against them.",
            rich_help_panel=_SWEEP,
        ),
    ] = False
    real: options.Real = None
    plot: Annotated[
        Path | None,
        typer.Option(
            help="The .png for the curve.",
            show_default="ema-sweep.png in the run, then ema-sweep-2.png and so on",
            rich_help_panel=_SWEEP,
        ),
    ] = None
    count: options.Count = options.COUNT
    seed: common.Seed = 0
    device: common.Device = "auto"
