"""Sheets of images: enlarged without blur, wide enough, with words where there are none before."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words

GAP = 4


def noise(count: int, channels: int = 3, side: int = 32) -> np.ndarray:
    shape = (count, channels, side, side)
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def factor_of(sheet: np.ndarray, columns: int, side: int) -> int:
    """The factor of enlargement, from the width."""
    factor, rest = divmod(sheet.shape[2] - GAP * (columns + 1), columns * side)
    assert rest == 0
    return factor


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (16, 4), (16, 6), (100, 10)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_become_squares_in_their_places(count: int, columns: int, channels: int) -> None:
    images = noise(count, channels)
    sheet = sheets.sheet(images, columns)
    factor = factor_of(sheet, columns, 32)
    assert sheet.shape[2] >= 768 > (factor - 1) * 32 * columns + GAP * (columns + 1)
    for i, image in enumerate(images):
        y, x = (GAP + position * (32 * factor + GAP) for position in divmod(i, columns))
        tile = sheet[:, y : y + 32 * factor, x : x + 32 * factor]
        assert np.array_equal(tile, image.repeat(factor, 1).repeat(factor, 2))


def test_large_images_are_not_enlarged_nor_tall_sheets_without_end() -> None:
    assert sheets.sheet(noise(2, side=400)).shape == (3, 400 + 2 * GAP, 2 * 400 + 3 * GAP)
    tall = sheets.sheet(noise(100), 1)
    assert tall.shape == (3, 100 * (2 * 32 + GAP) + GAP, 2 * 32 + 2 * GAP)


WORDS = {
    "heading": Words("A heading"),
    "columns": Words(columns=["left", "right"]),
    "rows": Words(rows=["upper", "lower"]),
    "captions": Words(captions=["one", "two", "three", "four"]),
}


@pytest.mark.parametrize("place", WORDS)
@pytest.mark.parametrize("channels", [1, 4])
def test_words_are_beside_the_images_and_not_on_them(place: str, channels: int) -> None:
    images = np.full((4, channels, 32, 32), 255, np.uint8)
    dark = sheets.sheet(images, 2, WORDS[place])[0] < 128  # only words are dark
    plain = sheets.sheet(images, 2)[0]
    rows, columns = dark.any(axis=1).nonzero()[0], dark.any(axis=0).nonzero()[0]
    height, width = dark.shape
    assert len(rows), "no words"
    extra = height - plain.shape[0], width - plain.shape[1]
    if place == "rows":
        half = height // 2
        assert dark[:half].any() and dark[half:].any() and columns.max() < width - 768 + 2 * GAP
    elif place == "captions":
        assert dark[: height // 2].any() and dark[height - 30 :].any() and extra[0] >= 2 * 14
    else:
        assert rows.max() < extra[0]
        assert not dark[extra[0] :].any()
    if place == "columns":
        assert dark[:, : width // 2].any() and dark[:, width // 2 :].any()


def test_long_names_are_wrapped_and_cut_with_an_ellipsis_within_their_place() -> None:
    names = [
        "a small red circle on a blue ground " * 9,
        "antidisestablishmentarianism" * 4,
        "\udcff é",
    ]
    images = np.full((3, 3, 8, 8), 255, np.uint8)
    sheet = sheets.sheet(images, 3, Words(columns=names, captions=names, rows=names[:1]))[0]
    dark = sheet < 128
    assert dark.any()
    assert not dark[:, -GAP:].any()  # nothing is cut at the edge
    assert not dark[-2:].any() and not dark[:2].any()


def test_a_marked_image_has_a_frame_and_the_others_none() -> None:
    white = np.full((4, 3, 16, 16), 255, np.uint8)
    drawn = sheets.sheet(white, 2, marked=[3]).transpose(1, 2, 0)
    dark = (drawn == (214, 39, 40)).all(axis=2)  # red, seen beside black and white images
    height, width = dark.shape
    assert not dark[: height // 2 - GAP, :].any() and not dark[:, : width // 2 - GAP].any()
    assert dark[-1, -1] and dark[height // 2 + 1, width // 2 + 1]
