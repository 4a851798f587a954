"""Plots, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.axes import logarithmic, named
from ddpm_cli.core.runtime.files import write_bytes
from ddpm_cli.core.runtime.run_directory import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_LOSSES = {
    "l2": "mean squared error of the network's output",
    "l1": "mean absolute error of the network's output",
    "huber": "Huber loss of the network's output",
    "vlb": "variational bound (bits/dim)",
    "consistency": "difference of two outputs along the ODE",
}


NOISE_QUARTERS = (  # colour and name: light to dark, and of other hues than the loss
    ("#d9b800", "least noise"),
    ("#6fae3c", "less noise"),
    ("#a04a9c", "more noise"),
    ("#3d1a55", "most noise"),
)
_BY_NOISE = {f"loss_q{quarter}": look for quarter, look in enumerate(NOISE_QUARTERS)}  # columns
_SMOOTHED = 50  # rows, at most, that a point of these curves is a mean of


def loss_label(config: RunConfig) -> str:
    """What the losses of a run's metrics are, in words."""
    objective, label = config.objective, _LOSSES[config.objective.loss]
    if objective.weighting not in ("plain", "learned"):  # which is reported as plain
        label += f", {objective.weighting} weighting"
    if config.network.learned_variance and objective.loss != "vlb":
        label += f" + {objective.bound_weight:g} L_vlb"
    return label


def common_loss_label(configs: Sequence[RunConfig]) -> str:
    """What the losses of several runs are: "loss" where they are of different kinds."""
    labels = set(map(loss_label, configs))
    return labels.pop() if len(labels) == 1 else "loss"


@canvas.defaults()
def loss_curve(path: Path, rows: Sequence[Row], label: str) -> None:
    """Draw the training loss, and the validation loss where there is one, by images seen.

    Beside them, thinner, the losses by quarter of the noise levels.
    """
    figure = canvas.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()

    def curve(
        column: str, style: str, colour: str, label: str, alpha: float = 1.0, width: float = 1.8
    ) -> None:
        points = [(row["images"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            x, y = np.array(points, dtype=float).T
            if column in _BY_NOISE:
                y = _smoothed(y)
            look: dict[str, Any] = {"color": colour, "alpha": alpha, "lw": width, "zorder": width}
            if len(points) == 1:
                look["marker"] = "o"  # a line of one point is invisible
            axes.plot(x, y, style, label=label, **look)

    curve("loss", "-", "tab:blue", "loss", alpha=0.25)
    curve("loss_smooth", "-", "tab:blue", "smoothed")
    curve("loss_holdout", "o-", "tab:orange", "held out")
    for column, (colour, name) in _BY_NOISE.items():
        curve(column, "-", colour, name, width=0.9)
    axes.set_xlabel("images seen")
    named(axes, label)
    if axes.lines:
        logarithmic(axes)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _finish(axes)
    write_figure(path, figure)


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value's mean with those before it, of a tenth of all but at most _SMOOTHED."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - min(_SMOOTHED, max(1, len(values) // 10)))
    means: NDArray[np.float64] = (sums[end] - sums[start]) / (end - start)
    return means


@canvas.defaults()
def score_curve(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw scores of a training, all of one label, by images seen; the best one is marked."""
    figure = canvas.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    images, values = ([row[name] for row in rows] for name in ("images", "value"))
    axes.plot(images, values, "o-", color="tab:green", label=rows[0]["label"])
    best = int(np.argmin(values))
    axes.plot(images[best], values[best], "*", color="tab:red", markersize=14, label="best")
    axes.set(xlabel="images seen", ylabel=rows[0]["label"])
    axes.set_ylim(0, 1.05 * max(values) if max(values) > 0 else None)  # equal scores have no margin
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _finish(axes)
    write_figure(path, figure)


class NoisyImage(NamedTuple):
    """An image x_t of the forward process."""

    schedule: str
    timestep: int
    signal: float  # sqrt(abar_t), the coefficient of x_0 in x_t
    image: NDArray[np.uint8]  # (C, H, W)

    @property
    def caption(self) -> str:
        """The signal coefficient in percent."""
        percent = 100 * self.signal
        return f"{percent:.0f} % left" if percent >= 10 else f"{percent:.1g} % left"


@canvas.defaults()
def schedule_curves(path: Path, tables: Sequence[dict[str, Any]]) -> None:
    """Draw abar, beta, the signal-to-noise ratio, and the noise levels that a sampler visits."""
    figure = canvas.Figure(figsize=(11, 7), layout="constrained")
    (signal, ratio), (noise, visits) = figure.subplots(2, 2)
    for table in tables:
        name, t = table["schedule"], np.arange(table["timesteps"])
        (line,) = signal.plot(t, table["alpha_bar"], label=name)
        ratio.plot(t, table["snr"], color=line.get_color(), label=name)
        noise.plot(t, table["beta"], color=line.get_color(), label=name)
        levels = np.exp(np.interp(table["steps"], t, np.log(table["sigma"])))
        visits.plot(
            np.arange(1, len(levels) + 1), levels, ".-", lw=0.8, color=line.get_color(), label=name
        )
    signal.set(title="signal left", xlabel="timestep", ylabel="abar")
    ratio.set(title="signal-to-noise ratio", xlabel="timestep", ylabel="abar / (1 - abar)")
    noise.set(title="noise added by a step", xlabel="timestep", ylabel="beta")
    steps = len(tables[0]["steps"])
    visits.set(
        title=f"noise levels that {steps} sampling steps visit",
        xlabel="step",
        ylabel="sigma",
    )
    for axes in (ratio, noise, visits):
        logarithmic(axes)
    for axes in (signal, ratio, noise, visits):
        _finish(axes)
    write_figure(path, figure)


@canvas.defaults()
def strip(path: Path, rows: Sequence[Sequence[NoisyImage]]) -> None:
    """Plot noisy images: a row per schedule, a column per timestep."""
    height, width = rows[0][0].image.shape[1:]
    figure = canvas.Figure(
        figsize=(1.25 * len(rows[0]) + 0.3, (1.18 * height / width + 0.2) * len(rows) + 0.2),
        layout="compressed",
    )
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, noisy_images in zip(grid, rows, strict=True):
        for axes, noisy in zip(row, noisy_images, strict=True):
            _show(axes, noisy)
            axes.set_xlabel(noisy.caption, fontsize=8, labelpad=2)
        row[0].set_ylabel(noisy_images[0].schedule, fontsize=11)
    for axes, noisy in zip(grid[0], rows[0], strict=True):
        axes.set_title(f"t = {noisy.timestep}", fontsize=9, pad=3)
    write_figure(path, figure)


@canvas.defaults()
def frames(rows: Sequence[Sequence[NoisyImage]]) -> list[NDArray[np.uint8]]:
    """Plot noisy images as an animation: a column per schedule, a frame (3, H, W) per timestep."""
    height, width = rows[0][0].image.shape[1:]
    size = (2.6 * len(rows), 2.6 * height / width + 0.5)
    figure = canvas.Figure(figsize=size, layout="constrained", dpi=100)
    agg = canvas.FigureCanvasAgg(figure)
    columns = figure.subplots(1, len(rows), squeeze=False)[0]
    artists = [_show(axes, row[0]) for axes, row in zip(columns, rows, strict=True)]
    result = []
    for noisy_images in zip(*rows, strict=True):
        for axes, artist, noisy in zip(columns, artists, noisy_images, strict=True):
            artist.set_data(noisy.image.transpose(1, 2, 0))
            axes.set_title(noisy.schedule, fontsize=11)
            axes.set_xlabel(f"t = {noisy.timestep}, {noisy.caption}", fontsize=9)
        agg.draw()
        figure.set_layout_engine("none")  # keep the first frame's layout
        pixels = np.asarray(agg.buffer_rgba(), np.uint8)[..., :3]
        result.append(pixels.transpose(2, 0, 1).copy())
    return result


def _show(axes: Axes, noisy: NoisyImage) -> AxesImage:
    artist = axes.imshow(noisy.image.transpose(1, 2, 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return artist


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    canvas.FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_bytes(path, content.getvalue(), durable=False)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
