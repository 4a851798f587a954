"""The losses that a run reports: the same however often it saves, and wherever it was resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.config import run as c
from ddpm_cli.core.errors import DivergedError
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import step
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.metrics_log import MetricsLog
from ddpm_cli.core.training.speed import Speed
from ddpm_cli.core.training.state import Progress, TrainingState
from tests.support.cli import Result
from tests.support.faults import outcome
from tests.support.training import (
    CONFIG,
    CPU,
    decoded_images,
    equal_tensors,
    first_images,
    train_run,
)


@pytest.mark.parametrize("held_out", [0, 6])
def test_the_interval_of_snapshots_changes_no_reported_number(
    tmp_path: Path, held_out: int
) -> None:
    images = first_images(decoded_images(seed=1), held_out)
    config = replace(CONFIG, validate_every=24, log_every=16)
    for name, every in (("often", 8), ("seldom", 10**6)):
        train_run(tmp_path / name, replace(config, snapshot_every=every), held_out=images)
    often, seldom = (tmp_path / name for name in ("often", "seldom"))
    assert outcome(str(often)) == outcome(str(seldom))
    assert equal_tensors(*(load_file(run / "best.safetensors") for run in (often, seldom)))
    assert len({weights.load(run / "best.safetensors").images for run in (often, seldom)}) == 1


def test_patience_does_not_depend_on_snapshots_and_ends_with_one(tmp_path: Path) -> None:
    still = replace(CONFIG.optimiser, lr=1e-12)
    config = replace(CONFIG, optimiser=still, budget=c.Budget(images=8000), patience=2)
    held_out = first_images(decoded_images(seed=1), 6)
    ends = []
    for every in (24, 10**6):
        folder = tmp_path / str(every)
        some = replace(config, validate_every=16, snapshot_every=every)
        ends.append(train_run(folder, some, held_out=held_out).progress.images)
        assert int(snapshots.listed(folder / "snapshots")[-1].stem) == ends[-1]
        assert weights.load(folder / "model.safetensors").images == ends[-1]
    assert ends[0] == ends[1] < 8000


def test_the_smoothed_loss_has_no_bias_from_its_start(tmp_path: Path) -> None:
    progress = Progress()
    log = MetricsLog(RunDirectory(tmp_path), CONFIG, progress, CPU.device)

    class Bar:
        def update(self, done: float, note: str = "", status: object = None) -> None:
            pass

    smoothed = []
    for loss in (2.0, 2.0, 4.0):
        progress.images += 8
        log.count(torch.full((8,), loss), torch.ones(8), torch.zeros(()))
        log.write(Bar(), BudgetTracker(CONFIG, 8, progress), 0, 0, None)
        smoothed.append(progress.loss_smooth)
    assert smoothed[:2] == [2, 2] and 2 < smoothed[2] <= 4
    assert progress.loss == 4


def test_snapshots_of_former_versions_are_resumed(tmp_path: Path) -> None:
    """They had no decayed sums and no last losses, but what the speed of a row needed."""
    state = train_run(tmp_path).state_dict()
    new = ("loss", "loss_heldout", "smoothed_losses", "unlogged_quarters", "preview_seconds", "gap")
    former = {name: value for name, value in state["progress"].items() if name not in new}
    former |= {"unlogged_images": 8, "unlogged_seconds": 0.5, "unlogged_losses": [[3.0, 8.0]]}
    resumed = TrainingState.initial(CONFIG, CPU.device)
    resumed.load_state_dict(state | {"progress": former})
    assert resumed.progress.images == 64
    longer = replace(CONFIG, budget=c.Budget(images=96))
    progress = train_run(tmp_path, longer, resumed).progress
    assert progress.images == 96
    assert math.isfinite(progress.loss) and math.isfinite(progress.loss_smooth)


@pytest.mark.parametrize("patience", [0, 1])
def test_a_training_without_one_finite_step_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    loss = step.training_loss
    monkeypatch.setattr(step, "training_loss", lambda *given: loss(*given) * math.nan)
    config = replace(CONFIG, snapshot_every=10**6, validate_every=16, patience=patience)
    with pytest.raises(DivergedError, match="not finite in any step") as caught:
        train_run(tmp_path, config)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (3, False)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_summary_of_a_training(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses by name, and valid JSON where the last steps were not finite."""
    result = train_tiny("--out", "run", "--holdout", 4, "--json")
    assert result.code == 0, result.err
    summary = result.json()
    last = RunDirectory(Path("run")).rows()[-1]
    names = ("loss", "loss_smooth", "images_per_second")
    assert [summary[name] for name in names[:2]] == [last[name] for name in names[:2]]
    assert summary["loss_heldout"] == last["loss_holdout"] >= summary["best"]
    assert summary["best_of"] == "loss_heldout"
    assert f"{summary['images_per_second']:,.1f} images/s" in result.err

    loss, calls = step.training_loss, []

    def broken_after_two(*given: object) -> torch.Tensor:
        calls.append(1)
        return loss(*given) * (1 if len(calls) < 3 else math.nan)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "training_loss", broken_after_two)
    result = train_tiny("--out", "other")
    assert result.code == 0, result.err
    assert "6 of 8 steps were not finite" in result.out and "nan" not in result.out
    again = train_tiny("--out", "other", "--json")
    assert (again.json()["loss"], again.json()["images_per_second"]) == (None, None)


def test_the_first_step_is_no_part_of_the_speed_where_others_follow() -> None:
    speed = Speed(batch=8)
    assert (speed.mean, speed.of_row()) == (None, None)
    speed.add(4)
    assert (speed.mean, speed.of_row()) == (2, 2)
    for seconds in (1, 1, 2):
        speed.add(seconds)
    assert (speed.mean, speed.of_row()) == (6, 6)
    speed.add(4)
    assert (speed.mean, speed.of_row()) == (4, 2)
