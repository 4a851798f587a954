"""What a run is planned from: preset, --config file and options, each over the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.cli import Result

LIMITS = ("images", "minutes")


@pytest.mark.usefixtures("planned_only")
@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("[budget]\nminutes = 5", (), (None, 5)),
        ("[budget]\nepochs = 10", (), (120_000, None)),
        ("[budget]\nimages = 96_000", (), (96_000, None)),
        ("[budget]\nminutes = 5", ("--images", 640), (640, None)),
        ("[budget]\nminutes = 5\nimages = 640", (), (640, 5)),
        ("keep = 3", (), (57_600, None)),
    ],
)
def test_a_limit_replaces_the_presets_budget(
    ddpm: Callable[..., Result],
    content: str,
    options: tuple[object, ...],
    expected: tuple[int | None, float | None],
) -> None:
    """From a file as from options: `shapes` alone would end at 57,600 images."""
    Path("settings.toml").write_text(content)
    result = ddpm("train", "--config", "settings.toml", *options, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert tuple(result.json()[name] for name in LIMITS) == expected


def test_a_runs_config_keeps_its_budget(ddpm: Callable[..., Result], tiny: Path) -> None:
    """Its budget has all four limits, three of them null."""
    assert ddpm("train", "--data", "shapes", "--config", tiny, "--out", "run").code == 0
    again = ddpm("train", "--config", "run/config.json", "--dry-run", "--json", "--out", "other")
    assert tuple(again.json()[name] for name in LIMITS) == (64, None)


@pytest.mark.usefixtures("planned_only")
def test_blocks_of_a_file_bring_their_decoder(ddpm: Callable[..., Result]) -> None:
    """edm-cifar10 has a decoder of its own, which fits no other blocks."""
    Path("blocks.json").write_text(json.dumps({"network": {"blocks": ["res"]}}))
    preset = ("--preset", "edm-cifar10", "--size", 32, "--dry-run", "--json")
    file = ddpm("train", "--config", "blocks.json", *preset)
    option = ddpm("train", "--blocks", "res", *preset)
    assert file.code == option.code == 0, file.err
    assert file.json()["parameters"] == option.json()["parameters"]


@pytest.mark.usefixtures("planned_only")
def test_the_preset_of_the_built_in_shapes_is_theirs_alone(
    ddpm: Callable[..., Result], photos: Path
) -> None:
    """Not of a folder, an archive or a nested folder that is called so."""
    names = ("shapes", "more/shapes", "shapes.zip")
    photos.rename("shapes")
    shutil.copytree("shapes", "more/shapes")
    shutil.make_archive("shapes", "zip", "shapes")
    for name in names:
        plan = ddpm("train", "--data", name, "--dry-run", "--json").json()
        assert plan["preset"] == "small", name
    shutil.rmtree("shapes")
    assert ddpm("train", "--data", "shapes", "--dry-run", "--json").json()["preset"] == "shapes"


def test_without_clip_the_gradient_stays_as_it_is(
    ddpm: Callable[..., Result], tiny: Path, photos: Path, tmp_path: Path
) -> None:
    def weights(clip: float | None) -> dict[str, torch.Tensor]:
        settings = {"optimiser": {"clip": clip, "betas": [0, 0.1], "warmup": 0}}
        file = tmp_path / "clip.json"
        file.write_text(json.dumps(json.loads(tiny.read_text()) | settings))
        run = tmp_path / f"clip-{clip}"
        options = ("--data", photos, "--config", file, "--images", 16, "--batch", 8)
        result = ddpm("train", *options, "--out", run)
        assert result.code == 0, result.err
        return load_file(run / "model.safetensors")

    none, high, low = weights(None), weights(1e9), weights(1e-6)
    assert all(torch.equal(none[name], high[name]) for name in none)
    assert not all(torch.equal(none[name], low[name]) for name in none)
