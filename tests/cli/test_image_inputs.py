"""Every command that reads images takes the same files, and says what it leaves out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cli import Result

Run = Callable[..., Result]
DOORS = ("train", "train-classifier", "nll", "fid", "inception-score")


@pytest.fixture
def read(ddpm: Run, train_tiny: Run, tiny: Path, trained: Path, photos: Path) -> Run:
    """Read a folder of images with one of the commands; a run of the photos is there for nll."""
    Image.new("RGB", (10, 10)).save(photos / "dark" / "large.png")
    assert train_tiny("--out", "run", "--size", 8, "--timesteps", 10).code == 0

    def call(door: str, folder: Path, *more: object) -> Result:
        local = ("--features", trained)
        commands = {
            "train": ("train", "--data", folder, "--config", tiny, "--dry-run"),
            "train-classifier": ("train-classifier", "--data", folder, "--epochs", 1),
            "nll": ("nll", "run", "--data", folder, "-n", 2),
            "fid": ("fid", folder, folder, "--no-cache", *local),
            "inception-score": ("inception-score", folder, "--splits", 2, *local),
        }
        return ddpm(*commands[door], *more)

    return call


@pytest.mark.parametrize("door", DOORS)
def test_what_is_left_out_is_counted_in_words(read: Run, photos: Path, door: str) -> None:
    for name in ("a.heic", "b.HEIC", "c.svg", "._0.png", "Thumbs.db"):
        (photos / "dark" / name).write_bytes(b"\0")
    result = read(door, photos)
    assert result.code == 0, result.err
    said = "left out: 2 .heic (pip install pillow-heif reads them), 1 .svg (drawings: export them"
    assert f"{photos}: {said}" in result.err
    assert ".db" not in result.err
    assert "._0" not in result.err


@pytest.mark.parametrize("door", DOORS)
def test_large_images_are_let_in_by_an_option(
    read: Run, photos: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # of which Pillow decodes twice as many
    refused = read(door, photos)
    assert refused.code == 1, refused.err
    remedy = "if you trust the file, add --max-pixels 100"
    assert f"large.png: 100 pixels are more than the limit of 80; {remedy}" in refused.err
    allowed = read(door, photos, "--max-pixels", 100)
    assert allowed.code == 0, allowed.err


def test_a_large_image_is_shown_by_the_option(ddpm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    Image.new("L", (1000, 1000)).save("scan.png")
    shown = ("inspect-schedule", "--timesteps", 10, "--image", "scan.png")
    assert "add --max-pixels 1000000" in ddpm(*shown).err
    assert ddpm(*shown, "--max-pixels", 1_000_000).code == 0


def test_names_that_are_no_utf_8(train_tiny: Run, photos: Path) -> None:
    (photos / "dark").rename(photos / os.fsdecode(b"caf\xe9"))
    result = train_tiny("--out", "run", "--images", 8)
    assert result.code == 0, result.err


def test_images_that_the_cache_lacks_are_named_again(read: Run, photos: Path) -> None:
    (photos / "dark" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    named = "dark/0.png: damaged or cut short"
    for _ in range(2):
        result = read("train", photos, "--skip-bad")
        assert result.code == 0
        assert named in result.err
    result = read("train", photos)
    assert result.code == 1
    assert named in result.err
