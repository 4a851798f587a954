"""What a run is planned from: preset, --config file and options, each over the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result

LIMITS = ("images", "minutes")


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("[budget]\nminutes = 5", (), (None, 5)),
        ("[budget]\nepochs = 10", (), (120_000, None)),
        ("[budget]\nimages = 96_000", (), (96_000, None)),
        ("[budget]\nminutes = 5", ("--images", 640), (640, None)),
        ("[budget]\nminutes = 5\nimages = 640", (), (640, 5)),
        ("keep = 3", (), (48_000, None)),
    ],
)
def test_a_limit_replaces_the_presets_budget(
    ddpm: Callable[..., Result],
    content: str,
    options: tuple[object, ...],
    expected: tuple[int | None, float | None],
) -> None:
    """From a file as from options: `shapes` alone would end at 48,000 images."""
    Path("settings.toml").write_text(content)
    result = ddpm("train", "--config", "settings.toml", *options, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert tuple(result.json()[name] for name in LIMITS) == expected


def test_a_runs_config_keeps_its_budget(ddpm: Callable[..., Result], tiny: Path) -> None:
    """Its budget has all four limits, three of them null."""
    assert ddpm("train", "--data", "shapes", "--config", tiny, "--out", "run").code == 0
    again = ddpm("train", "--config", "run/config.json", "--dry-run", "--json", "--out", "other")
    assert tuple(again.json()[name] for name in LIMITS) == (64, None)


def test_blocks_of_a_file_bring_their_decoder(ddpm: Callable[..., Result]) -> None:
    """edm-cifar10 has a decoder of its own, which fits no other blocks."""
    Path("blocks.json").write_text(json.dumps({"network": {"blocks": ["res"]}}))
    preset = ("--preset", "edm-cifar10", "--size", 32, "--dry-run", "--json")
    file = ddpm("train", "--config", "blocks.json", *preset)
    option = ddpm("train", "--blocks", "res", *preset)
    assert file.code == option.code == 0, file.err
    assert file.json()["parameters"] == option.json()["parameters"]


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
