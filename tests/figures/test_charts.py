"""Charts as SVG: their coordinates are the values, their colours are variables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ddpm_cli.core.figures import charts
from ddpm_cli.core.figures.charts import Chart, Curve

X = np.linspace(100, 20_000, 40)


def points(drawing: charts.Drawing, name: str) -> np.ndarray:
    """The points of a curve in the units of the SVG, (N, 2)."""
    group = next(g for g in ElementTree.fromstring(drawing.svg).iter() if g.get("id") == name)
    path = next(part for part in group.iter() if part.tag.endswith("path"))
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), dtype=float)


@pytest.mark.parametrize("log", [True, False])
def test_coordinates_are_the_values(log: bool) -> None:
    y = np.exp(-X / 5000) + 0.01
    drawing = charts.draw(Chart("loss", "Loss", "loss", (Curve("a", X, y),), log=log))
    left, top, right, bottom = drawing.scale["box"]
    (x0, x1), (y0, y1) = drawing.scale["x"], drawing.scale["y"]
    across, down = points(drawing, "loss-0").T
    assert drawing.scale["log"] is log
    np.testing.assert_allclose(x0 + (x1 - x0) * (across - left) / (right - left), X, atol=5)
    share = (bottom - down) / (bottom - top)
    read = y0 * (y1 / y0) ** share if log else y0 + (y1 - y0) * share
    np.testing.assert_allclose(read, y, rtol=2e-3, atol=1e-4)


def test_gaps_are_left_out() -> None:
    y = np.where(np.arange(40) % 10 == 5, np.nan, 1.0 + X)
    drawing = charts.draw(Chart("norm", "Norm", "norm", (Curve("a", X, y),)))
    assert len(points(drawing, "norm-0")) == 36


def test_colours_are_variables_and_ids_are_of_the_chart() -> None:
    curves = tuple(Curve(f"$<{i}>", X, X + i, i) for i in range(charts.CURVES))
    drawn = [charts.draw(Chart(key, "T", "y", curves)).svg for key in ("one", "other")]
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn[0])
    for i in range(charts.CURVES):
        assert f"var(--c{i})" in drawn[0]
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in drawn]
    assert not set(ids[0]) & set(ids[1])
    assert "<style" not in drawn[0] and "http://www.w3.org/2000/svg" not in drawn[0][:300]


def test_averaged_curves_have_the_means() -> None:
    x, y = np.arange(300.0), np.arange(300.0) ** 2
    y[:2], y[299] = np.nan, np.nan
    few_x, few_y = charts.averaged(x, y, 100)
    np.testing.assert_allclose(few_x, x.reshape(100, 3).mean(1))
    np.testing.assert_allclose(few_y, np.nanmean(y.reshape(100, 3), axis=1))
    assert len(charts.averaged(x[:50], y[:50], 100)[1]) == 50


def test_thinned_curves_keep_their_ends_and_peaks() -> None:
    x, y = np.arange(100_000.0), np.sin(np.arange(100_000.0) / 9000)
    y[[777, 54_321]] = 30, -30
    y[60_000:70_000] = np.nan
    few_x, few_y = charts.thinned(x, y)
    assert len(few_x) == len(few_y) <= 600
    assert few_x[few_y == 30] == 777 and few_x[few_y == -30] == 54_321
    assert np.isnan(few_y).any() and (np.diff(few_x) > 0).all()
    np.testing.assert_array_equal(charts.thinned(x[:600], y[:600])[1], y[:600])
