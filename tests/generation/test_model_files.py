"""What is opened as a model: a run, a weights file or a snapshot; and what is said of others."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

import ddpm_cli
from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.runtime.run_directory import find_weights
from tests.support.cli import Result

SAMPLE = ("-n", 2, "--steps", 2)
SNAPSHOT = Path("runs/a/snapshots/000000000016.pt")


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    """Of 32 images; the snapshots are of 16 and of 32."""
    arguments = ("--images", 32, "--snapshot-every", 16, "--preview", 0, "--keep", 2)
    return tiny_run("runs/a", *arguments, "--timesteps", 50)


def test_the_newest_snapshot_is_the_run(run: Path, ddpm: Callable[..., Result]) -> None:
    newest = run / "snapshots" / "000000000032.pt"
    one, other = weights.load(run / "model.safetensors"), weights.load(newest)
    assert (
        (other.config, other.images) == (one.config, one.images) == (weights.describe(newest), 32)
    )
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name])
    for source, out in ((run, "from-run"), (newest, "from-snapshot")):
        result = ddpm("sample", source, *SAMPLE, "--out", out)
        assert result.code == 0, result.err
    drawn = [imageio.imread(f"from-{source}/000001.png") for source in ("run", "snapshot")]
    np.testing.assert_array_equal(*drawn)  # the text within has the file's hash


@pytest.mark.usefixtures("planned_only")
def test_every_command_takes_a_snapshot(
    run: Path, ddpm: Callable[..., Result], photos: Path, trained: Path
) -> None:
    result = ddpm("sample", SNAPSHOT, *SAMPLE, "--json")
    assert result.code == 0, result.err
    assert result.json()["images_seen"] == 16
    assert result.json()["out"] == "runs/a/generated"  # the snapshots' folder stays as it is
    assert ddpm("gif", SNAPSHOT, *SAMPLE, "--json").json()["out"] == "runs/a/denoising.gif"
    assert ddpm("nll", SNAPSHOT, "-n", 2, "--json").json()["n"] == 2
    scored = ddpm("fid", photos, SNAPSHOT, *SAMPLE, "--features", trained, "--json")
    assert scored.code == 0, scored.err
    assert scored.json()["sampled"]["images_seen"] == 16
    result = ddpm("convert", SNAPSHOT, "--to", "diffusers", "--out", "folder")
    assert "folded by 2" in result.err  # it was read, and its network has no counterpart
    result = ddpm("train", "--data", photos, "--init-from", SNAPSHOT, "--out", "new", "--dry-run")
    assert result.code == 0, result.err
    model = ddpm_cli.load(SNAPSHOT)
    assert model.sample(1, steps=2).dtype == np.uint8


def test_a_copy_describes_itself(run: Path, ddpm: Callable[..., Result]) -> None:
    config = weights.describe(SNAPSHOT)
    shutil.copy(SNAPSHOT, "kept.pt")
    assert weights.load(Path("kept.pt")).config == config
    assert ddpm("sample", "kept.pt", *SAMPLE, "--json").json()["out"] == "generated"


def test_snapshots_of_earlier_versions_have_their_config_beside_them(run: Path) -> None:
    config, state = weights.describe(SNAPSHOT), snapshots.read(SNAPSHOT)
    del state["config"]
    torch.save(state, SNAPSHOT)
    assert weights.load(SNAPSHOT).config == weights.describe(SNAPSHOT) == config
    shutil.copy(SNAPSHOT, "kept.pt")
    with pytest.raises(ddpm_cli.DdpmError, match="without its config: leave it in the folder"):
        weights.load(Path("kept.pt"))


def test_bad_snapshots_are_named(
    run: Path, ddpm: Callable[..., Result], photos: Path, trained: Path
) -> None:
    state = snapshots.read(SNAPSHOT)
    state["average"]["norm.bias"][1] = math.nan
    torch.save(state, "nan.pt")
    torch.save({"weight": torch.zeros(2)}, "other.pt")
    Path("cut.pt").write_bytes(SNAPSHOT.read_bytes()[:-3000])
    Path("pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, message in (
        ("nan.pt", "NaN or infinite weights: 1 of 8 in norm.bias"),
        ("other.pt", "imported with ddpm convert"),
        ("cut.pt", "damaged or cut short"),
        ("pointer.pt", "git lfs pull"),
        ("runs/a/snapshots", f"name one, such as the newest, {run}/snapshots/000000000032.pt"),
    ):
        for command in (("sample", name), ("fid", photos, name, "--features", trained)):
            result = ddpm(*command)
            assert (result.code, message in result.err) == (1, True), (command, result.err)
            assert result.err.count("\n") == 1
    result = ddpm("train", "--resume", "pointer.pt", "--out", "new", "--images", 64)
    assert "git lfs pull" in result.err


def test_a_folder_of_runs_names_them(run: Path, ddpm: Callable[..., Result], photos: Path) -> None:
    Image.new("RGB", (8, 8)).save(run / "loss.png")
    shutil.copytree(run, "runs/b")
    for command in (
        ("sample", "runs"),
        ("gif", "runs"),
        ("nll", "runs"),
        ("convert", "runs", "--to", "diffusers", "--out", "folder"),
        ("train", "--data", photos, "--init-from", "runs"),
    ):
        result = ddpm(*command)
        assert result.code == 1
        assert "runs is not a run but holds runs (2, newest first): runs/" in result.err
        assert result.err.endswith("; name one of them\n")
    result = ddpm("fid", photos, "runs")
    assert (result.code, "a/, b/" in result.err) == (1, True), result.err
    (run / "model.safetensors").unlink()
    assert "runs/a is a run without model.safetensors" in ddpm("sample", "runs/a").err


def test_other_folders_are_named(ddpm: Callable[..., Result]) -> None:
    Path("theirs").mkdir()
    Path("theirs/model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(ddpm_cli.DdpmError, match="a folder of diffusers: import it with ddpm conv"):
        find_weights(Path("theirs"))
    Path("empty").mkdir()
    assert "empty is not a run" in ddpm("sample", "empty").err
