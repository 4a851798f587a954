"""A data set is scored at its images' own size, which need not be the size it trains at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from ddpm_cli.core.data import file_source, files, sources
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.metrics.inputs.opening import open_input
from tests.support.cli import Result

Run = Callable[..., Result]


class FakeSTL10:
    """As torchvision's STL10, of 12 images."""

    def __init__(self, root: Path, split: str, download: bool) -> None:
        del root, download
        self.data = np.random.default_rng(len(split)).integers(0, 256, (12, 96, 96, 3), np.uint8)
        self.labels = np.arange(12) % 2
        self.classes = ("airplane", "bird")

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.data[index], int(self.labels[index])


@pytest.fixture
def stl10(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeSTL10:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "STL10", FakeSTL10)
    return FakeSTL10(tmp_path, "train", True)


def test_it_trains_at_its_default_size_and_is_scored_at_its_own(stl10: FakeSTL10) -> None:
    assert sources.open_source("stl10").native_size == (64, 64)
    image_set = open_input("stl10:train")
    (batch,) = image_set.batches(slice(None))
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), stl10.data)
    assert image_set.counts.summary() == "data set 96x96"


@pytest.mark.usefixtures("stl10")
def test_fid_and_inception_score(ddpm: Run, trained: Path) -> None:
    local = ("--features", trained, "--json")
    document = ddpm("fid", "stl10:train", "stl10:test", *local).json()
    assert (document["real"], document["fake"]) == ("data set 96x96", "data set 96x96")
    document = ddpm("inception-score", "stl10:test", *local, "--splits", 2).json()
    assert document["images"] == "data set 96x96"


@pytest.mark.usefixtures("stl10")
def test_the_likelihood_of_down_sampled_images_is_refused(
    ddpm: Run, tiny: Path, tmp_path: Path
) -> None:
    given = ("--config", tiny, "--images", 8, "--timesteps", 3, "--unconditional")
    assert ddpm("train", "--data", "stl10", *given, "--out", "run").code == 0
    assert ddpm("nll", "run", "-n", 2).code == 0  # the training images, as they were trained on
    refused = ddpm("nll", "run", "--data", "stl10:test", "-n", 2)
    assert (refused.code, "stl10:test are 96x96x3" in refused.err) == (1, True)
    rng = np.random.default_rng(0)
    for name, side in (("large", 96), ("mixed/a", 64), ("mixed/b", 72), ("fitting", 64)):
        for i in range(2):
            image = rng.integers(0, 256, (3, side, side)).astype(np.uint8)
            files.write_png(tmp_path / name / f"{i}.png", image)
    refused = ddpm("nll", "run", "--data", tmp_path / "large", "-n", 2)
    assert (refused.code, "are 96x96x3" in refused.err) == (1, True)
    refused = ddpm("nll", "run", "--data", tmp_path / "mixed", "-n", 2)
    assert (refused.code, "are of several sizes" in refused.err) == (1, True)
    assert ddpm("nll", "run", "--data", tmp_path / "fitting", "-n", 2).code == 0


def test_the_likelihood_of_images_larger_than_the_default_size(
    ddpm: Run, tiny: Path, tmp_path: Path
) -> None:
    """A folder trains at 64x64 by default; its own size is another matter."""
    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        for i in range(8):
            image = rng.integers(0, 256, (3, 72, 72)).astype(np.uint8)
            files.write_png(tmp_path / name / f"{i}.png", image)
    given = ("--config", tiny, "--images", 8, "--timesteps", 3, "--size", 72)
    assert ddpm("train", "--data", tmp_path / "one", *given, "--out", "run").code == 0
    result = ddpm("nll", "run", "--data", tmp_path / "other", "-n", 2)
    assert result.code == 0, result.err


def written(folder: Path, channels: int, *sides: int) -> Path:
    rng = np.random.default_rng(len(str(folder)))
    for i, side in enumerate(sides):
        image = rng.integers(0, 256, (channels, side, side)).astype(np.uint8)
        files.write_png(folder / f"{i}.png", image)
    return folder


def test_the_likelihood_of_images_with_transparency(ddpm: Run, tiny: Path, tmp_path: Path) -> None:
    rgba, others, rgb = (
        written(tmp_path / name, channels, *[8] * 8)
        for name, channels in (("rgba", 4), ("others", 4), ("rgb", 3))
    )
    given = ("--config", tiny, "--images", 8, "--timesteps", 3)
    four = ddpm("train", "--data", rgba, *given, "--channels", 4, "--out", "four")
    three = ddpm("train", "--data", rgb, *given, "--out", "three")
    assert (four.code, three.code) == (0, 0)
    result = ddpm("nll", "four", "--data", others, "-n", 2)
    assert (result.code, "composited" in result.err) == (0, False), result.err
    refused = ddpm("nll", "four", "--data", rgb, "-n", 2)
    assert refused.code == 1
    assert "are 8x8x3 (colour), and" in refused.err
    assert "a model of 8x8x4 (colour with alpha)" in refused.err
    result = ddpm("nll", "three", "--data", others, "-n", 2)
    assert (result.code, "composited on white" in result.err) == (0, True), result.err


def test_no_image_whose_likelihood_is_computed_was_resized(
    ddpm: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one whose header is not among those read first."""
    monkeypatch.setattr(file_source, "_PROBED", 2)
    training = written(tmp_path / "training", 3, *[8] * 8)
    odd = written(tmp_path / "odd", 3, 8, 8, 16, 8)
    given = ("--config", tiny, "--images", 8, "--timesteps", 3)
    assert ddpm("train", "--data", training, *given, "--out", "run").code == 0
    refused = ddpm("nll", "run", "--data", odd)
    assert (refused.code, "are of several sizes" in refused.err) == (1, True)


def sizes(source: Any) -> tuple[Any, Any]:
    return source.image_size, source.native_size


def test_sizes_of_the_sources(photos: Path, tmp_path: Path) -> None:
    assert sizes(sources.open_source("shapes")) == ((32, 32), (32, 32))
    assert sizes(sources.open_source(str(photos))) == ((8, 8), (8, 8))
    files.write_png(tmp_path / "large" / "0.png", np.zeros((3, 100, 80), np.uint8))
    assert sizes(sources.open_source(str(tmp_path / "large"))) == ((100, 80), (64, 64))
    files.write_png(tmp_path / "large" / "1.png", np.zeros((3, 10, 8), np.uint8))
    assert sizes(sources.open_source(str(tmp_path / "large"))) == (None, (64, 64))
    assert sizes(ArraySource(np.zeros((2, 90, 70), np.uint8))) == ((90, 70), (90, 70))
