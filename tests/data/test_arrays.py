"""Images in .npy and .npz files: the same pixels as a folder of PNGs, and one line for the rest."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.readers.arrays import ArrayFileSource
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError

RGB = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 0, 2, 1])
ASIS = Transform(3)


def folder(root: Path) -> Path:
    for i, (image, label) in enumerate(zip(RGB, LABELS, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{i}.png")
    return root


def opened(path: Path) -> ArrayFileSource:
    source = open_source(str(path), training=True)
    assert isinstance(source, ArrayFileSource)
    return source


@pytest.mark.parametrize("size", [None, (8, 8)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_what_a_folder_of_png_gives(tmp_path: Path, save, size) -> None:
    save(tmp_path / "a.npz", arr_0=RGB, arr_1=LABELS)
    ours, theirs = opened(tmp_path / "a.npz"), open_source(str(folder(tmp_path / "png")))
    assert ours.classes == theirs.classes == ("0", "1", "2")
    assert (ours.image_size, ours.native_size) == (theirs.image_size, theirs.native_size)
    by_number = np.argsort(LABELS, kind="stable")
    assert ours.labels[by_number].tolist() == theirs.labels.tolist()
    for theirs_index, our_index in enumerate(by_number):
        transform = Transform(3, size)
        expected = theirs.image(theirs_index, transform)
        assert np.array_equal(ours.image(int(our_index), transform), expected)


@pytest.mark.parametrize(
    "array",
    [
        RGB,
        RGB.transpose(0, 3, 1, 2).copy(),
        np.asfortranarray(RGB),
        (RGB / 255).astype(np.float32),
        RGB / 127.5 - 1,
        (RGB / 255).astype(">f8"),
    ],
    ids=["last", "first", "fortran", "unit", "signed", "big-endian"],
)
def test_axes_and_ranges(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "images.npy", array)
    np.save(tmp_path / "labels.npy", LABELS)
    source = opened(tmp_path / "images.npy")
    for index in range(6):
        assert np.array_equal(source.image(index, ASIS), RGB[index].transpose(2, 0, 1))
    assert source.labels.tolist() == LABELS.tolist()
    assert ("taken as" in " ".join(source.notices)) == (array.dtype != np.uint8)


def test_one_hot_labels_and_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=RGB, labels=np.eye(3)[LABELS])
    assert opened(tmp_path / "a.npz").labels.tolist() == LABELS.tolist()
    names = np.array(["cat", "ant", "bee"])[LABELS]
    np.savez(tmp_path / "b.npz", images=RGB, labels=names)
    source = opened(tmp_path / "b.npz")
    assert [source.classes[label] for label in source.labels] == names.tolist()


def test_parts_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=RGB, y_train=LABELS, x_test=RGB[:2], y_test=LABELS[:2])
    assert len(opened(tmp_path / "a.npz")) == 6
    assert len(opened(tmp_path / "a.npz" / "x_test")) == 2
    with pytest.raises(DdpmError, match=r"x_train, x_test; name the one"):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([None] * 2), "objects are pickled"),
        (np.zeros((2, 8, 8, 2), np.uint8), r"uint8 \(2, 8, 8, 2\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 9, 3), np.uint8), "as one image is"),
        (np.zeros((2, 5, 4, 6), np.uint8), "one of the axes"),
        (np.zeros((2, 8, 8), np.uint16), "uint16"),
        (np.zeros((0, 8, 8), np.uint8), r"\(0, 8, 8\)"),
        (np.full((2, 8, 8), 200.0), "from 200 to 200"),
        (np.full((2, 8, 8), np.nan), "from nan to nan"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DdpmError, match=message):
        open_source(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("claimed", ["(9, 12, 10, 3)", "(5, 12, 10, 3)", "(9**99, 12, 10, 3)"])
def test_headers_that_lie_are_refused(tmp_path: Path, claimed: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, RGB)
    damaged = buffer.getvalue().replace(b"(6, 12, 10, 3)", claimed.encode(), 1)
    (tmp_path / "a.npy").write_bytes(damaged)
    with pytest.raises(DdpmError, match="header"):
        open_source(str(tmp_path / "a.npy"))
