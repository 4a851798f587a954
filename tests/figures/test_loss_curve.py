"""The loss curve's axis names the loss that was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.figures import canvas, plots
from tests.support.cli import Result

pytestmark = pytest.mark.usefixtures("loss_curve")


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ((), "mean squared error of the network's output"),
        (("--loss", "l1"), "mean absolute error of the network's output"),
        (("--loss", "huber"), "Huber loss of the network's output"),
        (("--loss", "vlb"), "variational bound (bits/dim)"),
        (("--weighting", "min-snr"),
         "mean squared error of the network's output, min-snr weighting"),
        (("--learned-variance",), "mean squared error of the network's output + 0.001 L_vlb"),
        (("--loss", "l1", "--learned-variance", "--vlb-weight", 0.5),
         "mean absolute error of the network's output + 0.5 L_vlb"),
    ],
)  # fmt: skip
def test_the_axis_names_the_loss(
    train_tiny: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    label: str,
) -> None:
    labels = []

    def write(path: Path, figure: Any) -> None:
        labels.append(figure.axes[0].get_ylabel().replace("\n", " "))  # in lines

    monkeypatch.setattr(plots, "write_figure", write)
    result = train_tiny(*options, "--images", 8, "--preview", 0, "--out", "run")
    assert result.code == 0, result.err
    assert set(labels) == {label}


def test_a_single_row_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings log once: a line without a marker would be an empty plot."""
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda _, figure: figures.append(figure))
    row = {"images": 64, "loss": 0.5, "loss_smooth": 0.6, "loss_holdout": None}
    for rows in ([row], [row, row | {"images": 128}]):
        plots.loss_curve(Path("loss.png"), rows, "loss")
    markers = [[line.get_marker() for line in figure.axes[0].lines] for figure in figures]
    assert markers == [["o", "o"], ["None", "None"]]


def test_losses_by_noise_level_are_smoothed_and_thinner(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda _, figure: figures.append(figure))
    random = np.random.default_rng(0)
    rows: list[dict[str, float | None]] = [
        {"images": 8.0 * n, "loss": 0.5, "loss_smooth": 0.5, "loss_holdout": None}
        | {f"loss_q{q}": random.uniform() for q in range(4)}
        for n in range(1, 101)
    ]
    rows[3]["loss_q0"] = None  # no image of the row had so little noise
    plots.loss_curve(Path("loss.png"), rows, "loss")
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert list(lines)[-4:] == ["least noise", "less noise", "more noise", "most noise"]
    assert len(lines["least noise"].get_xdata()) == 99
    values = [row["loss_q3"] for row in rows]
    y = lines["most noise"].get_ydata()
    assert [y[0], y[5], y[99]] == pytest.approx(
        [values[0], np.mean(values[:6]), np.mean(values[90:])]
    )
    assert lines["most noise"].get_linewidth() < lines["smoothed"].get_linewidth()


def test_equal_scores_are_within_the_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda _, figure: figures.append(figure))
    rows = [{"images": n, "value": 0.5, "label": "fid8"} for n in (32, 64)]
    plots.score_curve(Path("scores.png"), rows)
    assert figures[0].axes[0].get_ylim() == pytest.approx((0, 0.525))


def test_the_longest_name_of_an_axis_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "write_figure", lambda _, figure: drawn.append(figure))
    rows = [{"images": 8.0 * i, "loss": 1 / i, "loss_smooth": 1 / i} for i in range(1, 5)]
    name = "mean absolute error of the network's output, min-snr weighting + 0.001 L_vlb"
    plots.loss_curve(Path("loss.png"), rows, name)
    (figure,) = drawn
    canvas.FigureCanvasAgg(figure).draw()
    box, page = figure.axes[0].yaxis.label.get_window_extent(), figure.bbox
    assert page.y0 <= box.y0 and box.y1 <= page.y1 and page.x0 <= box.x0
