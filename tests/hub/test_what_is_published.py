"""What `ddpm push` uploads of a run, and what it does not: pictures, paths, scores, facts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddpm_cli
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.data import files
from ddpm_cli.core.hub import picture
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result
from tests.support.hub_standin import NAME, HubStandin

Run = Callable[..., Result]
MakeRun = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def changed(run: Path, change: Callable[[RunConfig], RunConfig], images: int = 640) -> None:
    """Write the weights anew, with other settings."""
    path = run / "model.safetensors"
    model = weights.load(path)
    weights.save(path, model.network.state_dict(), change(model.config), images)


def dry(ddpm: Run, run: Path, *options: object) -> dict[str, Any]:
    done = ddpm("push", run, NAME, "--dry-run", "--json", *options)
    assert done.code == 0, done.err
    return done.json()


def shown(run: Path) -> picture.Picture | None:
    return picture.found(RunDirectory(run), weights.load(run / "model.safetensors"))


def test_images_that_begin_at_the_users_are_not_the_picture(ddpm: Run, make_run: MakeRun) -> None:
    run = make_run(preview=False)
    Path("photos").mkdir()
    files.write_png(Path("photos/0.png"), np.full((3, 8, 8), 90, np.uint8))
    sample = ("sample", run, "-n", 1, "--steps", 10)
    mine = ddpm(*sample, "--init", "photos/0.png", "--strength", 0.1)
    assert mine.code == 0, mine.err
    assert (run / "generated" / "grid.png").is_file() and shown(run) is None
    assert ddpm(*sample, "--seed", 5).code == 0
    path, caption = shown(run) or (None, "")
    assert path == run / "generated-2" / "grid.png"
    assert caption == "Samples in 10 steps, guidance 1, seed 5."


@pytest.mark.parametrize(
    "damage",
    [
        {"weights_sha256": "another"},
        {"given": "a.png"},
        {"noise": "z.npy"},
        {"mask": "m.png"},
        {"of_a_later_version": 1},
        {"steps": None},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_grid_of_other_weights_or_images_is_not_the_picture(
    make_run: MakeRun, damage: dict[str, Any]
) -> None:
    run, name = make_run(), "generated/grid.png"
    sha256 = weights.load(run / "model.safetensors").sha256
    settings = {"weights_sha256": sha256, "seed": 0, "steps": 9, "guidance": 1.0}
    (run / "generated").mkdir()
    record = run / "generated" / "sampling.json"
    record.write_text(json.dumps(settings))
    files.write_png(run / name, np.zeros((3, 8, 8), np.uint8))
    assert shown(run) == (run / name, "Samples in 9 steps, guidance 1, seed 0.")
    written = record.stat().st_mtime
    os.utime(run / name, (written - 60, written - 60))  # of what was in the folder before
    preview = (
        run / "samples/000000640.png",
        "A preview of the training, always from the same noise.",
    )
    assert shown(run) == preview
    os.utime(run / name, (written + 60, written + 60))
    record.write_text(json.dumps(settings | damage))
    os.utime(record, (written, written))
    assert shown(run) == preview


def test_pictures_that_show_given_images_are_not_taken(ddpm: Run, make_run: MakeRun) -> None:
    run = make_run(given_channels=3)
    document = dry(ddpm, run)
    assert "samples.png" not in [each["file"] for each in document["files"]]
    assert any("show the images that it was given" in line for line in document["notices"])


def test_names_are_published_and_no_paths(ddpm: Run, hub: HubStandin, make_run: MakeRun) -> None:
    run = make_run(source="/home/someone/mnist")
    secret = "secret/place"

    def change(config: RunConfig) -> RunConfig:
        data = replace(config.data, given_data=f"~/{secret}/pairs", examples=("my own house",))
        origin = WeightsOrigin(f"../{secret}/model.safetensors", "0" * 64)
        return replace(config, data=data, holdout_data=f"/{secret}/test.zip", origin=origin)

    changed(run, change)
    before = weights.load(run / "model.safetensors")
    hub.refuse["/api/repos/create"] = (403, {})
    stopped = ddpm("push", run, NAME, "-q")  # before anything is uploaded, and even with --quiet
    assert stopped.code == 1 and "my own house" in stopped.err
    hub.refuse.clear()
    assert ddpm("push", run, NAME).code == 0
    held = hub.repositories[NAME].files("main")
    for content in held.values():
        assert b"secret" not in content and b"/home" not in content
    settings = json.loads(held["config.json"])
    assert settings["data"]["source"] == "./mnist" and settings["data"]["given_data"] == "./pairs"
    assert settings["holdout_data"] == "./test.zip"
    assert settings["origin"]["path"] == "./model.safetensors"
    assert "datasets" not in held["README.md"].decode().split("---\n")[1]  # it is but a folder
    Path("pushed.safetensors").write_bytes(held["model.safetensors"])
    after = weights.load(Path("pushed.safetensors"))
    assert after.sha256 != before.sha256 and after.config.network == before.config.network
    pairs = zip(before.network.parameters(), after.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    images = [
        ddpm_cli.load(path, device="cpu").sample(2, steps=3)
        for path in (run, Path("pushed.safetensors"))
    ]
    assert np.array_equal(*images)


def test_the_card_of_converted_weights_names_the_original(ddpm: Run, make_run: MakeRun) -> None:
    run = make_run(source="images")
    origin = WeightsOrigin("/models/theirs", "0" * 64)
    changed(run, lambda config: replace(config, origin=origin), images=0)
    card = dry(ddpm, run)["card"]
    assert "parameters, converted from `theirs`." in card
    assert "images of `" not in card and "learning rate" not in card
    changed(run, lambda config: replace(config, origin=replace(origin, path="them/theirs")), 0)
    (run / "pulled.json").write_text(json.dumps({"repo": "them/theirs", "commit": "1"}))
    assert "converted from `them/theirs`." in dry(ddpm, run)["card"]  # as the hub names it


def test_damaged_scores_are_left_out(ddpm: Run, make_run: MakeRun) -> None:
    run = make_run()
    row = {"label": "fid5k", "protocol": "one", "weights_sha256": "a"}
    rows = [
        row | {"images": 100, "value": 1.0, "weights_sha256": "b"},  # of other features
        row | {"images": 200, "value": 20.0},
        row | {"images": 300, "value": "5"},
        row | {"value": 4.0},
        row | {"images": 640, "value": 30.0},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"images": 700, "val'
    (run / "scores.jsonl").write_text(text)
    card = dry(ddpm, run)["card"]
    assert "| 200 | fid5k | 20 | one |\n| 640 (these weights) | fid5k | 30 | one |" in card
    assert card.count("| fid5k |") == 2
    shutil.copyfile(run / "model.safetensors", run / "ema-0.100.safetensors")
    card = dry(ddpm, run, "--weights", "ema-0.100")["card"]
    assert "Those of the training are of other weights." in card and "fid5k" not in card


def test_into_the_folder_that_one_is_in(
    ddpm: Run, on_the_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("links").mkdir()
    Path("links/one").symlink_to("../target")
    Path("links/loop").symlink_to("loop")
    Path("target").mkdir()
    for out in ("..", "/", "links/loop"):
        assert ddpm("pull", NAME, "--out", out).code == 1
    assert ddpm("pull", NAME, "--out", "links/one").code == 0
    assert Path("target/model.safetensors").is_file()
    Path("inside").mkdir()
    monkeypatch.chdir("inside")
    inside = Path.cwd().stat().st_ino
    done = ddpm("pull", NAME, "--out", ".")
    assert done.code == 0, done.err
    assert Path("../inside").stat().st_ino == inside  # the shell is in it
    assert Path("model.safetensors").is_file() and Path("pulled.json").is_file()
    assert sorted(path.name for path in Path("..").glob(".*")) == []
    assert "already" in ddpm("pull", NAME, "--out", ".").err
