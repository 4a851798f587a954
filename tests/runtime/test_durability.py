"""Which files are synced to disk: those that would cost training or a download, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import snapshots, tensors
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files as images
from ddpm_cli.core.data import loader, sources
from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.figures import canvas, plots
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime import files
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result

IMAGE = np.zeros((3, 8, 8), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The file descriptors that are synced."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    return synced


@pytest.mark.parametrize(
    "write",
    [
        lambda path: images.write_png(path, IMAGE),
        lambda path: films.write_gif(path, [IMAGE, IMAGE], 1, 1),
        lambda path: plots.write_figure(path, canvas.Figure()),
        lambda path: FeatureStore(4).save(path),
    ],
)
def test_what_can_be_made_again_is_not_synced(
    write: Callable[[Path], None], synced: list[int], tmp_path: Path
) -> None:
    write(tmp_path / "file.png")
    assert synced == []


def test_decoded_images_are_synced_once_before_they_get_their_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []

    def names_when_synced(file: int) -> None:
        folder = Path(os.environ["DDPM_CACHE"]) / "pictures"
        synced.append([path.name for path in folder.glob("photos*") if "readable" not in path.name])

    monkeypatch.setattr(os, "fsync", names_when_synced)
    loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())
    (names,) = synced
    assert sorted(name.rpartition(".")[2] for name in names) == ["partial", "progress"]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: snapshots.write(folder, {"progress": {"images": 1}}),
        lambda folder: tensors.write(folder / "model.safetensors", {"x": torch.ones(2)}, "k", "v"),
        lambda folder: RunDirectory(folder).write_config(RunConfig()),
        lambda folder: RunDirectory(folder).rewind_rows(0),
        lambda folder: Statistics(np.zeros(2), np.eye(2), 3).write(folder / "real.npz"),
        lambda folder: files.write_json(folder / "resumed.json", {}),
    ],
)
def test_checkpoints_and_files_of_a_run_are_synced_with_their_folder(
    write: Callable[[Path], None], synced: list[int], tmp_path: Path
) -> None:
    write(tmp_path)
    assert len(synced) >= 2


def test_sampling_syncs_none_of_its_images(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result], synced: list[int]
) -> None:
    tiny_run("run")
    synced.clear()
    assert ddpm("sample", "run", "-n", 12, "--steps", 1).code == 0
    assert synced == []


def test_decoded_images_that_a_power_cut_left_empty_are_decoded_again(photos: Path) -> None:
    source = sources.open_source(str(photos))
    first = loader.prepare(source, Transform(3, (8, 8)), Silent())
    (file,) = Path(os.environ["DDPM_CACHE"]).glob(f"pictures/*{first.key}*.readable.npy")
    file.write_bytes(b"")
    again = loader.prepare(source, Transform(3, (8, 8)), Silent())
    assert np.array_equal(again.rows, first.rows)


def test_cached_features_that_a_power_cut_cut_short_are_computed_again(
    ddpm: Callable[..., Result], photos: Path, trained: Path
) -> None:
    command = ("fid", photos, photos, "--features", trained, "--json")
    first = ddpm(*command)
    assert first.err.count("is in the cache") == 1  # FAKE, which is REAL
    (features,) = Path(os.environ["DDPM_CACHE"]).glob("features/*/features.f32")
    contents = features.read_bytes()
    features.write_bytes(contents[:-1000])
    again = ddpm(*command)
    assert (again.code, again.err.count("is in the cache")) == (0, 1)
    scores = [result.json() | {"provenance": None} for result in (first, again)]  # it has the time
    assert scores[0] == scores[1]
    assert features.read_bytes() == contents
    assert ddpm(*command).err.count("is in the cache") == 2


def test_an_image_that_a_power_cut_left_empty_is_sampled_again(
    train_tiny: Callable[..., Result], ddpm: Callable[..., Result]
) -> None:
    command = ("sample", "run", "-n", 3, "--steps", 1, "--out", "images", "--json")
    assert train_tiny("--out", "run").code == 0
    assert ddpm(*command).json()["drawn"] == 3
    contents = Path("images/000001.png").read_bytes()
    Path("images/000001.png").write_bytes(b"")
    assert ddpm(*command).json()["drawn"] == 1
    assert Path("images/000001.png").read_bytes() == contents
