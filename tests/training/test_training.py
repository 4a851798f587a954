"""Training: convergence, exact resumes, budgets, early stopping and non-finite steps."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.config import run as c
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.errors import DdpmError, DivergedError, UsageError
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import ema, resuming, step
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Trainer, learning_rate, passed_multiple
from ddpm_cli.core.training.validation import COLUMNS
from tests.support import ranks
from tests.support.cli import Result, start, stdout_of
from tests.support.faults import outcome
from tests.support.training import (
    CONFIG,
    CPU,
    NO_IMAGES,
    Messages,
    decoded_images,
    equal_tensors,
    first_images,
    train_run,
    watchdog_pauses,
)


def test_a_few_images_are_overfitted(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        network=replace(CONFIG.network, width=16),
        diffusion=c.DiffusionConfig("cosine", 1000, "x0"),
        optimiser=replace(CONFIG.optimiser, lr=5e-3, batch=16, decay=0.3),
        budget=c.Budget(steps=80),
        snapshot_every=1000,
    )
    state = train_run(tmp_path, config)
    pixels = decoded_images().pixels / 127.5 - 1
    variance = np.square(pixels - pixels.mean(axis=0)).mean()
    assert state.progress.loss_smooth < 0.2 * variance


def test_the_initial_loss_is_that_of_zero_output(tmp_path: Path) -> None:
    config = replace(CONFIG, diffusion=c.DiffusionConfig("cosine", 1000, "eps"))
    state = train_run(tmp_path, replace(config, budget=c.Budget(steps=1)))
    assert state.progress.loss_smooth == pytest.approx(1, abs=0.15)  # E[n^2] over 8 x 192 values


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    network = replace(CONFIG.network, dropout=0.2)
    optimiser = replace(CONFIG.optimiser, decay=0.5)
    config = replace(CONFIG, network=network, optimiser=optimiser, budget=c.Budget(images=96))
    uninterrupted = train_run(tmp_path / "uninterrupted", config)

    # The learning rate depends on the budget, so the first half needs the whole one and a signal.
    request = StopRequest()

    class Stop(Silent):
        def update(self, done: float, note: str = "", status: object = None) -> None:
            if done > 40:
                request.on_signal(signal.SIGTERM)

    run = RunDirectory(tmp_path / "halves")
    run.path.mkdir()
    first = TrainingState.initial(config, CPU.device)
    with pytest.raises(DdpmError, match="SIGTERM") as caught:
        Trainer(run, config, first, decoded_images(), NO_IMAGES, CPU, Stop()).train(request)
    assert caught.value.exit_code == 75
    assert 0 < first.progress.images < 96
    second = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(run.snapshots, second, Silent()) is not None
    assert second.progress.images == first.progress.images
    train_run(tmp_path / "halves", config, second)

    assert equal_tensors(uninterrupted.network.state_dict(), second.network.state_dict())
    assert equal_tensors(uninterrupted.average.state_dict(), second.average.state_dict())
    assert outcome(str(tmp_path / "uninterrupted")) == outcome(str(tmp_path / "halves"))


def test_microbatches_give_the_same_weights(tmp_path: Path) -> None:
    whole = train_run(tmp_path / "whole")
    parts = train_run(tmp_path / "parts", execution=replace(CPU, microbatch=3))
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        # Adam divides by the gradient's magnitude, which amplifies rounding where it is near 0.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_validation_uses_microbatch_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that exceed the memory in training would exceed it in validation, too."""
    loss, calls = step.training_loss, set()

    def recorded(denoiser: Denoiser, noised: Noised, *arguments: Any) -> torch.Tensor:
        calls.add((torch.is_grad_enabled(), len(noised.x0), torch.is_autocast_enabled("cpu")))
        return loss(denoiser, noised, *arguments)

    monkeypatch.setattr(step, "training_loss", recorded)
    execution = replace(CPU, microbatch=3, precision=torch.bfloat16)
    config = replace(CONFIG, budget=c.Budget(images=16))
    held_out = first_images(decoded_images(seed=1), 7)
    train_run(tmp_path, config, held_out=held_out, execution=execution)
    assert calls == {(True, 3, True), (True, 2, True), (False, 3, True), (False, 1, True)}


def test_runs_of_one_seed_are_equal(tmp_path: Path) -> None:
    one, other = (train_run(tmp_path / name).average.state_dict() for name in ("a", "b"))
    assert equal_tensors(one, other)
    changed = replace(CONFIG, optimiser=replace(CONFIG.optimiser, seed=1))
    assert not equal_tensors(one, train_run(tmp_path / "c", changed).average.state_dict())


@pytest.mark.usefixtures("loss_curve")
def test_files_of_a_run_directory(tmp_path: Path) -> None:
    config = replace(CONFIG, preview=4)
    state = train_run(tmp_path, config, held_out=first_images(decoded_images(seed=1), 6))
    run = RunDirectory(tmp_path)
    rows = run.rows()
    assert [row["images"] for row in rows] == list(range(8, 65, 8))
    names = {"images", "steps", "seconds", "loss", "lr", "grad_norm", "images_per_second"}
    assert names <= rows[0].keys()
    assert [row["images"] for row in rows if row["loss_holdout"] is not None] == [32, 64]
    with (tmp_path / "metrics.csv").open() as file:
        as_csv = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in as_csv] == [row["loss"] for row in rows]
    assert equal_tensors(load_file(run.weights), state.average.state_dict())
    assert [path.name for path in snapshots.listed(run.snapshots)] == [
        "000000000032.pt",
        "000000000064.pt",
    ]
    assert run.loss_plot.stat().st_size > 5000
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "000000008.png",
        "000000032.png",
        "000000064.png",
    ]
    assert list(tmp_path.rglob("*.part")) == []


def test_a_weights_file_contains_its_config(tmp_path: Path) -> None:
    state = train_run(tmp_path)
    loaded = weights.load(tmp_path / "model.safetensors")
    assert loaded.config == CONFIG
    assert loaded.images == 64
    assert equal_tensors(loaded.network.state_dict(), state.average.state_dict())


def test_the_best_weights_are_kept_and_patience_ends_a_run_that_overfits(tmp_path: Path) -> None:
    """The held-out images are negatives of the training images, so their loss soon rises."""
    all_images = decoded_images()
    negatives = replace(all_images, pixels=255 - all_images.pixels)
    one_class = replace(all_images, rows=all_images.rows[::2])
    config = replace(
        CONFIG,
        optimiser=replace(CONFIG.optimiser, ema_rampup=1e-9),
        budget=c.Budget(images=8000),
        snapshot_every=10**6,  # no matter to what is best and when it ends
        validate_every=80,
        patience=3,
    )
    state = TrainingState.initial(config, CPU.device)
    run = RunDirectory(tmp_path)
    held_out = replace(negatives, rows=negatives.rows[::2])
    Trainer(run, config, state, one_class, held_out, CPU, Silent()).train(StopRequest())
    losses = [row["loss_holdout"] for row in run.rows() if row["loss_holdout"] is not None]
    best = int(np.argmin(losses))
    assert state.progress.images < 8000
    assert len(losses) == best + 1 + 3
    stopped_at = state.progress.images
    Trainer(run, config, state, one_class, held_out, CPU, Silent()).train(StopRequest())
    assert state.progress.images == stopped_at  # training again takes no step
    images = [row["images"] for row in run.rows() if row["loss_holdout"] is not None]
    assert weights.load(run.best).images == images[best]
    assert weights.load(run.weights).images == images[-1]


def test_non_finite_steps_change_nothing_and_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = train_run(tmp_path)
    before = {name: t.clone() for name, t in state.average.state_dict().items()}
    newest = snapshots.listed(tmp_path / "snapshots")[-1].read_bytes()
    loss, calls = step.training_loss, []

    def non_finite(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * math.nan  # type: ignore[arg-type]

    monkeypatch.setattr(step, "training_loss", non_finite)
    with pytest.raises(DivergedError, match="20 steps in a row") as caught:
        train_run(
            tmp_path, replace(CONFIG, budget=c.Budget(images=8000), snapshot_every=8000), state
        )
    assert caught.value.exit_code == 3
    assert len(calls) == 20
    assert equal_tensors(before, state.average.state_dict())
    assert snapshots.listed(tmp_path / "snapshots")[-1].read_bytes() == newest


def test_one_non_finite_step_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = step.training_loss, []

    def non_finite_once(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * (math.inf if len(calls) == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "training_loss", non_finite_once)
    state = train_run(tmp_path)
    assert (state.progress.skipped, state.progress.bad_steps, state.progress.steps) == (1, 0, 8)
    assert all(torch.isfinite(p).all() for p in state.average.parameters())
    assert math.isfinite(state.progress.loss_smooth)
    rows = RunDirectory(tmp_path).rows()
    assert [row["loss"] is None for row in rows] == [False, False, True, *5 * [False]]
    assert rows[2]["grad_norm"] is None


def test_a_run_whose_snapshots_are_all_damaged_is_not_restarted(tmp_path: Path) -> None:
    train_run(tmp_path)
    for path in snapshots.listed(tmp_path / "snapshots"):
        path.write_bytes(b"damaged")
    state = TrainingState.initial(CONFIG, CPU.device)
    with pytest.raises(DdpmError, match="none of the 2 snapshots"):
        resuming.restore_newest(tmp_path / "snapshots", state, Silent())


def test_resuming_from_an_older_snapshot_sets_newer_ones_aside(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
) -> None:
    tiny_run("run")
    older, newer = snapshots.listed(Path("run/snapshots"))
    again = train_tiny("--out", "run", "--resume", older, "--images", 40, "--json")
    assert (again.json()["resumed_at"], again.json()["images"]) == (32, 40)
    assert [path.stem for path in snapshots.listed(Path("run/snapshots"))] == [
        older.stem,
        f"{40:012d}",
    ]
    assert newer.with_suffix(".superseded").is_file()


def test_previews_with_fewer_timesteps_than_steps(tmp_path: Path) -> None:
    config = replace(CONFIG, diffusion=c.DiffusionConfig("cosine", 5, "x0"), preview=2)
    train_run(tmp_path, config)
    assert (tmp_path / "samples" / "000000064.png").is_file()


def test_a_snapshot_of_another_network_is_named_and_the_previous_one_used(tmp_path: Path) -> None:
    train_run(tmp_path)
    older, newest = snapshots.listed(tmp_path / "snapshots")
    torch.save({"network": {}, "average": {}}, newest)
    state, reporter = TrainingState.initial(CONFIG, CPU.device), Messages()
    assert resuming.restore_newest(tmp_path / "snapshots", state, reporter) == older
    assert state.progress.images == 32
    assert str(newest) in reporter.messages[0]


def test_learning_rate_warm_up_and_decay() -> None:
    config = c.OptimiserConfig(batch=10, lr=1.0, warmup=100, decay=0.4)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 90, 0.1) == 1
    assert learning_rate(config, 500, 0.59) == 1
    assert learning_rate(config, 800, 0.8) == pytest.approx(0.5)
    assert learning_rate(config, 999, 1.0) == 0


def test_the_ema_decays_by_half_in_a_half_life() -> None:
    decay = ema.decay_after(batch=8, images=10**9, halflife=64, rampup=0.05)
    assert decay**8 == pytest.approx(0.5)
    # During ramp-up the half-life is a fraction of the images seen.
    assert ema.decay_after(8, 160, 64, 0.05) == pytest.approx(0.5)
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.9 * one.weight + 0.1 * other.weight
    ema.update(one, other, 0.9, torch.ones(()))
    assert not torch.allclose(one.weight, expected)  # a skipped step
    ema.update(one, other, 0.9, torch.zeros(()))
    torch.testing.assert_close(one.weight, expected)


def test_passed_multiples() -> None:
    assert [n for n in range(3, 31, 3) if passed_multiple(n, 3, 10)] == [12, 21, 30]


@pytest.mark.parametrize(
    ("budget", "images"),
    [
        ({"images": 30}, 32),  # whole steps
        ({"steps": 3}, 24),
        ({"epochs": 0.5}, 8),
        ({"epochs": 1, "images": 10}, 16),
        ({"minutes": 1e-6}, 8),
    ],
)
def test_budgets(tmp_path: Path, budget: dict[str, float], images: int) -> None:
    state = train_run(tmp_path, replace(CONFIG, budget=c.Budget(**budget)))  # type: ignore[arg-type]
    assert state.progress.images == images


@pytest.mark.parametrize(
    "budget",
    [{"steps": 0}, {"images": -5}, {"epochs": 0.0}, {"minutes": math.nan}],
)
def test_budgets_must_be_positive(budget: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        c.Budget(**budget)  # type: ignore[arg-type]


@pytest.mark.chaos
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    tiny: Path, photos: Path
) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--images", 1600, "--preview", 0)
    stdout_of(start(*command, "--out", "uninterrupted", "--snapshot-every", 160))
    process = start(*command, "--out", "killed", "--snapshot-every", 160)
    folder = Path("killed/snapshots")
    while process.poll() is None and not list(folder.glob("[0-9]*.pt")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    saved = [int(path.stem) for path in folder.glob("[0-9]*.pt")]
    assert saved and max(saved) < 1600, "it ended before it could be killed"
    stdout_of(start(*command, "--out", "killed", "--snapshot-every", 160))
    assert equal_tensors(
        load_file("uninterrupted/model.safetensors"), load_file("killed/model.safetensors")
    )
    rows = [
        [row["images"] for row in RunDirectory(Path(name)).rows()]
        for name in ("uninterrupted", "killed")
    ]
    assert rows[0] == rows[1]


def test_two_processes_give_the_weights_of_one(
    train_tiny: Callable[..., Result], tiny: Path, photos: Path
) -> None:
    options = ("--batch", 9, "--holdout", 5, "--augment", 0.3, "--json")
    one = train_tiny(*options, "--out", "one").json()
    command = ("train", "--data", photos, "--config", tiny, *options, "--out", "two")
    both = ranks.run(2, "", *command)
    assert [result.code for result in both] == [0, 0], both[0].err
    two = json.loads(both[0].out)
    assert Path("two/log.txt").read_text().count("Run directory: two") == 2  # of one process
    (record,) = Path("two/provenance.jsonl").read_text().splitlines()
    assert json.loads(record)["command"].startswith("ddpm train --data")
    assert one["images"] == two["images"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)  # sums in another order
    assert one["best"] == pytest.approx(two["best"], rel=1e-4)
    for row, other in zip(*(RunDirectory(Path(n)).rows() for n in ("one", "two")), strict=True):
        for column in ("loss_q0", "loss_q1", "loss_q2", "loss_q3", *COLUMNS):
            near = None if other[column] is None else pytest.approx(other[column], rel=1e-4)
            assert row[column] == near, column
    alone, together = (load_file(f"{name}/model.safetensors") for name in ("one", "two"))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=2e-4, msg=name)


def test_ctrl_c_saves_and_the_same_command_resumes(
    ddpm: Callable[..., Result], tiny: Path, photos: Path
) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--preview", 0)
    command = (*command, "--images")
    running = start(*command, 10**7, "--snapshot-every", 2000)
    while running.poll() is None and len(RunDirectory(Path("run")).rows()) < 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=ranks.SECONDS)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    saved_at = int(snapshots.listed(Path("run/snapshots"))[-1].stem)
    assert saved_at > 0
    again = ddpm(*command, saved_at + 8, "--json").json()
    assert (again["resumed_at"], again["images"]) == (saved_at, saved_at + 8)


@pytest.mark.chaos
def test_training_under_torchrun(tiny: Path, photos: Path) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--json")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    completed = subprocess.run(
        [*launcher, "-m", "ddpm_cli", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=ranks.SECONDS,
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["images"] == 64


@pytest.mark.chaos
def test_an_error_in_a_worker_is_reported_in_one_line_with_its_exit_code(
    tiny: Path, photos: Path
) -> None:
    launcher = start("train", "--data", photos, "--config", tiny, "--batch", 1, "--nproc", 2)
    _, err = launcher.communicate(timeout=ranks.SECONDS)
    assert launcher.returncode == 2
    assert "--batch 1 is less than one image for each of 2 processes" in err
    assert "Traceback" not in err


def test_compiling_pauses_the_watchdog_and_changes_no_weights(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    during_compilation, compiling = [], torch.nn.Module.compile
    paused = watchdog_pauses(monkeypatch)

    def eager(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        during_compilation.append(paused())
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compiling, backend=eager))
    small = ("--multipliers", "1", "--blocks", "res", "--images", 16)
    assert train_tiny("--out", "plain", *small).code == 0
    assert not during_compilation
    assert train_tiny("--out", "compiled", "--compile", *small).code == 0
    assert during_compilation and all(during_compilation)
    one, other = (load_file(f"{name}/model.safetensors") for name in ("plain", "compiled"))
    assert equal_tensors(one, other)


def test_resuming_with_the_command_line(train_tiny: Callable[..., Result]) -> None:
    first = train_tiny("--out", "run", "--json")
    assert first.code == 0
    assert first.json()["resumed_at"] == 0
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["images"]) == (0, 64)
    assert "budget is used up" in again.err
    longer = train_tiny("--out", "run", "--images", 96, "--json")
    assert (longer.json()["resumed_at"], longer.json()["images"]) == (64, 96)


def test_existing_runs_and_folders_are_not_overwritten(
    train_tiny: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    tiny_run("run")
    before = Path("run/model.safetensors").read_bytes()
    other = train_tiny("--out", "run", "--batch", 4)
    assert (other.code, "--batch 8 -> 4" in other.err) == (1, True)
    never = train_tiny("--out", "run", "--resume", "never")
    assert (never.code, "would overwrite" in never.err) == (1, True)
    missing = train_tiny("--out", "run", "--resume", "nothing.pt")
    assert (missing.code, "nothing.pt: no such file" in missing.err) == (1, True)
    assert Path("run/model.safetensors").read_bytes() == before
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    full = train_tiny("--out", "full")
    assert (full.code, "holds no run" in full.err) == (1, True)
    assert [path.name for path in Path("full").iterdir()] == ["thesis.tex"]


def test_resume_never_uses_the_next_free_directory(train_tiny: Callable[..., Result]) -> None:
    runs = [
        train_tiny("--resume", mode, "--json").json()["run"] for mode in ("auto", "never", "never")
    ]
    assert runs == ["runs/photos-8", "runs/photos-8-2", "runs/photos-8-3"]
