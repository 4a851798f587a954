"""Horizontal bars with their names beside them and values behind them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def wrapped(name: str, width: int) -> str:
    """A name in lines of so many characters, which fit beside the bars."""
    return textwrap.fill(name, width, break_on_hyphens=False)


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    *,
    colours: Sequence[Any],
    errors: Sequence[float] = (),
    reach: float = 0.0,
    space: float = 1.17,
) -> None:
    """Draw a bar for each name, the first on top, with its text behind it.

    reach: a value that the axis includes, as of a line across the bars. space: how much longer
    than the longest bar the axis is, for the texts.
    """
    errors, rows = errors or [0.0] * len(values), range(len(values))
    shown = errors if any(errors) else None
    axes.barh(rows, values, xerr=shown, color=colours, height=0.7, capsize=2)
    ends = [value + error for value, error in zip(values, errors, strict=True)]
    longest = max(ends) or reach or 1.0
    for row, end, text in zip(rows, ends, texts, strict=True):
        axes.text(end + 0.015 * longest, row, text, va="center", fontsize=8,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    least = 1.1 * min(0.0, *values) if len(values) else 0.0  # KID may be below 0
    axes.set_xlim(least, max(space * longest, 1.05 * reach))
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(values) - 0.4, -0.6)
