"""What a step found is read when the next one is queued, where the device works on its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.errors import DivergedError
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.training import step
from ddpm_cli.core.training.state import TrainingState
from tests.support.training import CONFIG, batches_of, decoded_images, equal_tensors, train_run

QUIET = replace(CONFIG, snapshot_every=10**6, validate_every=10**6)  # nothing but steps


class Late(devices.Copy):
    """A copy from a device that has not finished the step."""

    pending = 0

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        self._copy = tensor.clone()
        self.is_late = True
        Late.pending += 1
        assert Late.pending <= 2  # no more than the step that runs and the one just queued

    def tolist(self) -> list[float]:
        Late.pending -= 1
        values: list[float] = self._copy.tolist()
        return values


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "pending", 0)
    monkeypatch.setattr(devices, "Copy", Late)


def not_finite_at(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the losses of these steps, from 1, be infinite."""
    loss, calls = step.training_loss, [0]

    def broken(*given: Any) -> Tensor:
        if torch.is_grad_enabled():
            calls[0] += 1
        return loss(*given) * (math.inf if calls[0] in steps else 1)

    monkeypatch.setattr(step, "training_loss", broken)


def trained(folder: Path, steps: set[int]) -> TrainingState:
    with pytest.MonkeyPatch.context() as patch:
        not_finite_at(steps, patch)
        config = replace(
            CONFIG, budget=Budget(steps=12), snapshot_every=10**6, validate_every=10**6
        )
        return train_run(folder, config)


@pytest.mark.parametrize("steps", [{3}, {1, 2}, {5, 6, 7, 9}, {12}])
def test_read_late_or_at_once_all_is_the_same(
    tmp_path: Path, steps: set[int], request: pytest.FixtureRequest
) -> None:
    at_once = trained(tmp_path / "one", steps)
    request.getfixturevalue("late")
    late = trained(tmp_path / "other", steps)
    assert at_once.progress.skipped == late.progress.skipped == len(steps)
    assert at_once.progress.bad_steps == late.progress.bad_steps
    assert at_once.progress.smoothed_losses == late.progress.smoothed_losses
    for name in ("network", "average"):
        assert equal_tensors(at_once.state_dict()[name], late.state_dict()[name])


@pytest.mark.usefixtures("late")
def test_twenty_steps_that_are_not_finite_end_the_training_at_the_twentieth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_at(set(range(4, 100)), monkeypatch)
    with pytest.raises(DivergedError, match="up to step 23"):
        train_run(tmp_path, replace(QUIET, budget=Budget(steps=60)))


def test_the_noise_of_an_image_does_not_depend_on_the_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, optimiser=replace(CONFIG.optimiser, batch=150))
    images = decoded_images()
    whole = batches_of(config, images).draw(300, None).noised.noise
    assert whole.flatten(1).unique(dim=0).shape[0] == 150
    monkeypatch.setenv("WORLD_SIZE", "4")
    shards = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        shards.append(batches_of(config, images).draw(300, None).noised.noise)
    assert [len(shard) for shard in shards] == [37, 38, 37, 38]
    assert torch.equal(torch.cat(shards), whole)
