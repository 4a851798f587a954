"""Plots, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.rundir import Row


def loss_curve(path: Path, rows: Sequence[Row]) -> None:
    """Draw the training loss, smoothed, and the validation loss where there is one, by images seen."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    images = [row["images"] for row in rows]
    axes.plot(images, [row["loss"] for row in rows], color="tab:blue", alpha=0.25, label="loss")
    axes.plot(images, [row["loss_smooth"] for row in rows], color="tab:blue", label="smoothed")
    held_out = [(row["images"], row["loss_holdout"]) for row in rows if row["loss_holdout"] is not None]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="tab:orange", label="held out")
    axes.set(xlabel="images seen", ylabel="mean squared error of F", yscale="log")
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
