"""Options of `ddpm train` that say what is kept of a run, and how it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli.options.groups import given

_PANEL = "Saving"


@dataclass(frozen=True)
class SavingOptions:
    """What is kept of a run, and how it goes on."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory.", rich_help_panel=_PANEL, show_default="runs/<data>-<size>"
        ),
    ] = None
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on from the newest snapshot if there is one; never: start a new run; or "
            "a snapshot's path.",
            rich_help_panel=_PANEL,
        ),
    ] = "auto"
    snapshot_every: Annotated[
        int | None,
        typer.Option(
            help="Images between snapshots: the most that is done again after a crash. They are "
            "written beside the training.",
            rich_help_panel=_PANEL,
            show_default="the preset's",
        ),
    ] = None
    keep: Annotated[
        int | None,
        typer.Option(
            help="Newest snapshots kept; older ones are deleted.",
            rich_help_panel=_PANEL,
            show_default="2",
        ),
    ] = None
    keep_every: Annotated[
        int | None,
        typer.Option(
            help="Images after each of which one snapshot, the next one, is never deleted.",
            rich_help_panel=_PANEL,
            show_default="none is kept for good",
        ),
    ] = None
    preview: Annotated[
        int | None,
        typer.Option(
            help="Pictures in a preview grid, drawn at every snapshot; 0: none.",
            rich_help_panel=_PANEL,
            show_default="the preset's",
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The settings of RunConfig that were given."""
        return given(
            snapshot_every=self.snapshot_every,
            keep=self.keep,
            keep_every=self.keep_every,
            preview=self.preview,
        )
