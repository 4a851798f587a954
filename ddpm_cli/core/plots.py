"""Plots, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.rundir import Row


def loss_curve(path: Path, rows: Sequence[Row]) -> None:
    """Draw the training loss, and the validation loss where there is one, by images seen."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()

    def curve(column: str, style: str, colour: str, label: str, alpha: float = 1.0) -> None:
        points = [(row["images"], row[column]) for row in rows if row[column] is not None]
        if points:
            x, y = np.array(points, dtype=float).T
            axes.plot(x, y, style, color=colour, label=label, alpha=alpha)

    curve("loss", "-", "tab:blue", "loss", alpha=0.25)
    curve("loss_smooth", "-", "tab:blue", "smoothed")
    curve("loss_holdout", "o-", "tab:orange", "held out")
    axes.set(xlabel="images seen", ylabel="mean squared error of F", yscale="log")
    _finish(axes)
    write_figure(path, figure)


def score_curve(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw scores of a training, all of one label, by images seen; the best one is marked."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    images, values = ([row[name] for row in rows] for name in ("images", "value"))
    axes.plot(images, values, "o-", color="tab:green", label=rows[0]["label"])
    best = int(np.argmin(values))
    axes.plot(images[best], values[best], "*", color="tab:red", markersize=14, label="best")
    axes.set(xlabel="images seen", ylabel=rows[0]["label"], yscale="log")
    _finish(axes)
    write_figure(path, figure)


def schedule_curves(path: Path, table: dict[str, Any]) -> None:
    """Draw what is left of the signal, the betas and the signal-to-noise ratio over time."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    label = f"{table['schedule']}, T = {table['timesteps']}"
    left.plot(table["alpha_bar"], label=label)
    visited = table["steps"]
    left.plot(visited, [table["alpha_bar"][t] for t in visited], ".", label=f"{len(visited)} steps")
    left.set(title="signal left", xlabel="timestep", ylabel="abar")
    middle.plot(table["beta"], label=label)
    middle.set(title="noise added a step", xlabel="timestep", ylabel="beta", yscale="log")
    right.plot(table["snr"], label=label)
    right.set(
        title="signal-to-noise ratio", xlabel="timestep", ylabel="abar / (1 - abar)", yscale="log"
    )
    for axes in (left, middle, right):
        _finish(axes)
    write_figure(path, figure)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
