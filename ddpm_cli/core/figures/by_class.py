"""Scores of classes and groups as bars, and a score by the number of images with its line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.bars import bars, wrapped
from ddpm_cli.core.figures.plots import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 60  # bars: of more classes, the worst
_LINE = 28  # characters of a name's line
_ROW = 0.2  # inches of a line of a name


class Bar(NamedTuple):
    """One class or group."""

    name: str
    value: float | None  # None: not computable
    n_real: int
    n_fake: int


class Extrapolation(NamedTuple):
    """A score of subsets of N fakes, and the line in 1/N through them."""

    sizes: Sequence[int]
    values: Sequence[float]
    intercept: float
    std: float


@canvas.defaults()
def class_scores(
    path: Path, label: str, classes: Sequence[Bar], line: Extrapolation | None, whole: float | None
) -> None:
    """Draw the classes, worst on top, and the line, whichever there is.

    label: of the score; whole: the score of all images, drawn as a line across the bars.
    """
    shown = classes[:_MOST]
    names = [wrapped(bar.name, _LINE) for bar in shown]
    rows = sum(name.count("\n") + 1.3 for name in names)
    panels = [bool(classes), line is not None]
    height = max(3.6, _ROW * rows + 1.3)
    figure = canvas.Figure(figsize=(6.4 * sum(panels), min(height, 100)), layout="constrained")
    axes: list[Any] = list(np.atleast_1d(figure.subplots(1, sum(panels))))
    if classes:
        _bars(axes[0], shown, names, label, whole)
        if more := len(classes) - len(shown):
            axes[0].set_title(f"the worst {len(shown)} classes; {more:,} more are in --json")
    if line is not None:
        _line(axes[-1], line, label)
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    write_figure(path, figure)


def _bars(
    axes: Axes, entries: Sequence[Bar], names: Sequence[str], label: str, whole: float | None
) -> None:
    """A bar for each class with its value and numbers of images."""
    texts = [
        f"{'not computable' if bar.value is None else f'{bar.value:.4g}'}  "
        f"({bar.n_real:,} real, {bar.n_fake:,} fake)"
        for bar in entries
    ]
    worst = "tab:blue" if entries[0].value is None else "tab:red"
    colours = [worst, *["tab:blue"] * (len(entries) - 1)]
    values = [bar.value or 0.0 for bar in entries]
    bars(axes, names, values, texts, colours=colours, reach=whole or 0.0, space=1.75)
    if whole is not None:
        axes.axvline(whole, color="black", ls="--", lw=1, label=f"all images: {whole:.4g}")
        axes.legend(loc="lower right", fontsize=8)
    axes.set_xlabel(f"{label} (lower is better)")


def _line(axes: Axes, line: Extrapolation, label: str) -> None:
    """The subsets' scores against 1/N, and the line to 0 with its error."""
    x, y = 1 / np.array(line.sizes, float), np.array(line.values, float)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    ends = np.array([0.0, 1.04 * x.max()])
    axes.plot(ends, line.intercept + slope * ends, color="tab:blue", lw=1, alpha=0.6)
    axes.plot(x, y, "o", color="tab:blue", ms=5)
    axes.errorbar(
        [0], [line.intercept], yerr=[line.std], fmt="D", color="tab:red", ms=6, capsize=4,
        label=f"infinitely many: {line.intercept:.4g} +/- {line.std:.2g}", clip_on=False, zorder=3,
    )  # fmt: skip
    ticks = _spread(line.sizes)
    axes.set_xticks([0, *(1 / n for n in ticks)], ["infinite", *(f"{n:,}" for n in ticks)])
    axes.tick_params(axis="x", labelsize=8)
    axes.set(xlabel="number of fakes N, on a scale of 1/N", ylabel=f"{label} of N fakes")
    axes.set_xlim(left=-0.03 * x.max())
    axes.legend(loc="upper left", fontsize=8)


def _spread(sizes: Sequence[int]) -> list[int]:
    """Those sizes whose places on the scale of 1/N are far enough apart to be named."""
    chosen: list[int] = []
    gap = 0.13 / min(sizes)
    for n in sorted(sizes):
        place = 1 / n
        if place >= gap and all(math.fabs(place - 1 / other) >= gap for other in chosen):
            chosen.append(n)
    return chosen
