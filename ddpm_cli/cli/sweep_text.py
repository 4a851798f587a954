"""What a sweep found as a table, best first, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_cli.cli import tables
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.runtime.quantities import duration

if TYPE_CHECKING:
    from ddpm_cli.core.sweep.forecast import Cost
    from ddpm_cli.core.sweep.results import Results


def text(
    results: Results,
    cost: Cost,
    picture: Path | None,
    default: Path | str | None,
    replaced: str | None = None,
) -> str:
    """The table, the best, what it took, and the files; default: or why none is written.

    replaced: the default before, in words.
    """
    search = results.sweep
    lines = [_table(results), "", f"Best: {results.told()}"]
    if cost.calls:
        off = search.seconds / cost.seconds - 1
        lines.append(
            f"Cost: {search.calls:,} network calls, {duration(search.seconds)}, where "
            f"{cost.calls:,} and {duration(cost.seconds)} were forecast ({off:+.0%})"
        )
    if picture is not None:
        lines.append(f"Picture: {picture}")
    if isinstance(default, Path):
        lines.append(f"Default: {default}, from which ddpm sample and the others now start")
        if replaced is not None:
            lines.append(f"Replaced: {replaced}")
    elif default is not None:
        lines.append(f"Default: {default}")
    return "\n".join(lines)


def _table(results: Results) -> str:
    from ddpm_cli.core.metrics.scores.score import digits

    ranked, ties, best = results.ranked, results.ties, results.chosen
    titles = {"sigma_rel": "SIGMA REL"}
    columns = [
        Column(
            titles.get(axis.name, axis.name.upper()),
            [_shown(point.values[axis.name]) for point in ranked],
            right=not isinstance(axis.values[0], str),
        )
        for axis in results.sweep.axes
    ]
    marks = ["best" if p == best else "tie" if p in ties else "" for p in ranked]
    columns += [
        Column(results.sweep.scorer.label, [digits(point.value) for point in ranked], right=True),
        Column("+/-", [digits(p.std) if p.std else "" for p in ranked], right=True),
        Column("CALLS", [str(point.nfe) for point in ranked], right=True),
        Column("SECONDS", [f"{point.seconds:.1f}" for point in ranked], right=True, needed=1),
        Column("", marks),
    ]
    return tables.table(columns)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
