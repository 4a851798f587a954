"""Training: it learns, resumes exactly, ends when it should, and never saves what is broken."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.config import run as c
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.errors import DdpmError, DivergedError, UsageError
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.elastic import watchdog
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import ema, resuming, trainer
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer, learning_rate, passed_multiple
from tests.conftest import TINY, Result
from tests.support import ranks

CPU = Execution(torch.device("cpu"))
BASE = updated(c.RunConfig(), TINY | {"preview": 0})
CONFIG = replace(BASE, network=replace(BASE.network, size=(8, 8)), data=c.DataConfig(flip=False))


def pictures(count: int = 16, seed: int = 0) -> DecodedImages:
    """Two kinds of pictures: dark ones with a light corner, and the reverse."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 30, (count, 3, 8, 8))
    images[:, :, :4, :4] += 200
    images[::2] = 255 - images[::2]
    labels = np.arange(count) % 2
    return DecodedImages(images.astype(np.uint8), labels, np.arange(count))


def trained(
    folder: Path,
    config: c.RunConfig = CONFIG,
    state: TrainingState | None = None,
    held_out: DecodedImages | None = None,
    machine: Execution = CPU,
) -> TrainingState:
    folder.mkdir(parents=True, exist_ok=True)
    state = state or TrainingState.initial(config, machine.device)
    none = replace_rows(pictures(), 0)
    Trainer(
        RunDirectory(folder), config, state, pictures(), held_out or none, machine, Silent()
    ).train(StopRequest())
    return state


def replace_rows(all_pictures: DecodedImages, count: int) -> DecodedImages:
    return replace(all_pictures, rows=all_pictures.rows[:count])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_it_overfits_a_few_pictures(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        network=replace(CONFIG.network, width=16),
        diffusion=c.DiffusionConfig("cosine", 1000, "x0"),
        optimiser=replace(CONFIG.optimiser, lr=5e-3, batch=16, decay=0.3),
        budget=c.Budget(steps=150),
        snapshot_every=1000,
    )
    state = trained(tmp_path, config)
    shown = pictures().pixels / 127.5 - 1
    only_the_mean = np.square(shown - shown.mean(axis=0)).mean()
    assert state.progress.loss_smooth < 0.2 * only_the_mean


def test_the_loss_of_a_fresh_network_is_that_of_outputting_zero(tmp_path: Path) -> None:
    config = replace(CONFIG, diffusion=c.DiffusionConfig("cosine", 1000, "eps"))
    state = trained(tmp_path, replace(config, budget=c.Budget(steps=1)))
    assert state.progress.loss_smooth == pytest.approx(1, abs=0.15)  # E[n^2] over 8 x 192 numbers


def test_stopping_and_going_on_changes_nothing(tmp_path: Path) -> None:
    network = replace(CONFIG.network, dropout=0.2)
    optimiser = replace(CONFIG.optimiser, decay=0.5)
    config = replace(CONFIG, network=network, optimiser=optimiser, budget=c.Budget(images=96))
    straight = trained(tmp_path / "straight", config)

    # The learning rate looks ahead to the end of the budget, so the stop must come from outside.
    request = StopRequest()

    class Stop(Silent):
        def update(self, done: float, note: str = "") -> None:
            if done > 40:
                request.on_signal(signal.SIGTERM)

    run = RunDirectory(tmp_path / "halves")
    run.path.mkdir()
    first, none = TrainingState.initial(config, CPU.device), replace_rows(pictures(), 0)
    with pytest.raises(DdpmError, match="SIGTERM") as caught:
        Trainer(run, config, first, pictures(), none, CPU, Stop()).train(request)
    assert caught.value.exit_code == 75
    assert 0 < first.progress.images < 96
    second = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(run.snapshots, second, Silent()) is not None
    assert second.progress.images == first.progress.images
    trained(tmp_path / "halves", config, second)

    assert same(straight.network.state_dict(), second.network.state_dict())
    assert same(straight.average.state_dict(), second.average.state_dict())


def test_microbatches_learn_the_same(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    parts = trained(tmp_path / "parts", machine=replace(CPU, microbatch=3))
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        # Adam divides by the gradient's size, so where that is near 0 rounding is magnified.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_validation_keeps_to_microbatch_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into memory at once when training does not when validating either."""
    loss, seen = trainer.training_loss, set()

    def noted(denoiser: Denoiser, noised: Noised, *given: Any) -> torch.Tensor:
        seen.add((torch.is_grad_enabled(), len(noised.x0), torch.is_autocast_enabled("cpu")))
        return loss(denoiser, noised, *given)

    monkeypatch.setattr(trainer, "training_loss", noted)
    machine = replace(CPU, microbatch=3, precision=torch.bfloat16)
    config = replace(CONFIG, budget=c.Budget(images=16))
    trained(tmp_path, config, machine=machine, held_out=replace_rows(pictures(seed=1), 7))
    assert seen == {(True, 3, True), (True, 2, True), (False, 3, True), (False, 1, True)}


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    one, other = (trained(tmp_path / name).average.state_dict() for name in ("a", "b"))
    assert same(one, other)
    changed = replace(CONFIG, optimiser=replace(CONFIG.optimiser, seed=1))
    assert not same(one, trained(tmp_path / "c", changed).average.state_dict())


def test_what_a_run_directory_holds(tmp_path: Path) -> None:
    config = replace(CONFIG, preview=4)
    state = trained(tmp_path, config, held_out=replace_rows(pictures(seed=1), 6))
    run = RunDirectory(tmp_path)
    rows = run.rows()
    assert [row["images"] for row in rows] == list(range(8, 65, 8))
    wanted = {"images", "steps", "seconds", "loss", "lr", "grad_norm", "images_per_second"}
    assert wanted <= rows[0].keys()
    assert [row["images"] for row in rows if row["loss_holdout"] is not None] == [8, 32, 64]
    with (tmp_path / "metrics.csv").open() as file:
        as_csv = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in as_csv] == [row["loss"] for row in rows]
    assert same(load_file(run.weights), state.average.state_dict())
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


def test_weights_carry_their_config(tmp_path: Path) -> None:
    state = trained(tmp_path)
    held = weights.load(tmp_path / "model.safetensors")
    assert held.config == CONFIG
    assert held.images == 64
    assert same(held.network.state_dict(), state.average.state_dict())


def test_the_best_is_kept_and_patience_ends_a_run_that_gets_worse(tmp_path: Path) -> None:
    """The held-out pictures are the negatives of the others': learning more makes them worse."""
    all_pictures = pictures()
    negative = replace(all_pictures, pixels=255 - all_pictures.pixels)
    one_kind = replace(all_pictures, rows=all_pictures.rows[::2])
    config = replace(
        CONFIG,
        optimiser=replace(CONFIG.optimiser, ema_rampup=1e-9),
        budget=c.Budget(images=8000),
        snapshot_every=80,
        patience=3,
    )
    state = TrainingState.initial(config, CPU.device)
    run = RunDirectory(tmp_path)
    held_out = replace(negative, rows=negative.rows[::2])
    Trainer(run, config, state, one_kind, held_out, CPU, Silent()).train(StopRequest())
    losses = [row["loss_holdout"] for row in run.rows() if row["loss_holdout"] is not None]
    best = int(np.argmin(losses))
    assert state.progress.images < 8000
    assert len(losses) == best + 1 + 3
    stopped_at = state.progress.images
    Trainer(run, config, state, one_kind, held_out, CPU, Silent()).train(StopRequest())
    assert state.progress.images == stopped_at  # running it again does not go on
    images = [row["images"] for row in run.rows() if row["loss_holdout"] is not None]
    assert weights.load(run.best).images == images[best]
    assert weights.load(run.weights).images == images[-1]


def test_numbers_that_go_wrong_touch_nothing_and_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained(tmp_path)
    before = {name: t.clone() for name, t in state.average.state_dict().items()}
    newest = snapshots.listed(tmp_path / "snapshots")[-1].read_bytes()
    from ddpm_cli.core.training import trainer

    real, calls = trainer.training_loss, []

    def poisoned(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * math.nan  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "training_loss", poisoned)
    with pytest.raises(DivergedError, match="20 steps in a row") as caught:
        trained(tmp_path, replace(CONFIG, budget=c.Budget(images=8000), snapshot_every=8000), state)
    assert caught.value.exit_code == 3
    assert len(calls) == 20
    assert same(before, state.average.state_dict())
    assert snapshots.listed(tmp_path / "snapshots")[-1].read_bytes() == newest


def test_one_bad_step_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpm_cli.core.training import trainer

    real, calls = trainer.training_loss, []

    def poisoned_once(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * (math.inf if len(calls) == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "training_loss", poisoned_once)
    state = trained(tmp_path)
    assert (state.progress.skipped, state.progress.bad_steps, state.progress.steps) == (1, 0, 8)
    assert all(torch.isfinite(p).all() for p in state.average.parameters())
    assert math.isfinite(state.progress.loss_smooth)
    rows = RunDirectory(tmp_path).rows()
    assert [row["loss"] is None for row in rows] == [False, False, True, *5 * [False]]
    assert rows[2]["grad_norm"] is None


def test_a_run_of_torn_snapshots_is_not_begun_anew(tmp_path: Path) -> None:
    trained(tmp_path)
    for path in snapshots.listed(tmp_path / "snapshots"):
        path.write_bytes(b"torn")
    state = TrainingState.initial(CONFIG, CPU.device)
    with pytest.raises(DdpmError, match="none of the 2 snapshots"):
        resuming.restore_newest(tmp_path / "snapshots", state, Silent())


def test_going_on_from_an_older_snapshot_sets_newer_ones_aside(
    train_tiny: Callable[..., Result],
) -> None:
    assert train_tiny("--out", "run").code == 0
    older, newer = snapshots.listed(Path("run/snapshots"))
    again = train_tiny("--out", "run", "--resume", older, "--images", 40, "--json")
    assert (again.json()["resumed_at"], again.json()["images"]) == (32, 40)
    assert [path.stem for path in snapshots.listed(Path("run/snapshots"))] == [
        older.stem,
        f"{40:012d}",
    ]
    assert newer.with_suffix(".superseded").is_file()


def test_a_short_schedule_has_previews_too(tmp_path: Path) -> None:
    config = replace(CONFIG, diffusion=c.DiffusionConfig("cosine", 5, "x0"), preview=2)
    trained(tmp_path, config)
    assert (tmp_path / "samples" / "000000064.png").is_file()


def test_a_snapshot_of_another_network_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    trained(tmp_path)
    older, newest = snapshots.listed(tmp_path / "snapshots")
    torch.save({"network": {}, "average": {}}, newest)
    said: list[str] = []

    class Listener(Silent):
        def say(self, message: str) -> None:
            said.append(message)

    state = TrainingState.initial(CONFIG, CPU.device)
    assert resuming.restore_newest(tmp_path / "snapshots", state, Listener()) == older
    assert state.progress.images == 32
    assert str(newest) in said[0]


def test_learning_rate_rises_stays_and_falls() -> None:
    learn = c.OptimiserConfig(batch=10, lr=1.0, warmup=100, decay=0.4)
    assert learning_rate(learn, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(learn, 90, 0.1) == 1
    assert learning_rate(learn, 500, 0.59) == 1
    assert learning_rate(learn, 800, 0.8) == pytest.approx(0.5)
    assert learning_rate(learn, 999, 1.0) == 0


def test_the_average_forgets_half_in_a_half_life() -> None:
    decay = ema.decay_after(batch=8, images=10**9, halflife=64, rampup=0.05)
    assert decay**8 == pytest.approx(0.5)
    # Early on the half-life is a share of the images seen.
    assert ema.decay_after(8, 160, 64, 0.05) == pytest.approx(0.5)
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.9 * one.weight + 0.1 * other.weight
    ema.update(one, other, 0.9)
    torch.testing.assert_close(one.weight, expected)


def test_multiples_are_noticed_when_passed() -> None:
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
    state = trained(tmp_path, replace(CONFIG, budget=c.Budget(**budget)))  # type: ignore[arg-type]
    assert state.progress.images == images


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"images": -5}, {"epochs": 0.0}, {"minutes": math.nan}],
)
def test_budgets_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        c.Budget(**wrong)  # type: ignore[arg-type]


def shell(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm_cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=ranks.SECONDS)
    assert process.returncode == 0, err
    return out


@pytest.mark.chaos
def test_killed_and_run_again_ends_like_undisturbed(tiny: Path, photos: Path) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--images", 1600, "--preview", 0)
    finished(shell(*command, "--out", "straight", "--snapshot-every", 160))
    victim = shell(*command, "--out", "killed", "--snapshot-every", 160)
    folder = Path("killed/snapshots")
    while victim.poll() is None and not list(folder.glob("[0-9]*.pt")):
        time.sleep(0.01)
    victim.kill()
    victim.communicate()
    held = [int(path.stem) for path in folder.glob("[0-9]*.pt")]
    assert held and max(held) < 1600, "it ended before it could be killed"
    finished(shell(*command, "--out", "killed", "--snapshot-every", 160))
    assert same(load_file("straight/model.safetensors"), load_file("killed/model.safetensors"))
    rows = [
        [row["images"] for row in RunDirectory(Path(name)).rows()]
        for name in ("straight", "killed")
    ]
    assert rows[0] == rows[1]


def test_two_processes_learn_what_one_does(
    train_tiny: Callable[..., Result], tiny: Path, photos: Path
) -> None:
    options = ("--batch", 9, "--holdout", 5, "--augment", 0.3, "--json")
    one = train_tiny(*options, "--out", "one").json()
    command = ("train", "--data", photos, "--config", tiny, *options, "--out", "two")
    both = ranks.run(2, "", *command)
    assert [ended.code for ended in both] == [0, 0], both[0].err
    two = json.loads(both[0].out)
    assert one["images"] == two["images"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)  # sums in another order
    assert one["best_loss"] == pytest.approx(two["best_loss"], rel=1e-4)
    alone, together = (load_file(f"{name}/model.safetensors") for name in ("one", "two"))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=2e-4, msg=name)


def test_ctrl_c_saves_and_the_same_command_goes_on(tiny: Path, photos: Path) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--preview", 0)
    command = (*command, "--images")
    running = shell(*command, 10**7, "--snapshot-every", 2000)
    while running.poll() is None and len(RunDirectory(Path("run")).rows()) < 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=ranks.SECONDS)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    seen = int(snapshots.listed(Path("run/snapshots"))[-1].stem)
    assert seen > 0
    again = json.loads(finished(shell(*command, seen + 8, "--json")))
    assert (again["resumed_at"], again["images"]) == (seen, seen + 8)


@pytest.mark.chaos
def test_torchrun_works_too(tiny: Path, photos: Path) -> None:
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--json")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launcher, "-m", "ddpm_cli", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=ranks.SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 64


@pytest.mark.chaos
def test_an_error_in_a_worker_is_one_line_and_its_exit_code(tiny: Path, photos: Path) -> None:
    victim = shell("train", "--data", photos, "--config", tiny, "--batch", 1, "--nproc", 2)
    _, err = victim.communicate(timeout=ranks.SECONDS)
    assert victim.returncode == 2
    assert "--batch 1 is less than one image for each of 2 processes" in err
    assert "Traceback" not in err


def test_compiling_is_no_stall_and_changes_nothing(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, compiling = [], torch.nn.Module.compile

    def eager(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        watched.append(not watchdog._watch._paused)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiling(self, backend=eager))
    monkeypatch.setattr(devices, "can_compile", lambda *given: True)
    small = ("--multipliers", "1", "--blocks", "res", "--images", 16)
    assert train_tiny("--out", "plain", *small).code == 0
    assert not watched
    assert train_tiny("--out", "compiled", "--compile", *small).code == 0
    assert watched and not any(watched)
    one, other = (load_file(f"{name}/model.safetensors") for name in ("plain", "compiled"))
    assert same(one, other)


def test_resuming_by_the_command_line(train_tiny: Callable[..., Result]) -> None:
    first = train_tiny("--out", "run", "--json")
    assert first.code == 0
    assert first.json()["resumed_at"] == 0
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["images"]) == (0, 64)
    assert "budget is used up" in again.err
    longer = train_tiny("--out", "run", "--images", 96, "--json")
    assert (longer.json()["resumed_at"], longer.json()["images"]) == (64, 96)


def test_a_run_is_never_changed_or_overwritten(train_tiny: Callable[..., Result]) -> None:
    assert train_tiny("--out", "run").code == 0
    before = Path("run/model.safetensors").read_bytes()
    other = train_tiny("--out", "run", "--batch", 4)
    assert (other.code, "optimiser.batch 8 -> 4" in other.err) == (1, True)
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


def test_never_resuming_takes_the_next_free_name(train_tiny: Callable[..., Result]) -> None:
    runs = [
        train_tiny("--resume", mode, "--json").json()["run"] for mode in ("auto", "never", "never")
    ]
    assert runs == ["runs/photos-8", "runs/photos-8-2", "runs/photos-8-3"]
