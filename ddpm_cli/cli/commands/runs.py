"""`ddpm runs`: the runs of a folder in a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, tables
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.config.fields import near_names
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runs import listing, summary
from ddpm_cli.core.runs.summary import RunSummary
from ddpm_cli.core.runtime import quantities
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.files import in_words
from ddpm_cli.core.runtime.run_directory import runs_folder

_OTHERS = ("compare", "clean")  # what follows `ddpm runs` in other commands' names
_COLOURS = {"running": "green", "diverged": "red", "stopped": "yellow", "new": "cyan"}


@grouped
@stop_at_once()
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of runs, in folders of folders, too; or one run. Default: runs/, or "
            "DDPM_RUNS.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            help=f"The column by which runs are ordered: {', '.join(listing.ORDERS)}. The newest, "
            "largest and best come first.",
        ),
    ] = "since",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    json: common.Json = False,
) -> None:
    """List runs: state, data, progress, loss, best score, newest preview, size on the disk.

    Other commands: ddpm runs compare A B shows how runs differ, and ddpm runs clean frees space. A
    folder of such a name is ./compare.

    Examples:
        ddpm runs
        ddpm runs experiments/ --sort loss
    """
    listing.ordered([], sort)  # raises where there is no such column
    place = runs_folder() if folder is None else folder
    missing = folder is None and not place.exists()
    found = [] if missing else listing.find(_existing(place))
    rows = listing.ordered([summary.read(path) for path in found], sort, reverse=reverse)
    document = {"folder": str(place), "runs": [listing.document(row) for row in rows]}
    console.result(_table(rows, place) if rows else _nothing(place), document, json)


def _existing(folder: Path) -> Path:
    """The folder. Raises DdpmError where it is none, with the command that may have been meant."""
    if not folder.exists() and (near := near_names(str(folder), _OTHERS)):
        raise DdpmError(f"{folder}: no such folder; did you mean ddpm runs {near[0]}?")
    return folder


def _nothing(folder: Path) -> str:
    return f"There are no runs in {folder}{'' if folder.name else '/'}; ddpm train makes one."


def _table(rows: Sequence[RunSummary], folder: Path) -> str:
    """The table, and a line for each run of which something cannot be read."""
    now = datetime.now(UTC)
    names = [_name(row.path, folder) for row in rows]
    columns = [
        Column("RUN", names, cut="start"),
        Column("STATE", [_state(row) for row in rows], styles=[_style(row) for row in rows]),
        Column("SINCE", [_age(row.since, now) for row in rows], needed=6),
        Column("DATA", [_last(row.data) for row in rows], needed=4, cut="start"),
        Column("PRESET", [row.preset for row in rows], needed=3),
        Column("IMAGES", [_images(row) for row in rows], right=True),
        Column("USED", [_percent(row.used) for row in rows], right=True, needed=8),
        Column("LOSS", [_number(row.loss) for row in rows], right=True, needed=7),
        Column("HELD OUT", [_number(row.held_out) for row in rows], right=True, needed=2),
        Column("BEST", [_score(row) for row in rows], needed=9),
        Column("SIZE", [in_words(row.bytes) for row in rows], right=True, needed=5),
        Column(
            "PREVIEW",
            [_preview(row) for row in rows],
            needed=1,
            links=[row.preview.absolute().as_uri() if row.preview else "" for row in rows],
        ),
    ]
    problems = [
        f"{name}: {row.problem}" for name, row in zip(names, rows, strict=True) if row.problem
    ]
    return "\n".join([tables.table(columns), *([""] if problems else []), *problems])


def _name(path: Path, folder: Path) -> str:
    """A run as it lies in the folder that is listed."""
    try:
        return str(path.relative_to(folder)) if path != folder else str(path)
    except ValueError:
        return str(path)


def _state(row: RunSummary) -> str:
    """The state, which is not known of a run whose files cannot be read."""
    return "damaged" if row.problem and row.state != "running" else row.state


def _style(row: RunSummary) -> str:
    return _COLOURS.get(row.state, "") if not row.problem else "red"


def _age(since: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit of which it is two or more."""
    if since is None:
        return ""
    seconds = max(0.0, (now - since).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _last(data: str) -> str:
    """The data set's name, or the last two folders of its path."""
    return "/".join(Path(data).parts[-2:]) if "/" in data else data


def _images(row: RunSummary) -> str:
    seen = quantities.count(row.images)
    return f"{seen}/{quantities.count(row.total)}" if row.total else seen


def _percent(used: float | None) -> str:
    """Rounded down, so that 100 % are all of it."""
    return "" if used is None else f"{int(100 * used)} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value < 1000 else f"{value:.3g}"


def _score(row: RunSummary) -> str:
    return "" if row.score is None else f"{row.score.label} {row.score.value:.4g}"


def _preview(row: RunSummary) -> str:
    return "" if row.preview is None else str(row.preview.relative_to(row.path))
