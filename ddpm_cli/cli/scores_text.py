"""Scores of several fakes as a table, best first, with bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddpm_cli.cli import class_tables, console, tables
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.errors import listed
from ddpm_cli.core.metrics import comparing
from ddpm_cli.core.metrics.comparing import Comparison, Result
from ddpm_cli.core.metrics.scores.score import digits

_SERIES = 100  # the column of images seen is left out last where a terminal is narrow
_BAR = 12  # columns of the longest bar
_FARTHEST = 10  # times the best score: the longest bar, at most
_NAMES = ("weights", "weights_sha256")  # of `sampled`: the fakes' names say as much
_FLOOR = "(real against real)"


def text(comparison: Comparison) -> str:
    """The table, the protocol line, what cannot be compared, and the classes of each fake."""
    lines = [tables.table(_columns(comparison)), f"[{comparison.line()}]"]
    if said := _of_unlike_n(comparison):
        lines.append(said)
    for result in comparison.results:
        if classes := class_tables.text(result.document):
            label = result.document.get("label") or "FID"
            lines += [f"\n{result.name}: {label} by class", classes]
    return "\n".join(lines)


def _of_unlike_n(comparison: Comparison) -> str:
    """Which scores do not compare where the numbers of fakes differ; "": they do."""
    depending = comparison.of_n(depending=True)
    if len(comparison.counts) == 1 or not depending:
        return ""
    counts = listed([str(n or "unknown") for n in comparison.counts], 10)
    verb = "depends" if len(depending) == 1 else "depend"
    apart = ", so each n is sorted by itself" if comparison.by.of_n else ""
    others = listed(comparison.of_n(depending=False))
    compare = f"; to compare them there is {others}" if others else ""
    return (
        f"Not comparable with each other: n of the fakes is {counts}, and "
        f"{listed(depending)} {verb} on it{apart}{compare}"
    )


def _columns(comparison: Comparison) -> list[Column]:
    """Names, what differs in the sampling, and the scores."""
    rows = list(_rows(comparison))
    several = len(comparison.counts) > 1
    columns = [
        Column("FAKE", [_name(row) for row in rows], cut="start"),
        Column("N", [f"{_n(row)}" for row in rows] if several else [""] * len(rows), right=True),
    ]
    for key in comparison.differing():
        if key not in _NAMES:
            cells = ["" if isinstance(row, tuple) else _cell(row.sampled.get(key)) for row in rows]
            needed = _SERIES if key == "images_seen" else 2
            columns.append(Column(key.replace("_", " ").upper(), cells, right=True, needed=needed))
    by = comparison.by
    columns.append(_scores(by, comparison.label, rows))
    columns.append(Column("", _bars(comparison, rows), needed=1))
    for later, column in enumerate(comparing.COLUMNS, 1):
        if column is not by:
            title = comparison.title(column)
            title = title.upper() if title.islower() else title
            columns.append(_scores(column, title, rows, needed=_SERIES - later))
    return columns


Row = Result | tuple[float, int]  # or the floor, and of how many images


def _rows(comparison: Comparison) -> list[Row]:
    """The results of each n with their floor, in its place."""
    rows: list[Row] = []
    for group in comparison.groups:
        floor = comparison.floor(group)
        with_floor: list[Row] = list(group)
        if floor is not None:
            below = sum((r.value(comparison.by.key) or 0.0) < floor[0] for r in group)
            with_floor.insert(below, floor)
        rows += with_floor
    return rows


def _name(row: Row) -> str:
    return _FLOOR if isinstance(row, tuple) else row.name


def _n(row: Row) -> int | str:
    return row[1] if isinstance(row, tuple) else row.n or "unknown"


def _cell(value: Any) -> str:
    """A setting's value in short."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return tables.shortened(text, 24, "end")


def _scores(column: comparing.Column, title: str, rows: Sequence[Row], needed: int = 0) -> Column:
    cells = []
    for row in rows:
        if isinstance(row, tuple):
            cells.append(digits(row[0]) if column.key == "fid" else "")
            continue
        value, spread = row.value(column.key), row.value(column.spread)
        said = "" if value is None else _number(value, column)
        cells.append(said + ("" if spread is None else f" +/- {_number(spread, column)}"))
    return Column(title, cells, right=True, needed=needed)


def _number(value: float, column: comparing.Column) -> str:
    return digits(value) if column.key == "fid" else f"{value:.{column.digits}f}"


def _bars(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """A bar for each; one far beyond the best score ends in an arrow, or the others had none."""
    values = [row[0] if isinstance(row, tuple) else row.value(comparison.by.key) for row in rows]
    known = [max(value or 0.0, 0.0) for value in values]
    scores = [value for row, value in zip(rows, known, strict=True) if isinstance(row, Result)]
    least = min((value for value in scores if value > 0), default=0.0)
    longest = max(known) if comparison.by.higher else min(max(known), _FARTHEST * least)
    return [
        console.block(min(value, longest), longest, _BAR) + ("→" if value > longest else "")
        for value in known
    ]
