"""grid.png: which images are where, and under which names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from ddpm_cli.core.generation.pictures.arrangement import DEFAULT, Arrangement, GridLayout
from tests.support.cli import Result

Run = Callable[..., Result]
QUICK = ("--steps", 2, "--out", "out")
SIX = ["circle", "square", "triangle", "star", "cross", "ring"]


class Images:
    """As much of a request and a model as the names of images need."""

    def __init__(self, names: list[str], classes: list[str]) -> None:
        self.count = len(names)
        self._labels = [classes.index(name) for name in names]
        self.config = self.network = self
        self.classes, self.multi_label = classes, False

    def label_and_prompt(self, index: int) -> tuple[int, None]:
        return self._labels[index], None


def arranged(names: list[str], layout: GridLayout = DEFAULT) -> Arrangement:
    images = Images(names, SIX + [str(number) for number in range(200)])
    return layout.arrange(images, images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "columns", "titles"),
    [
        (SIX * 3, 6, SIX),
        (SIX[:4], 4, SIX[:4]),
        (SIX[:2] * 50, 10, SIX[:2] * 5),  # several times side by side, to be near square
        ((SIX[1:] + SIX[:1]) * 2, 6, SIX[1:] + SIX[:1]),  # by seeds that begin elsewhere
    ],
)
def test_classes_in_turn_are_columns(names: list[str], columns: int, titles: list[str]) -> None:
    found = arranged(names)
    assert (found.columns, list(found.words.columns)) == (columns, titles)
    assert found.places == tuple(range(len(names)))
    assert not found.words.captions and not found.words.rows


def test_classes_one_after_another_are_rows() -> None:
    found = arranged(["star"] * 8 + ["ring"] * 8 + ["cross"] * 5)
    assert (found.columns, list(found.words.rows)) == (8, ["star", "ring", "cross"])


def test_one_class_is_the_heading_and_many_are_captions() -> None:
    assert arranged(["star"] * 9).words.heading == "star"
    many = [str(number) for number in range(200)]
    found = arranged(many)
    assert (found.columns, list(found.words.captions)) == (10, many[:100])
    assert len(found.places) == 100


def test_rows_and_columns_are_those_asked_for() -> None:
    found = arranged(SIX * 30, GridLayout.parse("3x4", None))
    assert (len(found.places), found.columns) == (12, 4)
    assert list(found.words.captions) == (SIX * 2)
    found = arranged(SIX * 30, GridLayout.parse("15x12", None))
    assert (len(found.places), list(found.words.columns)) == (180, SIX * 2)
    few = arranged(SIX[:3], GridLayout.parse("8x8", None))
    assert few.places == (0, 1, 2)


def test_a_class_a_row_in_the_models_order() -> None:
    names = ["ring", "star", "ring", "circle", "star", "ring"]
    found = arranged(names, GridLayout.parse(None, "class"))
    assert list(found.words.rows) == ["circle", "star", "ring"]
    assert found.places == (3, None, None, 1, 4, None, 0, 2, 5)
    found = arranged(names, GridLayout.parse("2x2", "class"))  # the first two names, and images
    assert (list(found.words.rows), found.places) == (["star", "ring"], (1, 4, 0, 2))
    found = arranged(SIX * 100, GridLayout.parse(None, "class"))
    assert (len(found.places), found.columns) == (6 * 16, 16)  # 100 at most


REFUSED = [
    (("--grid", "8"), "rows x columns such as 8x8"),
    (("--grid", "0x3"), "from 1 to 100"),
    (("--grid", "1x999"), "from 1 to 100"),
    (("--grid-by", "colour"), "choose one of class, prompt"),
    (("--grid-by", "prompt"), "trained without captions"),
    (("--grid", "2x2", "--format", "npz"), "grid.png of a folder"),
    (("--grid-by", "class", "--out", "x.zip"), "grid.png of a folder"),
]


def test_what_a_grid_cannot_be(ddpm: Run, tiny_run: Callable[..., Path]) -> None:
    tiny_run("runs/tiny", "--images", 8)
    for options, words in REFUSED:
        refused = ddpm("sample", "-n", 2, "--steps", 2, *options)
        assert (refused.code, words in refused.err) == (2, True), (options, refused.err)
        assert not list(Path("runs/tiny").glob("generated*/0*.png"))


def test_the_grid_shows_the_files_and_can_be_drawn_anew(
    ddpm: Run, tiny_run: Callable[..., Path]
) -> None:
    tiny_run("runs/tiny", "--images", 8)
    assert ddpm("sample", "-n", 5, *QUICK, "--grid", "2x2").code == 0
    files = [imageio.imread(f"out/00000{i}.png") for i in range(5)]
    side, gap = files[0].shape[0], 4
    grid = imageio.imread("out/grid.png")
    factor = (grid.shape[1] - 3 * gap) // (2 * side)
    assert grid.shape[1] >= 768
    top = grid.shape[0] - 2 * (side * factor + gap)  # below the titles
    for i in range(4):
        y, x = top + i // 2 * (side * factor + gap), gap + i % 2 * (side * factor + gap)
        tile = grid[y : y + side * factor, x : x + side * factor]
        assert np.array_equal(tile, files[i].repeat(factor, 0).repeat(factor, 1))
    again = ddpm("sample", "-n", 5, *QUICK, "--grid-by", "class", "--json")
    assert (again.code, again.json()["drawn"]) == (0, 0)
    assert imageio.imread("out/grid.png").shape != grid.shape
