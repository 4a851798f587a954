"""The axes of curves: images seen, and losses over decades."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_cli.core.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 40  # characters of a line of an axis' name: more are cut by a small figure
_DECADES = 300.0  # the ratio from which ticks are powers of ten alone


def of_images(axes: Axes) -> None:
    """The x axis as 500, 20k, 1.5M."""
    axes.set_xlabel("images seen")
    axes.xaxis.set_major_formatter(canvas.matplotlib.ticker.EngFormatter(sep=""))


def named(axes: Axes, name: str, **style: Any) -> None:
    """The y axis with a name, in lines that fit beside it."""
    axes.set_ylabel(textwrap.fill(name, _LONGEST), **style)


def logarithmic(axes: Axes) -> bool:
    """The y axis of the curves that are drawn: 0.01, 0.02, 0.05, 0.1, and not 10^-1.

    Returns False, and leaves the axis linear, where no value is positive.
    """
    ticker = canvas.matplotlib.ticker
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return False
    axes.set_yscale("log", nonpositive="mask")
    low, high = float(values.min()), float(values.max())
    ratio = high / low
    if ratio < 1.001:
        axes.set_ylim(low / 1.5, high * 1.5)
        ratio = 2.25
    few: Any = ticker.LogLocator(subs=(1.0,) if ratio > _DECADES else (1.0, 2.0, 5.0), numticks=8)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5) if ratio < 5 else few)
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    return True
