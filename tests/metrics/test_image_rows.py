"""Rows of features -> their images, read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, open_input
from ddpm_cli.core.metrics.inputs.rows import images_at, indices_at

ARRAY = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)


def files(folder: Path) -> Path:
    for number, image in enumerate(ARRAY):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def opened(path: Path | np.ndarray, skip_bad: bool = False) -> ImageSet:
    images = open_input(path, skip_bad)
    assert not hasattr(images, "covariance")
    return images  # type: ignore[return-value]


def drawn() -> GeneratedImages:
    images = torch.from_numpy(ARRAY).permute(0, 3, 1, 2)
    return GeneratedImages("run", 12, lambda indices: images[list(indices)].split(5), {})


@pytest.mark.parametrize("kind", ["folder", "npz", "array", "generated"])
def test_images_are_read_again_in_any_order(tmp_path: Path, kind: str) -> None:
    np.savez(tmp_path / "array.npz", ARRAY)
    images: ImageSet = {
        "folder": lambda: opened(files(tmp_path)),
        "npz": lambda: opened(tmp_path / "array.npz"),
        "array": lambda: opened(ARRAY),
        "generated": drawn,
    }[kind]()
    for _ in images.batches(slice(None)):
        pass
    found = images_at(images, [7, 2, 7, 11])
    expected = torch.from_numpy(ARRAY[[7, 2, 7, 11]]).permute(0, 3, 1, 2)
    assert torch.equal(torch.stack(found), expected)
    assert images.counts.count == 12
    assert images.name(7) == ("07.png" if kind == "folder" else "image 7")


def test_rows_skip_what_was_left_out(tmp_path: Path) -> None:
    files(tmp_path)
    for number in (0, 5, 6):
        (tmp_path / f"{number:02}.png").write_text("nothing")
    images = opened(tmp_path, skip_bad=True)
    kept = torch.cat(list(images.batches(slice(None))))
    rows = [8, 0, 3, 4]
    assert indices_at(images, rows) == [11, 1, 4, 7]
    assert torch.equal(torch.stack(images_at(images, rows)), kept[rows])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    images = opened(files(tmp_path))
    for _ in images.batches(slice(None)):
        pass
    (tmp_path / "03.png").unlink()
    with pytest.raises(DdpmError, match=r"03\.png"):
        images_at(images, [3])
