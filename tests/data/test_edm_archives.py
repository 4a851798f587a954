"""Archives as the tools of StyleGAN and EDM write them, with images as .png or .npy."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data import files, loader
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
LABELS = [3, 0, 1, 3, 0, 1]
SMALL = Transform(3, (8, 10))


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()


def npy(array: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def channels_first(image: NDArray[np.uint8]) -> bytes:
    return npy(image.transpose(2, 0, 1).copy())


def members(suffix: str, encode: Callable[[Any], bytes], labels: Any) -> dict[str, bytes]:
    """In the order of dataset_tool.py: the images, a thousand a folder, and dataset.json."""
    names = [f"0000{i // 3}/img{i:08d}{suffix}" for i in range(len(IMAGES))]
    found = {name: encode(image) for name, image in zip(names, IMAGES, strict=True)}
    if isinstance(labels, list):
        labels = [[name, label] for name, label in zip(names, labels, strict=True)]
    return {**found, "dataset.json": json.dumps({"labels": labels}).encode()}


def zipped(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pixels(source: Source) -> NDArray[np.uint8]:
    return np.asarray(loader.prepare(source, SMALL, SILENT).pixels)


@pytest.mark.parametrize("packed", [zipped, tarred])
@pytest.mark.parametrize(
    ("suffix", "encode"), [(".png", png), (".npy", npy), (".npy", channels_first)]
)
def test_images_and_labels_of_edm(
    tmp_path: Path, packed: Callable[..., Path], suffix: str, encode: Callable[[Any], bytes]
) -> None:
    path = tmp_path / ("x.zip" if packed is zipped else "x.tar")
    source = open_source(str(packed(path, members(suffix, encode, LABELS))))
    assert np.array_equal(pixels(source), IMAGES.transpose(0, 3, 1, 2))
    assert (source.classes, source.labels.tolist()) == (("0", "1", "3"), [2, 0, 1, 2, 0, 1])
    assert (source.image_size, source.native_channels) == ((8, 10), 3)


def test_vectors_are_refused_and_null_is_no_label(tmp_path: Path) -> None:
    vectors = members(".npy", npy, [[0.0, 1.0]] * len(IMAGES))
    source = open_source(str(zipped(tmp_path / "vectors.zip", vectors)))
    assert source.classes == ()
    assert any("is a vector; a class is a whole number" in line for line in source.notices)
    source = open_source(str(zipped(tmp_path / "null.zip", members(".npy", npy, None))))
    assert (source.classes, source.notices) == ((), ())


@pytest.mark.parametrize(
    ("shape", "channels", "size"),
    [
        ((8, 10), 1, (8, 10)),
        ((1, 8, 10), 1, (8, 10)),
        ((8, 10, 1), 1, (8, 10)),
        ((4, 8, 10), 3, (8, 10)),  # with transparency
        ((3, 5, 3), 3, (5, 3)),  # either axis may be the channels: EDM's are first
    ],
)
def test_axes_of_an_array(shape: tuple[int, ...], channels: int, size: tuple[int, int]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert files.probe(npy(array), "a.npy") == (size, channels)
    if channels == 1:
        image = files.decode(npy(array), "a.npy", Transform(1))
        assert np.array_equal(image, array.reshape(1, *size))
    ordered = npy(np.asfortranarray(array))
    assert np.array_equal(files.decode(ordered, "a.npy"), files.decode(npy(array), "a.npy"))


def lying(shape: str) -> bytes:
    """An array whose header says another shape, in as many characters."""
    return npy(np.zeros((8, 10, 3), np.uint8)).replace(b"(8, 10, 3)", shape.encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lying("(8, 99, 3)"), "its header says uint8 .* 2,376 bytes; there are 240.*cut short"),
        (lying("(8, 1, 3) "), "there are 240: more than one array"),
        (lying("(9**99, 3)"), "its header is damaged"),
        (lying("(8,-10, 3)"), "an array of numbers is needed"),
        (npy(np.zeros((8, 10, 3), np.uint8))[:200], "cut short"),
        (b"", "is not a NumPy array but an empty file"),
        (png(IMAGES[0]), "is not a NumPy array but a PNG image"),
        (npy(np.array([{}], object), allow_pickle=True), "objects are pickled"),
        (npy(np.zeros((8, 16, 16), np.float32)), "an image is uint8; latents are no images"),
        (npy(np.zeros((8, 8), np.int64)), "is int64 .* an image is uint8"),
        (npy(np.zeros((2, 8, 8), np.uint8)), "has an axis of 1, 3 or 4 channels"),
        (npy(np.zeros((4, 3, 8, 8), np.uint8)), "has an axis of 1, 3 or 4 channels"),
        (npy(np.zeros((0, 8), np.uint8)), "has an axis of 1, 3 or 4 channels"),
        (npy(np.uint8(3)), "has an axis of 1, 3 or 4 channels"),
    ],
)
def test_an_array_that_is_no_image_is_named(data: bytes, words: str) -> None:
    for read in (files.probe, files.traits, files.decode):
        with pytest.raises(UnreadableError, match=f"a.npy.*{words}"):
            read(data, "a.npy")


def test_an_array_of_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # of which Pillow allows twice as many
    files.probe(npy(np.zeros((8, 10, 3), np.uint8)), "a.npy")
    with pytest.raises(UnreadableError, match=r"88 pixels are more than .*--max-pixels 88"):
        files.probe(npy(np.zeros((8, 11), np.uint8)), "a.npy")


def test_arrays_beside_images_and_in_folders_are_no_images(tmp_path: Path) -> None:
    mixed = {"a.png": png(IMAGES[0]), "features.npy": npy(np.zeros((5, 5)))}
    listing = open_image_files(zipped(tmp_path / "x.zip", mixed))
    assert listing.names == ("a.png",)
    assert any("1 .npy" in notice for notice in listing.notices)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.npy").write_bytes(npy(IMAGES[0]))
    with pytest.raises(DdpmError, match=r"no images in .*it holds 1 \.npy"):
        open_image_files(folder)
