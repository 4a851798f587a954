"""The figure of scores by class and of FID-infinity: what is drawn, whatever there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.figures.by_class import Bar, Extrapolation, class_scores

BARS = [Bar("cat", 5.0, 10, 9), Bar("$dog$", 2.0, 10, 9), Bar("cow", None, 0, 3)]
LINE = Extrapolation((5, 10, 50), (4.0, 3.0, 2.2), 2.0, 0.1)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert np.asarray(image).std() > 5  # something is drawn
        return image.size


@pytest.mark.parametrize(
    ("bars", "line", "panels"),
    [(BARS, LINE, 2), (BARS, None, 1), ([], LINE, 1), (BARS[2:], None, 1)],
)
def test_a_panel_for_each(
    tmp_path: Path, bars: list[Bar], line: Extrapolation | None, panels: int
) -> None:
    class_scores(tmp_path / "a.png", "FID", bars, line, 1.5)
    assert size_of(tmp_path / "a.png")[0] == 768 * panels


def test_of_many_classes_the_worst_are_drawn(tmp_path: Path) -> None:
    heights = []
    for count in (60, 1000):
        bars = [Bar(f"class {i}", 1000.0 - i, 50, 50) for i in range(count)]
        class_scores(tmp_path / f"{count}.png", "FID", bars, None, None)
        heights.append(size_of(tmp_path / f"{count}.png")[1])
    assert heights[0] == heights[1]
