"""`ddpm runs clean`: what of runs may be deleted, and deleting it when told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli import console, tables
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.runs import listing
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.files import in_words
from ddpm_cli.core.runtime.run_directory import runs_folder

if TYPE_CHECKING:
    from ddpm_cli.core.runs.cleaning import Cleaning


@grouped
@stop_at_once("what was deleted is gone; the same command deletes the rest")
def runs_clean(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs, or folders of runs. Default: runs/, or DDPM_RUNS.", show_default=False
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Delete what may go. Without it, what may go is said, and on a terminal you are "
            "asked.",
        ),
    ] = False,
    milestones: Annotated[
        bool,
        typer.Option(
            "--milestones", help="Snapshots kept by --keep-every may go, too; the newest stays."
        ),
    ] = False,
    json: common.Json = False,
) -> None:
    """Free disk space: older snapshots, superseded files, what crashes left over.

    Never touched are runs that train, and of the others model.safetensors, best.safetensors and the
    newest snapshot, from which the same command resumes. Superseded snapshots and weights (files
    ending in .superseded) are those that a resume from an earlier snapshot has set aside.

    Examples:
        ddpm runs clean
        ddpm runs clean runs/photos-64
    """
    from ddpm_cli.core.runs import cleaning

    start_up.end()
    places = runs or [path for path in [runs_folder()] if path.exists()]
    found = list(dict.fromkeys(path for place in places for path in listing.find(place)))
    plans = [cleaning.plan(path, milestones=milestones) for path in found]
    wanted = any(one.files for one in plans)
    asks = wanted and not (yes or json) and _is_asked()
    delete = wanted and (yes or (asks and _agreed(plans)))
    if delete:
        plans = [cleaning.clean(one, console.reporter()) if one.files else one for one in plans]
    document = {
        "runs": [one.document() for one in plans],
        "bytes": sum(one.bytes for one in plans),
        "deleted": delete,
    }
    console.result(_told(plans, deleted=delete, asked=asks), document, json)


def _is_asked() -> bool:
    """Whether there is a user at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _agreed(plans: Sequence[Cleaning]) -> bool:
    """Whether the user, who is at a terminal, wants these files to be deleted."""
    freed = in_words(sum(one.bytes for one in plans))
    console.reporter().say(_table(plans))
    return typer.confirm(f"Delete these, to free {freed}?", default=False, err=True)


def _told(plans: Sequence[Cleaning], *, deleted: bool, asked: bool) -> str:
    files, size = sum(len(one.files) for one in plans), in_words(sum(one.bytes for one in plans))
    count = "1 file" if files == 1 else f"{files:,} files"
    lines = [f"{one.run}: untouched, {one.untouched}" for one in plans if one.untouched]
    if not plans:
        return "There are no runs here; name some, or a folder of runs."
    if not files:
        return "\n".join([*lines, "There is nothing to delete."])
    table = [] if asked else [_table(plans), ""]
    if deleted:
        return "\n".join([*table, *lines, f"Deleted {count}: {size} freed."])
    advice = "nothing was deleted" if asked else "add --yes to delete them"
    return "\n".join([*table, *lines, f"{count}, {size}, may go: {advice}."])


def _table(plans: Sequence[Cleaning]) -> str:
    """What may go, a line for each file."""
    rows = [(one.run, file) for one in plans for file in one.files]
    return tables.table(
        [
            Column("RUN", [str(run) for run, _ in rows], cut="start"),
            Column("FILE", [str(file.path.relative_to(run)) for run, file in rows], cut="start"),
            Column("WHY", [file.why for _, file in rows], needed=1),
            Column("SIZE", [in_words(file.bytes) for _, file in rows], right=True),
        ]
    )
