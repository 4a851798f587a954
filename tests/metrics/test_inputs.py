"""Inputs -> uint8 batches: folders, archives, arrays, and damaged ones."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs import images, opening
from ddpm_cli.core.metrics.inputs.images import FileImages
from ddpm_cli.core.metrics.inputs.opening import DatasetImages, open_input
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import Silent

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return array


def opened(path: Path, skip_bad: bool = False) -> FileImages | DatasetImages:
    image_set = open_input(path, skip_bad)
    assert isinstance(image_set, FileImages | DatasetImages)
    return image_set


def everything(image_set: FileImages | DatasetImages) -> list[Tensor]:
    return [image for batch in image_set.batches(slice(None)) for image in batch]


class Recorder(Silent):
    """Records messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


def test_a_folder_of_mixed_sizes_in_the_order_of_its_names(tmp_path: Path) -> None:
    sizes = [(8, 8), (8, 8), (5, 9), (8, 8), (5, 9), (5, 9)]
    expected = [save(tmp_path / f"{i}.png", noise(*size, 3)) for i, size in enumerate(sizes)]
    image_set = opened(tmp_path)
    batches = list(image_set.batches(slice(None)))
    assert [tuple(batch.shape) for batch in batches] == [
        (2, 3, 8, 8),
        (1, 3, 5, 9),
        (1, 3, 8, 8),
        (2, 3, 5, 9),
    ]
    assert all(batch.dtype == torch.uint8 for batch in batches)
    for got, want in zip(everything(image_set), expected, strict=True):
        assert np.array_equal(got.permute(1, 2, 0).numpy(), want)
    assert len(image_set) == image_set.counts.count == 6
    assert image_set.counts.summary() == "png 9x5 to 8x8"


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(7):
        save(tmp_path / f"{i}.png", noise(4, 4, 3))
    monkeypatch.setattr(images, "MAX_BATCH", 3)
    assert [len(batch) for batch in opened(tmp_path).batches(slice(None))] == [3, 3, 1]
    monkeypatch.setattr(images, "MAX_BATCH_BYTES", 2 * 4 * 4 * 3)
    assert [len(batch) for batch in opened(tmp_path).batches(slice(None))] == [2, 2, 2, 1]


def test_a_zip_gives_the_same_images(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "in" / f"{i}.png", noise(4, 6, 3))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in (tmp_path / "in").iterdir():
            archive.write(path, path.name)
    folder, archived = everything(opened(tmp_path / "in")), everything(opened(tmp_path / "in.zip"))
    assert all(torch.equal(a, b) for a, b in zip(folder, archived, strict=True))


def test_modes_are_converted_and_counted(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.png", noise(6, 6))
    alpha = noise(6, 6, 4)
    alpha[..., 3] = np.where(np.arange(6) < 3, 0, 255)
    save(tmp_path / "alpha.png", alpha)
    deep = (np.arange(36).reshape(6, 6) * 1872).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(noise(6, 6, 3)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(noise(4, 9, 3)).save(tmp_path / "turned.jpg", exif=exif)
    frames = [Image.fromarray(np.full((6, 6, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise(6, 6, 3)).quantize(16).save(tmp_path / "palette.png")

    image_set, names = opened(tmp_path), sorted(path.name for path in tmp_path.glob("*.*"))
    got = dict(zip(names, everything(image_set), strict=True))
    assert all(image.shape == (3, 6, 6) for name, image in got.items() if name != "turned.jpg")
    assert np.array_equal(got["grey.png"].numpy(), np.stack([grey] * 3))
    assert (got["alpha.png"][:, :, :3] == 255).all(), "transparent pixels are white"
    assert np.array_equal(got["alpha.png"][:, :, 3:].permute(1, 2, 0).numpy(), alpha[:, 3:, :3])
    assert np.array_equal(got["deep.png"][0].numpy(), np.round(deep / 257))
    assert got["turned.jpg"].shape == (3, 9, 4)
    assert (got["moving.gif"] == 10).all(), "the first frame"
    assert image_set.counts.traits == {
        "grey": 2,
        "transparent": 1,
        "16-bit": 1,
        "CMYK": 1,
        "turned": 1,
        "of several frames": 1,
    }
    recorder = Recorder()
    image_set.counts.report(recorder, "fake/", grey=False)
    assert recorder.messages[0] == "fake/: 2 of 7 are grey (replicated to RGB)"
    assert len(recorder.messages) == 6
    image_set.counts.report(recorder, "fake/", grey=True)
    assert "fake/: 5 of 7 are colour (converted to grey)" in recorder.messages[6:]


def truncated(suffix: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, suffix)
    return file.getvalue()[: file.tell() // 2]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_truncated_files_are_named_and_can_be_left_out(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "a.png", noise(64, 64, 3))
    (tmp_path / f"b.{kind}").write_bytes(truncated(kind))
    save(tmp_path / "c.png", noise(64, 64, 3))
    with pytest.raises(DdpmError, match=rf"b\.{kind}: .*; --skip-bad leaves"):
        everything(opened(tmp_path))
    image_set = opened(tmp_path, skip_bad=True)
    assert len(everything(image_set)) == image_set.counts.count == 2
    recorder = Recorder()
    image_set.counts.report(recorder, "fake", grey=False)
    assert recorder.messages[0].startswith(f"fake: left out 1 unreadable files: b.{kind}")


def test_a_text_named_png_and_a_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(DdpmError, match=r"a\.png: not an image"):
        everything(opened(tmp_path))
    header = io.BytesIO()
    Image.fromarray(noise(1, 1)).save(header, "png")
    ihdr = (50_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    data = bytearray(header.getvalue())
    data[16:29], data[29:33] = ihdr, zlib.crc32(b"IHDR" + ihdr).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DdpmError, match=r"a\.png: .*more than the limit"):
        everything(opened(tmp_path))


def test_reading_twice_counts_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(4, 4))
    image_set = opened(tmp_path)
    assert len(everything(image_set)) == len(everything(image_set)) == image_set.counts.count == 1


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays_are_read_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int | None
) -> None:
    array = noise(10, 4, 6, *([channels] if channels else []))
    np.savez_compressed(tmp_path / "s.npz", arr_0=array, arr_1=np.arange(10))
    monkeypatch.setattr(opening, "MAX_BATCH", 4)
    image_set = opened(tmp_path / "s.npz")
    batches = list(image_set.batches(slice(None)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    got = torch.cat(batches).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(got, array.reshape(10, 4, 6, channels or 1))
    assert len(image_set) == image_set.counts.count == 10
    assert image_set.counts.summary() == "npz 6x4"
    assert image_set.counts.traits == ({} if channels == 3 else {"grey": 10})


@pytest.mark.parametrize(
    ("array", "description"),
    [
        (np.zeros((2, 4, 4, 3), np.uint16), r"uint16 \(2, 4, 4, 3\); images are uint8"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\); images are uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"uint8 \(0, 4, 4, 3\); images are uint8"),
        (np.array([None] * 2), r"object \(2,\): objects are pickled"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, description: str) -> None:
    np.savez(tmp_path / "s.npz", arr_0=array)
    with pytest.raises(DdpmError, match=rf"arr_0\.npy is {description}"):
        open_input(tmp_path / "s.npz")


def test_other_npz_files_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(DdpmError, match="holds weights; images have arr_0"):
        open_input(path)
    path.write_bytes(b"no zip")
    with pytest.raises(DdpmError, match=r"not an \.npz"):
        open_input(path)
    array = noise(40, 64, 64, 3)
    np.savez(path, arr_0=array)
    at = path.read_bytes().index(array.tobytes())
    damaged = bytearray(path.read_bytes())
    damaged[at + array.nbytes - 1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DdpmError, match="is damaged: Bad CRC"):
        list(opened(path).batches(slice(None)))


def test_truncated_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    array = io.BytesIO()
    np.save(array, noise(2, 4, 4, 3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", array.getvalue()[:-1])
    with pytest.raises(DdpmError, match="it is cut short, copy it again"):
        list(opened(path).batches(slice(None)))


def test_statistics_files_are_recognised(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert isinstance(open_input(tmp_path / "s.npz"), Statistics)


def test_missing_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DdpmError, match="no such folder"):
        open_input(tmp_path / "nowhere")
    with pytest.raises(DdpmError, match="no such folder"):
        open_input(tmp_path / "nowhere.npz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.npz").touch()
    with pytest.raises(DdpmError, match=r"no images in .*it holds 1 \.npz"):
        open_input(tmp_path / "in")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("arrays", ["images", "statistics"])
def test_flipped_bytes_and_truncation_are_one_line(
    tmp_path: Path, save: Callable[..., None], arrays: str
) -> None:
    """zip, zlib and numpy's header reader raise a dozen kinds of errors on damage."""
    path = tmp_path / "s.npz"
    if arrays == "images":
        save(path, arr_0=noise(20, 8, 8, 3) // 8)
    else:
        save(path, mu=np.zeros(20), sigma=np.eye(20))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, 2 * len(whole))])
        try:
            image_set = open_input(path)
            if not isinstance(image_set, Statistics):
                list(image_set.batches(slice(None)))
        except DdpmError:
            refused += 1
    assert refused > 100
