"""`ddpm memorisation`: a run and its own images, folders, files written, refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ddpm_cli.core.data import files
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.memorisation import outputs
from ddpm_cli.core.runtime.elastic import worker
from tests.support.cli import Result

Ddpm = Callable[..., Result]


def folder(path: Path, n: int, seed: int, size: int = 16, channels: int = 3) -> Path:
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.standard_normal((n, channels, size, size)), (0, 0, 2, 2))
    pixels = 128 + 40 * fields / fields.std(axis=(1, 2, 3), keepdims=True)
    for i, image in enumerate(pixels.clip(0, 255).round().astype(np.uint8)):
        files.write_png(path / f"{i:03d}.png", image)
    return path


@pytest.fixture
def call(ddpm: Ddpm, trained: Path) -> Ddpm:
    """Call the command with local features."""
    return lambda *arguments: ddpm("memorisation", *arguments, "--features", trained)


def test_copies_in_a_folder(call: Ddpm, tmp_path: Path) -> None:
    train, held_out = folder(tmp_path / "train", 80, 0), folder(tmp_path / "other", 120, 1)
    fakes = folder(tmp_path / "fakes", 36, 2)
    for i in range(4):
        mirrored = Image.open(train / f"{i:03d}.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(fakes / f"copy-{i}.png")
    inputs = (fakes, "--train", train, "--held-out", held_out)
    result = call(*inputs, "--json")
    assert result.code == 0, result.err
    document: dict[str, Any] = result.json()
    assert document["copied_share"] == pytest.approx(0.1, abs=0.005)
    assert 0 < document["copied_share_low"] < 0.1 < document["copied_share_high"] < 0.3
    assert document["conclusion"] == "copies"
    assert document["verdict"].startswith("About 10.0 % of the fakes are copies")
    assert (document["n_fake"], document["n_train"], document["n_held_out"]) == (40, 80, 120)
    assert {pair["fake"] for pair in document["pairs"][:4]} == {f"copy-{i}.png" for i in range(4)}
    assert {pair["train"] for pair in document["pairs"][:4]} == {f"{i:03d}.png" for i in range(4)}
    assert document["out"] == "memorisation-fakes"
    written = Path("memorisation-fakes")
    assert sorted(path.name for path in written.iterdir()) == [
        "distances.png",
        "memorisation.json",
        "pairs.png",
    ]
    assert json.loads((written / "memorisation.json").read_text()) == document
    with Image.open(written / "pairs.png") as sheet:
        assert sheet.width >= 1000
    again = call(*inputs)
    assert again.code == 0, again.err
    assert again.out.splitlines()[0] == document["verdict"]
    last = again.out.splitlines()[-1]
    assert f"{Path('memorisation-fakes-2').resolve()}/pairs.png" in last
    assert "distances.png" in last and "memorisation.json names the fakes" in last
    assert "memorisation-fakes is there already: the results go to memorisation-f" in again.err
    before = (written / "pairs.png").stat().st_mtime_ns
    replaced = call(*inputs, "--overwrite")
    assert f"{written.resolve()}/pairs.png" in replaced.out.splitlines()[-1]
    assert (written / "pairs.png").stat().st_mtime_ns > before
    assert not Path("memorisation-fakes-3").exists()
    assert "is in the cache" in again.err


def test_new_images_in_a_folder(call: Ddpm, tmp_path: Path) -> None:
    train, held_out = folder(tmp_path / "train", 80, 0), folder(tmp_path / "other", 250, 1)
    fakes = folder(tmp_path / "fakes", 150, 2, size=20)  # another size than the training images
    result = call(fakes, "--train", train, "--held-out", held_out, "--out", "results", "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert "images are compared at 20x20 pixels" in result.err
    assert (document["copied_share"], document["copied_share_low"]) == (0, 0)
    assert document["conclusion"] == "none"
    assert document["verdict"].startswith("No sign of copying: 0 % of 150 fakes are as near")


def test_a_run_is_compared_with_its_own_images(
    call: Ddpm, tiny_run: Callable[..., Path], photos: Path
) -> None:
    run = tiny_run("run", "--images", 16, "--holdout", 6, "--preview", 0)
    few = ("-n", 4, "--steps", 2)
    result = call(run, *few, "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert (document["n_fake"], document["n_train"], document["n_held_out"]) == (4, 18, 6)
    assert f"--train: the 18 training images of run ({photos})" in result.err
    assert "--held-out: the 6 images that run held out of its training" in result.err
    assert document["sampled"]["steps"] == 2
    assert document["out"] == "run/memorisation"
    assert document["conclusion"] == "unknown"
    names = set(open_source(str(photos)).files.names)  # type: ignore[attr-defined]
    assert {pair["train"] for pair in document["pairs"]} <= names
    weights = call(Path(run) / "model.safetensors", *few)
    assert "run/memorisation-2/pairs.png" in weights.out.splitlines()[-1]
    other = call(run, *few, "--train", photos, "--held-out", photos)
    assert (other.code, "24 of the 24 held-out images" in other.err) == (1, True)
    assert not Path("run/memorisation-3").exists()  # nothing was written into it


def test_a_run_without_held_out_images(
    call: Ddpm, tiny_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = tiny_run("run", "--images", 16)
    refused = call(run, "-n", 4, "--steps", 2)
    assert (refused.code, "give --held-out images of the same kind" in refused.err) == (2, True)
    held_out = folder(tmp_path / "other", 8, 1, size=8)
    result = call(run, "-n", 4, "--steps", 2, "--held-out", held_out, "--json")
    assert result.code == 0, result.err
    assert (result.json()["n_train"], result.json()["n_held_out"]) == (24, 8)


def test_the_held_out_images_of_a_training_with_holdout_data(
    call: Ddpm, tiny_run: Callable[..., Path], photos: Path
) -> None:
    run = tiny_run("run", "--images", 16, "--holdout-data", photos)
    result = call(run, "-n", 4, "--steps", 2)
    assert result.code == 1  # here the training images, of all things
    assert f"--held-out: the 24 images of {photos}" in result.err


def test_refusals(call: Ddpm, tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 4, 0)
    np.savez("statistics.npz", mu=np.zeros(2), sigma=np.eye(2))
    for arguments, code, message in (
        (
            (photos,),
            2,
            "that the model was trained on, and --held-out, images of the same kind",
        ),
        (
            (photos, "--train", photos),
            2,
            "is no run, so give --held-out, images of the same kind",
        ),
        ((photos, "--train", "none", "--held-out", photos), 1, "none: no such folder"),
        ((photos, "--train", "statistics.npz", "--held-out", photos), 2, "holds statistics"),
        (("statistics.npz", "--train", photos, "--held-out", photos), 2, "holds statistics"),
        ((photos, "-n", 4, "--train", photos, "--held-out", photos), 2, "for sampling from a run"),
    ):
        result = call(*arguments)
        assert (result.code, message in result.err) == (code, True), result.err
    assert not list(Path().glob("memorisation*"))


def test_results_are_replaced_only_with_overwrite(call: Ddpm, tmp_path: Path) -> None:
    train, other = folder(tmp_path / "train", 10, 0), folder(tmp_path / "other", 10, 1)
    inputs = (folder(tmp_path / "fakes", 10, 2), "--train", train, "--held-out", other)
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    assert call(*inputs, "--out", "out").code == 0
    refused = call(*inputs, "--out", "out")
    assert refused.code == 1
    assert "out holds pairs.png; choose another --out, or add --overwrite" in refused.err
    Path("out/pairs.png").write_bytes(b"")
    assert call(*inputs, "--out", "out", "--overwrite").code == 0
    assert Path("out/pairs.png").stat().st_size > 0
    assert Path("out/notes.txt").read_text() == "mine"
    Path("file").touch()
    assert "is no folder" in call(*inputs, "--out", "file").err


def test_what_fails_half_way_leaves_no_earlier_results(
    call: Ddpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, other = folder(tmp_path / "train", 10, 0), folder(tmp_path / "other", 10, 1)
    inputs = (folder(tmp_path / "fakes", 10, 2), "--train", train, "--held-out", other)
    assert call(*inputs, "--out", "out").code == 0

    def full(*_: object) -> None:
        raise DdpmError("disk full")

    monkeypatch.setattr(outputs, "distributions", full)
    assert "disk full" in call(*inputs, "--out", "out", "--overwrite").err
    assert [path.name for path in Path("out").iterdir()] == ["pairs.png"]


def test_unreadable_files_are_left_out_and_names_still_fit(call: Ddpm, tmp_path: Path) -> None:
    train, other = folder(tmp_path / "train", 10, 0), folder(tmp_path / "other", 10, 1)
    fakes = folder(tmp_path / "fakes", 6, 2)
    (fakes / "000.png").write_bytes(b"damaged")
    inputs = (fakes, "--train", train, "--held-out", other)
    assert "--skip-bad leaves unreadable files out" in call(*inputs).err
    result = call(*inputs, "--skip-bad", "--json")
    assert result.code == 0, result.err
    names = {pair["fake"] for pair in result.json()["pairs"]}
    assert names == {f"{i:03d}.png" for i in range(1, 6)}


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_several_processes_are_refused(
    call: Ddpm, tmp_path: Path, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    if launcher == "srun":
        variables = {f"SLURM_{name}": 2 for name in ("NTASKS", "STEP_NUM_TASKS")}
        variables |= {"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "SLURM_PROCID": 1}
        variables |= {"SLURM_STEP_NODELIST": "localhost"}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "")  # and what is set instead is undone
    monkeypatch.setattr(worker, "exit_process", sys.exit)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    images = folder(tmp_path / "images", 4, 0)
    refused = call(images, "--train", images, "--held-out", images)
    assert refused.code == 2
    assert "ddpm memorisation runs in one process, and 2 were started" in refused.err
    assert not Path("memorisation-images").exists()
