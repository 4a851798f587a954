"""Options of `ddpm train` that say what is kept of a run, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PANEL = "Saving"

Out = Annotated[
    Path | None,
    typer.Option(
        help="The run directory.", rich_help_panel=_PANEL, show_default="runs/<data>-<size>"
    ),
]
Resume = Annotated[
    str,
    typer.Option(
        help="auto: go on from the newest snapshot if there is one; never: start a new run; or "
        "a snapshot's path.",
        rich_help_panel=_PANEL,
    ),
]
SnapshotEvery = Annotated[
    int | None,
    typer.Option(
        help="Images between snapshots: the most that is done again after a crash. They are "
        "written beside the training.",
        rich_help_panel=_PANEL,
        show_default="the preset's",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        help="Newest snapshots kept; older ones are deleted.",
        rich_help_panel=_PANEL,
        show_default="2",
    ),
]
KeepEvery = Annotated[
    int | None,
    typer.Option(
        help="Images after each of which one snapshot, the next one, is never deleted.",
        rich_help_panel=_PANEL,
        show_default="none is kept for good",
    ),
]
Preview = Annotated[
    int | None,
    typer.Option(
        help="Pictures in a preview grid, drawn at every snapshot; 0: none.",
        rich_help_panel=_PANEL,
        show_default="the preset's",
    ),
]
