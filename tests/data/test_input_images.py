"""Images that a user hands to a model: their names, order, pairs and sizes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm_cli.core.data import files
from ddpm_cli.core.data.input_images import InputImages, output_names
from ddpm_cli.core.data.placement import Placement
from ddpm_cli.core.errors import DdpmError


def write(path: str, *size: int, seed: int = 0) -> np.ndarray:
    """A PNG of noise; its pixels (C, H, W)."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    files.write_png(Path(path), pixels)
    return pixels


def test_a_file_a_folder_and_an_archive() -> None:
    grey = write("photos/b/one.png", 1, 5, 7)
    red = write("photos/a.png", 3, 4, 4)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in ("b/one.png", "a.png"):
            archive.write(f"photos/{name}", name)
    for path in ("photos", "photos.zip"):
        images = InputImages.open(path, "--init")
        assert (images.names, images.single) == (("a.png", "b/one.png"), False)
        assert [images.size_of(i) for i in range(2)] == [(4, 4), (5, 7)]
        np.testing.assert_array_equal(images.image(0, 3), red)
        np.testing.assert_array_equal(images.image(1, 3), grey.repeat(3, axis=0))
    one = InputImages.open("photos/b/one.png", "--init")
    assert (one.names, one.single, one.size_of(0)) == (("one.png",), True, (5, 7))
    np.testing.assert_array_equal(one.image(0, 1), grey)


def test_arrays() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    one = InputImages.open(image, "init")
    assert (len(one), one.single) == (1, True)
    np.testing.assert_array_equal(one.image(0, 3), image.transpose(2, 0, 1))
    several = InputImages.open([image, image[:1]], "init")
    assert [several.size_of(i) for i in range(2)] == [(2, 4), (1, 4)]
    assert len(InputImages.open(np.zeros((5, 6, 6, 3), np.uint8), "init")) == 5


def test_the_digest_is_of_names_and_pixels() -> None:
    write("one/a.png", 3, 4, 4)
    write("other/a.png", 3, 4, 4)
    digest = InputImages.open("one", "--init").digest(3)
    assert InputImages.open("other", "--init").digest(3) == digest
    write("other/a.png", 3, 4, 4, seed=1)
    assert InputImages.open("other", "--init").digest(3) != digest


@pytest.mark.parametrize(
    "path, words",
    [
        ("none.png", ["none.png: no such file"]),
        ("nowhere", ["nowhere", "no such folder"]),
        ("empty", ["empty"]),
        ("text.png", ["text.png", "not an image"]),
    ],
)
def test_what_cannot_be_read_is_named(path: str, words: list[str]) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("hello")
    with pytest.raises(DdpmError) as raised:
        InputImages.open(path, "--init").image(0, 3)
    assert all(word in str(raised.value) for word in words), raised.value


def test_names_of_results() -> None:
    names = ("a.png", "a.jpg", "b/c.webp", "grid.png", "d.tar.png", "a-2.png", "no suffix")
    named = (
        "a.png",
        "a.jpg.png",
        "b/c.png",
        "grid.png.png",
        "d.tar.png",
        "a-2.png",
        "no suffix.png",
    )
    assert output_names(names, 7) == named
    more = output_names(names, 16)
    assert more[:7] == named
    assert more[7:10] == ("a.png-2.png", "a-2.png_-2.png", "b/c-2.png") or len(set(more)) == 16
    assert len(set(more)) == 16
    assert output_names(names, 3) == named[:3]
    assert output_names(("A.png", "a.png", "B/x.png", "b/X.png"), 4) == (
        "A.png", "a.png.png", "B/x.png", "b/X.png.png",
    )  # fmt: skip
    assert output_names(("Grid.png",), 1) == ("Grid.png.png",)
    assert output_names(("../../etc/x.png", "/root/y.png"), 2) == ("etc/x.png", "root/y.png")


def test_pairs_by_name() -> None:
    for name in ("a.png", "sub/b.png"):
        write(f"images/{name}", 1, 4, 4)
    for name in ("0.png", "a.png", "sub/b.png"):
        write(f"masks/{name}", 1, 4, 4)
    images, masks = InputImages.open("images", ""), InputImages.open("masks", "")
    assert images.paired(masks, "--mask") == (1, 2)
    assert images.paired(InputImages.open("masks/0.png", ""), "--mask") == (0, 0)
    with pytest.raises(DdpmError, match=r"--mask images has no image of .* 1 of 3 images: 0\.png"):
        masks.paired(images, "--mask")
    write("masks/a.bmp.png", 1, 4, 4)
    Path("masks/a.bmp.png").rename("masks/a.bmp")  # of its content's type
    with pytest.raises(DdpmError, match=r"--mask masks: several .*: a\.bmp, a\.png; give"):
        images.paired(InputImages.open("masks", ""), "--mask")


@pytest.mark.parametrize(
    "own, canvas, inner",
    [
        ((8, 8), (8, 8), (8, 8)),
        ((16, 8), (8, 8), (8, 4)),
        ((3, 30), (8, 12), (1, 12)),
        ((4, 4), (8, 12), (8, 8)),
        ((1, 500), (8, 8), (1, 8)),
    ],
)
def test_an_image_lies_whole_and_centred(
    own: tuple[int, int], canvas: tuple[int, int], inner: tuple[int, int]
) -> None:
    place = Placement(own, canvas)
    assert place.inner == inner
    (above, below), (left, right) = place.margins
    assert 0 <= below - above <= 1 and 0 <= right - left <= 1
    image = np.full((3, *own), 77, np.uint8)
    assert place.onto(image).shape == (3, *canvas)
    assert (place.onto(image) == 77).all()
    np.testing.assert_array_equal(place.back(place.onto(image)), image)


def test_nothing_is_resampled_at_the_canvas_own_size() -> None:
    image = write("a.png", 3, 8, 6)
    place = Placement((8, 6), (8, 6))
    np.testing.assert_array_equal(place.onto(image), image)
    np.testing.assert_array_equal(place.back(image), image)
