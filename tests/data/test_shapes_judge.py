"""The judge of shapes passes true figures and fails what trainings get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ddpm_cli.core.data.shapes import Figure, Shapes, render
from tests.benchmarks.shapes_judge import fit

SQUARE = Figure("square", "red", "white", "large", 0.03, -0.05, 0.83)


def drawn(content: Figure) -> NDArray[np.uint8]:
    return render(content, (32, 32)).transpose(1, 2, 0)


def test_true_figures_pass() -> None:
    source = Shapes()
    for index in range(12):
        content = source.describe(index)
        found = fit(drawn(content))
        assert found.passes(content.figure), (content, found)


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(gaussian_filter(image, (1.2, 1.2, 0)))


def hollow(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    changed = image.copy()
    changed[12:20, 12:20] = image[0, 0]
    return changed


def recoloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(image == image[0, 0], image, [130, 20, 160]).astype(np.uint8)


def wobbling(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every second group of rows is shifted by a pixel."""
    rows = np.arange(32) // 3 % 2 == 1
    changed = image.copy()
    changed[rows] = np.roll(image, 1, axis=1)[rows]
    return changed


@pytest.mark.parametrize("spoil", [blurred, hollow, recoloured, wobbling])
def test_spoilt_figures_fail(spoil) -> None:  # type: ignore[no-untyped-def]
    assert not fit(spoil(drawn(SQUARE))).passes("square")


def test_another_class_fails() -> None:
    found = fit(drawn(SQUARE))
    assert found.passes("square") and not found.passes("circle")
