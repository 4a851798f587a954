"""The preset cifar10-fast on a CPU: its settings and steps, with a network that is narrow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.training.trainer import learning_rate
from tests.support.cli import Result

LIKE_IT = ("--preset", "cifar10-fast", "--width", 32, "--device", "cpu")
BLOCKS = ("--blocks", "res", *("--blocks", "res,attn") * 2)  # one a level instead of two


def test_it_trains_samples_and_is_scored(
    ddpm: Callable[..., Result], photos: Path, trained: Path
) -> None:
    """Classes, EDM's noise levels and Heun's sampler, as on a GPU."""
    options = ("--data", photos, "--size", 16, *BLOCKS, "--batch", 8, "--steps", 3)
    result = ddpm("train", *LIKE_IT, *options, "--preview", 0, "--out", "run", "--json")
    assert result.code == 0, result.err
    assert (result.json()["steps"], result.json()["skipped_steps"]) == (3, 0)
    config = json.loads(Path("run/config.json").read_text())
    assert config["network"]["classes"] == ["dark", "light"]
    assert config["objective"]["noise_levels"] == "log-normal"

    sampling = ("--sampler", "heun", "--steps", 2, "-n", 4)
    for name, seed in (("real", 0), ("fake", 1)):
        drawn = ddpm("sample", "run", *sampling, "--seed", seed, "--out", name)
        assert drawn.code == 0, drawn.err
    score = ddpm("fid", "real", "fake", "--features", trained, "--json")
    assert score.code == 0, score.err
    assert score.json()["fid"] > 0


@pytest.mark.usefixtures("planned_only")
@pytest.mark.parametrize("minutes", [10, 40])
def test_minutes_bring_its_rate_to_zero(
    minutes: int, ddpm: Callable[..., Result], photos: Path
) -> None:
    """Whatever the speed: warm-up is in images, decay in the part of the budget that is used."""
    plan = ddpm("train", *LIKE_IT, "--data", photos, "--minutes", minutes, "--dry-run", "--json")
    assert (plan.json()["images"], plan.json()["minutes"]) == (None, minutes)
    optimiser = updated(RunConfig(), preset("cifar10-fast").settings).optimiser
    warm = 2_000_000  # images of the first quarter of ten minutes, at a third of the H200's limit
    assert learning_rate(optimiser, warm // 2, 0.25) == optimiser.lr
    assert learning_rate(optimiser, warm, 0.75) == pytest.approx(optimiser.lr / 2)
    assert learning_rate(optimiser, warm, 1.0) == 0


def test_its_widths_suit_tensor_cores() -> None:
    """Channels and heads in multiples of 64, attention at 16x16 and 8x8 alone."""
    network = updated(NetworkConfig(), preset("cifar10-fast").settings["network"])
    assert all(level.width % 64 == 0 for level in network.levels)
    attends = [any("attn" in stage for stage in level.down) for level in network.levels]
    assert (attends, network.head_width) == ([False, True, True], 64)
