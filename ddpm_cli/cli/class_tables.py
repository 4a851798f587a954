"""Scores by class and by group of classes as tables, of a document of `ddpm fid --json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddpm_cli.cli import tables
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.config.choices import score_name
from ddpm_cli.core.errors import listed
from ddpm_cli.core.metrics.scores.score import digits
from ddpm_cli.core.runtime.json_lines import number

_SHOWN = 50  # classes in the table: of more, the worst; --json has all of them


def text(document: dict[str, Any]) -> str:
    """The table of the classes, worst first, and that of the groups; "" without classes."""
    classes, groups = (
        [entry for entry in document.get(key) or [] if isinstance(entry, dict)]
        for key in ("classes", "groups")
    )
    if not classes:
        return ""
    features = document.get("features")
    fid, kid, score = (score_name(name, features) for name in ("FID", "KID", "Inception Score"))
    shown = classes[:_SHOWN]
    names = [str(entry.get("class")) for entry in shown]
    kids = [_number(entry.get("kid"), ".6f") for entry in shown]
    lines = [_table("CLASS", names, shown, fid, Column(kid, kids, right=True))]
    if more := len(classes) - len(shown):
        lines.append(f"and {more:,} more classes, which --json has")
    if groups:
        names = [f"{g.get('group')} ({listed(_texts(g.get('classes')))})" for g in groups]
        last = Column(score, list(map(_score, groups)), right=True)
        lines.append(_table("GROUP", names, groups, fid, last))
    return "\n".join(lines)


def _table(
    title: str, names: Sequence[str], entries: Sequence[dict[str, Any]], fid: str, last: Column
) -> str:
    counts = (
        Column(side.upper(), [_number(e.get(f"n_{side}"), "") for e in entries], right=True)
        for side in ("real", "fake")
    )
    distances = Column(fid, [_distance(e.get("fid")) for e in entries], right=True)
    return tables.table([Column(title, names, cut="end"), *counts, distances, last])


def _texts(names: Any) -> list[str]:
    return list(map(str, names)) if isinstance(names, list | tuple) else []


def _number(value: Any, form: str) -> str:
    known = number(value)
    return "-" if known is None else format(known, form)


def _distance(value: Any) -> str:
    known = number(value)
    return "-" if known is None else digits(known)


def _score(group: dict[str, Any]) -> str:
    """The Inception Score of a group, with its splits, on which it depends."""
    mean, std = _number(group.get("inception_score"), ".4f"), group.get("inception_score_std")
    if mean == "-":
        return mean
    splits = number(group.get("splits"))  # None: of an earlier version
    return f"{mean} +/- {_number(std, '.4f')}" + (f" ({splits} splits)" if splits else "")
