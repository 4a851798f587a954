"""Figures of several fakes' scores: what is drawn, and that its words are whole and apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import by_class, scores
from ddpm_cli.core.figures.scores import Point
from ddpm_cli.core.metrics.comparing import Comparison, Result
from ddpm_cli.core.metrics.drawing import draw
from tests.support.results import BASE, sampled

LONG = "experiments/a folder with a rather long name/guidance 2, ddim, 50 steps, seed 0/samples"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures, in place of their files."""
    figures: list[Any] = []
    for module in (scores, by_class):
        monkeypatch.setattr(module, "write_figure", lambda _, figure: figures.append(figure))
    return figures


def words_are_whole_and_apart(figure: Any) -> None:
    figure.canvas.draw()
    page = figure.bbox
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        ticks = [text for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
        labels = [axes.xaxis.label, axes.yaxis.label, *ticks, *axes.texts]
        boxes = [text.get_window_extent() for text in labels if text.get_text()]
        for box in boxes:
            assert page.x0 <= box.x0 <= box.x1 <= page.x1
            assert page.y0 <= box.y0 <= box.y1 <= page.y1
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)


def test_bars_have_whole_names_values_errors_and_the_floor(drawn: list[Any]) -> None:
    near = [(0.80, 0.71), (0.80, 0.712), (0.801, 0.71)]
    names = [LONG, "b", "c"]
    points = [
        Point(name, float(value), 0.1, precision, recall)
        for value, name, (precision, recall) in zip((1, 2, 3), names, near, strict=True)
    ]
    scores.scores(Path("x.png"), points, "FID (lower is better)", "", [0.5])
    (figure,) = drawn
    words_are_whole_and_apart(figure)
    bars, scatter = figure.axes
    ticks = [text.get_text() for text in bars.get_yticklabels()]
    assert ticks[0].replace("\n", " ") == f"1. {LONG}"
    assert ticks[1:] == ["2. b", "3. c"]
    assert [bar.get_width() for bar in bars.patches] == [1, 2, 3]
    assert [text.get_text() for text in bars.texts] == ["1", "2", "3"]
    floor = bars.lines[-1]
    assert set(floor.get_xdata()) == {0.5}
    assert [text.get_text() for text in scatter.texts] == ["1", "2", "3"]
    places = [tuple(np.concatenate(line.get_data())) for line in scatter.lines]
    assert places == [(recall, precision) for precision, recall in near]
    colours = [line.get_color() for line in scatter.lines]
    assert colours == [bar.get_facecolor()[:3] for bar in bars.patches]


def test_a_line_for_each_run_by_images_seen(drawn: list[Any]) -> None:
    results = []
    for run, offset in (("runs/small", 2.0), ("runs/large", 1.0)):
        for images in (1000, 64000, 500):
            weights = f"{run}/snapshots/{images:012d}.pt"
            result = sampled(f"{run}-{images}", images_seen=images, weights=weights)
            result.document.update(fid=offset + 1000 / images, precision=0.5, recall=images / 1e5)
            results.append(result)
    results[0].document.update(fid_floor=0.25, fid_floor_n=10000)
    assert draw(Path("x.png"), Comparison(results)) == [Path("x.png")]
    (figure,) = drawn
    words_are_whole_and_apart(figure)
    curves, scatter = figure.axes
    assert curves.get_xlabel() == "images seen"
    assert curves.get_ylabel() == "FID (lower is better)"
    series = {box.get_label(): box.lines[0] for box in curves.containers}
    assert list(series["runs/small"].get_xdata()) == [500, 1000, 64000]
    assert list(series["runs/small"].get_ydata()) == [4, 3, 2 + 1 / 64]
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["runs/large", "runs/small", "real against real"]
    assert sorted({text.get_text() for text in scatter.texts}) == ["1k", "500", "64k"]


def test_scores_of_other_sizes_by_orders_are_on_a_logarithmic_axis(drawn: list[Any]) -> None:
    points = [Point(str(x), 300.0 / x**2, 0.1, x=x, series="run") for x in (1.0, 4.0, 16.0)]
    scores.scores(Path("x.png"), points, "FID", "guidance")
    scores.scores(Path("x.png"), points[:2], "FID", "guidance")
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]
    assert not drawn[0].legends, "one line needs no name"


def test_fakes_of_unlike_n_say_theirs_and_all_floors_are_seen(drawn: list[Any]) -> None:
    several = {"a": (1.0, 100, 0.5), "b": (2.0, 100, 0.5), "c": (3.0, 50, 9.0)}
    results = [
        Result(name, BASE | {"fid": fid, "n_fake": n, "fid_floor": floor, "fid_floor_n": n})
        for name, (fid, n, floor) in several.items()
    ]
    draw(Path("x.png"), Comparison(results))
    (bars,) = drawn[0].axes
    names = [text.get_text() for text in bars.get_yticklabels()]
    assert names == ["1. a (n = 100)", "2. b (n = 100)", "3. c (n = 50)"]
    assert bars.get_xlim()[1] > 9


@pytest.mark.parametrize("count", [1, 2, 30])
def test_any_number_of_bars(drawn: list[Any], count: int) -> None:
    rng = np.random.default_rng(0)
    points = [
        Point(f"{LONG} {i}", value, value / 10, *rng.uniform(0.4, 0.9, 2))
        for i, value in enumerate(np.sort(rng.gamma(3, 3, count)))
    ]
    scores.scores(Path("x.png"), points, "FID", "")
    words_are_whole_and_apart(drawn[0])


def test_scores_by_class_are_beside_those_of_the_fakes(drawn: list[Any], tmp_path: Path) -> None:
    classes = [{"class": name, "fid": 3.0, "n_real": 5, "n_fake": 4} for name in ("cat", "dog")]
    results = [
        Result(name, BASE | {"fid": f, "classes": classes}) for name, f in (("a", 2), ("b", 1))
    ]
    path = tmp_path / "x.png"
    written = draw(path, Comparison(results))
    assert [file.name for file in written] == ["x.png", "x-1.png", "x-2.png"]
    assert draw(path, Comparison(results[:1])) == [path]
    assert [len(figure.axes[0].patches) for figure in drawn] == [2, 2, 2, 2]
    nothing = Result("a", BASE | {"fid": None})
    with pytest.raises(DdpmError, match="none of these scores is drawn"):
        draw(path, Comparison([nothing]))
