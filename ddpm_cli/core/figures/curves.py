"""Curves of several runs over each other: losses by images seen and by time, and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.axes import logarithmic, named, of_images
from ddpm_cli.core.figures.plots import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ((86_400 * 2, 86_400, "days"), (7200, 3600, "hours"), (120, 60, "minutes"))


class RunCurves(NamedTuple):
    """What is drawn of one run."""

    name: str
    rows: Sequence[dict[str, Any]]  # of metrics.jsonl
    scores: Sequence[dict[str, Any]] = ()  # of scores.jsonl, of one label


@canvas.defaults()
def curves(path: Path, runs: Sequence[RunCurves], label: str, note: str = "") -> None:
    """Draw the losses of runs, and their scores where there are any, a colour for each run.

    label: of the losses; note: what is said of them below the title.
    """
    scored = any(run.scores for run in runs)
    panels = 3 if scored else 2
    figure = canvas.Figure(figsize=(4.6 * panels, 4.6), layout="constrained")
    by_images, by_time, *others = figure.subplots(1, panels)
    colours = canvas.matplotlib.colormaps["tab10"].colors
    longest = max((_last(run.rows, "seconds") for run in runs), default=0.0)
    seconds, unit = next(((s, u) for least, s, u in _UNITS if longest >= least), (1, "seconds"))
    for run, colour in zip(runs, _cycled(colours, len(runs)), strict=True):
        _losses(by_images, run, "images", 1, colour)
        _losses(by_time, run, "seconds", seconds, colour)
        for axes in others:
            points = [(row["images"], row["value"]) for row in run.scores]
            if points:
                axes.plot(*np.array(points, dtype=float).T, "o-", color=colour, label=run.name)
    by_images.set(title="loss by images seen")
    named(by_images, label)
    by_time.set(xlabel=f"{unit} of training", title="loss by time")
    of_images(by_images)
    for axes in (by_images, by_time):
        if axes.lines:
            logarithmic(axes)
    for axes in others:
        of_images(axes)
        labels = dict.fromkeys(str(row["label"]) for run in runs for row in run.scores)
        axes.set(ylabel=", ".join(labels), title="score (lower is better)")
        axes.set_ylim(bottom=0)
    for axes in (by_images, by_time, *others):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = by_images.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
    if note:
        figure.supxlabel(note, fontsize=9, color="tab:red")
    write_figure(path, figure)


def _losses(axes: Axes, run: RunCurves, by: str, unit: float, colour: Any) -> None:
    """The smoothed loss as a line, the losses as a faint one, those held out as dots."""
    styles: dict[str, dict[str, Any]] = {
        "loss": {"alpha": 0.2, "lw": 0.8},
        "loss_smooth": {"lw": 1.6},
        "loss_holdout": {"lw": 0.8, "ls": ":", "marker": "o", "ms": 4},
    }
    names = {"loss_smooth": run.name, "loss_holdout": f"{run.name}, held out"}
    for column, style in styles.items():
        pairs = [(row.get(by), row.get(column)) for row in run.rows]
        points = [(x / unit, y) for x, y in pairs if x is not None and y is not None]
        if points:
            alone: dict[str, Any] = {"marker": "o"} if len(points) == 1 else {}
            x, y = np.array(points, dtype=float).T
            axes.plot(x, y, color=colour, label=names.get(column), **(style | alone))


def _last(rows: Sequence[dict[str, Any]], column: str) -> float:
    return max((row.get(column) or 0.0 for row in rows), default=0.0)


def _cycled(colours: Sequence[Any], count: int) -> list[Any]:
    return [colours[i % len(colours)] for i in range(count)]
