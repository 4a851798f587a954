"""The preset of a training that names none: by its images and its device, and on a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.config.preset_choice import ImageSet, choose
from ddpm_cli.core.config.presets import merged, preset
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.training.preparation import planning
from tests.support.cli import Result

MANY = 50_000


@pytest.mark.parametrize(
    ("channels", "side", "cpu", "gpu"),
    [
        (1, 28, "mnist", "mnist"),
        (3, 28, "small", "cifar10-fast"),
        (4, 32, "small", "cifar10-fast"),
        (1, 33, "small-64", "photos-64"),
        (3, 64, "small-64", "photos-64"),
        (3, 128, "small-64", "photos-64"),
    ],
)
def test_images_and_device_choose_the_preset(channels: int, side: int, cpu: str, gpu: str) -> None:
    images = ImageSet(MANY, (8, side), channels)
    assert choose(images, "cpu").preset == cpu
    assert choose(images, "cuda").preset == choose(images, "mps").preset == gpu


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_larger_images_are_folded(device: str) -> None:
    """So the network sees no more of them than of images of 64x64."""
    grids = []
    for side in (64, 128, 256):
        choice = choose(ImageSet(MANY, (side, side), 3), device)
        config = merged(merged(RunConfig(), preset(choice.preset).settings), choice.settings)
        grids.append(side // config.network.patch)
    assert grids == [grids[0]] * 3


def test_few_images_are_seen_less_often_on_a_gpu_and_augmented() -> None:
    def chosen(count: int, device: str = "cuda") -> RunConfig:
        choice = choose(ImageSet(count, (64, 64), 3), device)
        return merged(merged(RunConfig(), preset(choice.preset).settings), choice.settings)

    usual = merged(RunConfig(), preset("photos-64").settings)
    assert chosen(1_000_000) == usual
    assert chosen(10_000).budget.images == 5_000_000  # 500 epochs
    assert chosen(10_000).data == usual.data
    few = chosen(100)
    assert (few.budget.images, few.data.augment) == (1_000_000, 0.12)
    assert few.network.dropout > usual.network.dropout
    assert chosen(100, "cpu") == merged(RunConfig(), preset("small-64").settings)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let trainings choose their presets as if on a GPU, or not."""
    plan_training = planning.plan_training

    def choose_as(gpu: bool) -> None:
        monkeypatch.setattr(
            "ddpm_cli.core.training.preparation.preflight.plan_training",
            lambda request, reporter, _: plan_training(request, reporter, "cuda" if gpu else "cpu"),
        )

    return choose_as


TINY_OPTIONS = ("--width", 64, "--blocks", "res", "--batch", 4, "--preview", 0, "--images")


@pytest.mark.parametrize("begun_on_gpu", [True, False])
def test_a_run_resumes_on_another_machine_with_its_own_preset(
    begun_on_gpu: bool,
    ddpm: Callable[..., Result],
    photos: Path,
    on_a_gpu: Callable[[bool], None],
) -> None:
    """Without --out the run is found by its name, and has all settings that the choice gave it."""
    command = ("train", "--json", "--data", photos, *TINY_OPTIONS)
    on_a_gpu(begun_on_gpu)
    first = ddpm(*command, 4)
    assert first.code == 0, first.err
    config = json.loads(Path("runs/photos-8/config.json").read_text())
    assert config["data"]["augment"] == (0.12 if begun_on_gpu else 0)

    on_a_gpu(not begun_on_gpu)
    name = "cifar10-fast" if begun_on_gpu else "small"
    again = ddpm(*command, 8)
    assert (again.code, again.json()["resumed_at"]) == (0, 4), again.err
    assert f"preset {name}, for 8x8 colour images on a" in again.err
    assert ", with which the run began)" in again.err
    assert json.loads(Path("runs/photos-8/config.json").read_text())["network"] == config["network"]

    changed = ddpm(*command, 8, "--lr", 0.5)
    assert changed.code == 1
    lr = config["optimiser"]["lr"]
    assert f"would change: --lr {lr} -> 0.5. What" in changed.err  # and nothing else
    named = ddpm(*command, 8, "--preset", "small" if begun_on_gpu else "cifar10-fast")
    assert (named.code, "would change: " in named.err) == (1, True)


def test_the_shapes_have_their_own_everywhere() -> None:
    for device in ("cpu", "cuda", "mps"):
        choice = choose(ImageSet(12_000, (32, 32), 3, built_in=True), device)
        assert choice == ("shapes", "for the built-in shapes", {})


def test_a_files_size_chooses_and_a_complete_file_is_named_instead(
    ddpm: Callable[..., Result], photos: Path, planned_only: None
) -> None:
    Path("part.toml").write_text("[network]\nsize = [64, 64]\n")
    command = ("train", "--data", photos, "--device", "cpu")
    part = ddpm(*command, "--config", "part.toml", "--dry-run")
    assert "(preset small-64, for 64x64 colour images on a CPU)" in part.err

    Path("whole.toml").write_text(ddpm(*command, "--print-config").out)
    whole = ddpm("train", "--config", "whole.toml", "--dry-run", "--json", "--batch", 8)
    assert "(settings of whole.toml)" in whole.err, whole.err
    assert whole.json()["preset"] is None
