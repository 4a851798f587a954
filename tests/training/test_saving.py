"""Snapshots, weights and other files of a run: atomic, verified, pruned, and always finite."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import stat
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config import run as c
from ddpm_cli.core.data.order import SampleOrder
from ddpm_cli.core.errors import DdpmError, DivergedError, PreemptedError
from ddpm_cli.core.runtime import files
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import preview, resuming, saving, step
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Trainer
from tests.support import ranks
from tests.support.cli import Result
from tests.support.faults import same as equal_runs
from tests.support.training import (
    CONFIG,
    CPU,
    NO_IMAGES,
    Messages,
    before_each_step,
    decoded_images,
    equal_tensors,
    first_images,
    train_run,
    watchdog_pauses,
)


def snapshot_names(folder: Path) -> list[str]:
    return [path.name.lstrip("0") for path in sorted((folder / "snapshots").iterdir())]


@pytest.mark.parametrize("noise_levels", ["uniform", "importance"])
def test_a_resumed_run_repeats_every_random_number(tmp_path: Path, noise_levels: str) -> None:
    """Dropout, flips, dropped labels, order, noise, and noise levels, by the previous losses."""
    config = replace(
        CONFIG,
        network=replace(CONFIG.network, dropout=0.3, classes=("a", "b")),
        diffusion=replace(CONFIG.diffusion, timesteps=4),
        objective=c.ObjectiveConfig(noise_levels=noise_levels),
        data=c.DataConfig(flip=True),
        optimiser=replace(CONFIG.optimiser, class_drop=0.5, batch=7),  # ends within an epoch
        snapshot_every=100,
    )
    whole, half = c.Budget(steps=24), c.Budget(steps=13)
    uninterrupted = train_run(tmp_path / "uninterrupted", replace(config, budget=whole))
    train_run(tmp_path / "halves", replace(config, budget=half))
    state = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(tmp_path / "halves" / "snapshots", state, Silent())
    assert state.progress.images == 91
    if state.history is not None:
        assert state.history.probabilities().std() > 0  # importance sampling has begun
    train_run(tmp_path / "halves", replace(config, budget=whole), state)
    one, other = uninterrupted.state_dict(), state.state_dict()
    for name in ("network", "average"):
        assert equal_tensors(one[name], other[name]), name
    for moments, others in zip(
        one["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True
    ):
        assert equal_tensors(moments, others)


def damaged(contents: bytes, damage: str) -> bytes:
    middle = len(contents) // 2
    if damage == "one bit":
        return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
    return {
        "cut": contents[:middle],
        "without its end": contents[:-100],
        "emptied": b"",
        "zeroed": bytes(len(contents)),
    }[damage]


@pytest.mark.parametrize("damage", ["cut", "without its end", "emptied", "zeroed", "one bit"])
def test_a_damaged_snapshot_is_named_and_the_previous_one_used(tmp_path: Path, damage: str) -> None:
    train_run(tmp_path)
    older, newest = snapshots.listed(tmp_path / "snapshots")
    newest.write_bytes(damaged(newest.read_bytes(), damage))
    state, reporter = TrainingState.initial(CONFIG, CPU.device), Messages()
    assert resuming.restore_newest(tmp_path / "snapshots", state, reporter) == older
    assert state.progress.images == 32
    assert f"{newest} is damaged" in reporter.messages[0]


def test_zeros_within_a_tensor_are_detected(tmp_path: Path) -> None:
    """As after a lost disk block: torch.load accepts them as weights."""
    train_run(tmp_path)
    newest = snapshots.listed(tmp_path / "snapshots")[-1]
    weight = next(value for value in torch.load(newest)["network"].values() if value.numel() > 500)
    contents, values = newest.read_bytes(), weight.numpy().tobytes()
    zeroed = contents.replace(values[400:800], bytes(400), 1)
    assert len(zeroed) == len(contents) and zeroed != contents
    newest.write_bytes(zeroed)
    torch.load(newest, weights_only=True)  # raises no error
    with pytest.raises(DdpmError, match=r"is damaged: .*/data/.* is not what was written"):
        resuming.load_snapshot(newest, TrainingState.initial(CONFIG, CPU.device))


def test_a_snapshot_that_was_written_incompletely_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def save_damaged(state: Any, file: Any) -> None:
        save(state, file)
        file.seek(2000)
        file.write(bytes(100))

    state = TrainingState.initial(CONFIG, CPU.device).state_dict()
    monkeypatch.setattr(torch, "save", save_damaged)
    with pytest.raises(DdpmError, match="is damaged"):
        snapshots.write(tmp_path / "new", state)
    assert list((tmp_path / "new").iterdir()) == []


def test_which_snapshots_are_kept(tmp_path: Path) -> None:
    for images in range(5, 125, 10):
        (tmp_path / f"{images:012d}.pt").touch()
        (tmp_path / f"{images:012d}.superseded").touch()
        snapshots.prune(tmp_path, 2, 40)
    # The first one at or after 40 and after 80, and the last two.
    assert [int(path.stem) for path in snapshots.listed(tmp_path)] == [45, 85, 105, 115]
    superseded = snapshots.listed(tmp_path, "superseded")
    assert [int(path.stem) for path in superseded] == [45, 85, 105, 115]
    snapshots.prune(tmp_path, 1, None)
    assert [int(path.stem) for path in snapshots.listed(tmp_path)] == [115]


def test_snapshots_are_kept_as_requested(train_tiny: Callable[..., Result]) -> None:
    options = ("--snapshot-every", 8, "--keep", 1, "--keep-every", 24, "--preview", 0)
    assert train_tiny("--out", "run", *options).code == 0
    assert snapshot_names(Path("run")) == ["24.pt", "48.pt", "64.pt"]
    options = ("--keep-every", 4, "--images", 8, "--preview", 0)
    seldom = train_tiny("--out", "seldom", *options, "--snapshot-every", 8)
    assert "one every 8 images: for more, give --snapshot-every 4" in seldom.err
    often = train_tiny("--out", "often", *options, "--snapshot-every", 4)
    assert (often.code, "for more, give" in often.err) == (0, False), often.err
    wrong = train_tiny("--out", "other", "--keep-every", 0)
    assert (wrong.code, "keep-every must be more than 0" in wrong.err) == (2, True)


def test_training_continues_while_a_save_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written as it was when the save began."""
    write, released = snapshots.write, threading.Event()
    written: list[int] = []

    def slow(folder: Path, state: dict[str, Any]) -> Path:
        assert released.wait(60)
        return write(folder, state)

    class Steps(Silent):
        def update(self, done: float, note: str = "", status: object = None) -> None:
            if not released.is_set():
                written.append(len(snapshots.listed(tmp_path / "a" / "snapshots")))
            if done >= 75:  # % of the budget: the first save began long ago
                released.set()

    monkeypatch.setattr(snapshots, "write", slow)
    config = replace(CONFIG, snapshot_every=1000, keep=3)  # the first save comes early, after 96
    config = replace(config, budget=c.Budget(images=160))
    (tmp_path / "a").mkdir()
    state = TrainingState.initial(config, CPU.device)
    run = RunDirectory(tmp_path / "a")
    Trainer(run, config, state, decoded_images(), NO_IMAGES, CPU, Steps()).train(StopRequest())
    assert len(written) > 3 and max(written) == 0
    assert snapshot_names(tmp_path / "a") == ["104.pt", "160.pt"]
    saved = TrainingState.initial(config, CPU.device)
    resuming.load_snapshot(snapshots.snapshot_path(tmp_path / "a" / "snapshots", 104), saved)
    expected = train_run(tmp_path / "b", replace(config, budget=c.Budget(images=104)))
    assert equal_tensors(saved.network.state_dict(), expected.network.state_dict())
    assert equal_tensors(saved.average.state_dict(), expected.average.state_dict())


def test_a_failed_save_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    full = [False]

    def disk_usage(place: Path) -> Any:
        return usage(10**9, 10**9, 0) if full[0] else usage(10**9, 0, 10**9)

    class Fills(Silent):
        def update(self, done: float, note: str = "", status: object = None) -> None:
            full[0] = done > 50

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    config = replace(CONFIG, snapshot_every=40, validate_every=8000)
    config = replace(config, budget=c.Budget(images=160))
    state = TrainingState.initial(config, CPU.device)
    run = RunDirectory(tmp_path)
    with pytest.raises(DdpmError, match=r"which has 0\.0 MB free; free some space.*000000000080"):
        Trainer(run, config, state, decoded_images(), NO_IMAGES, CPU, Fills()).train(StopRequest())
    assert 120 < state.progress.images <= 160
    assert snapshot_names(tmp_path) == ["40.pt", "80.pt"]
    full[0] = False
    restored = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(run.snapshots, restored, Silent())


def test_training_does_not_start_without_disk_space_for_its_snapshots(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needed(*arguments: object) -> float:
        """Megabytes that the command reports it needs, on a disk that is full."""
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda place: usage(10, 10, 10))
            result = train_tiny("--out", "run", *arguments)
        assert result.code == 1
        assert not Path("run").exists() or arguments == ("--images", 80)
        message = result.err.split("the run's snapshots and weights need ")[1]
        assert "which has 0 kB free; free some, lower --keep, or choose another" in message
        return float(message.split(" MB")[0])

    plan = train_tiny("--dry-run", "--json")
    weights = 4 * plan.json()["parameters"] / 1e6  # all weights in float32
    assert needed("--dry-run") == pytest.approx((3 * 4 + 3) * weights, abs=0.06)
    assert needed("--keep", 5) == pytest.approx((6 * 4 + 3) * weights, abs=0.06)
    assert train_tiny("--out", "run").code == 0
    # two of the snapshots are there already
    assert needed("--images", 80) < 0.6 * (3 * 4 + 3) * weights


def test_a_step_with_an_infinite_loss_and_a_finite_gradient_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes neither weights, average, optimiser nor loss history."""
    config = replace(CONFIG, objective=c.ObjectiveConfig(noise_levels="importance"))
    state = train_run(tmp_path, config)
    before = json.dumps(state.copied_state_dict(), default=lambda value: value.tolist())
    loss = step.training_loss

    def infinite(*arguments: Any) -> torch.Tensor:
        return loss(*arguments) + torch.tensor([math.inf, *7 * [0.0]])

    monkeypatch.setattr(step, "training_loss", infinite)
    after = train_run(tmp_path, replace(config, budget=c.Budget(images=72)), state)
    assert (after.progress.skipped, after.progress.images) == (1, 72)
    for part in ("network", "average", "optimiser", "history"):
        now = json.loads(
            json.dumps(after.copied_state_dict()[part], default=lambda value: value.tolist())
        )
        assert now == json.loads(before)[part], part
    assert RunDirectory(tmp_path).rows()[-1]["skipped_steps"] == 1


def test_the_post_mortem_of_a_diverged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = train_run(tmp_path)
    loss = step.training_loss

    def non_finite(*arguments: Any) -> torch.Tensor:
        return loss(*arguments) * torch.tensor([1, 1, math.nan, *5 * [1]])

    good = replace(CONFIG, budget=c.Budget(images=72), snapshot_every=8000)
    train_run(tmp_path, good, state)

    class Diverge(Silent):
        def update(self, done: float, note: str = "", status: object = None) -> None:
            if "80 images" in note:
                monkeypatch.setattr(step, "training_loss", non_finite)

    bad = replace(good, budget=c.Budget(images=8000), snapshot_every=100)
    run = RunDirectory(tmp_path)
    order = np.arange(16)[::-1]  # reported rows are those of the data set, not of the training set
    images = replace(decoded_images(), rows=order.copy())
    with pytest.raises(DivergedError, match=r"lr 0\.0002 \(the default\) with a new") as caught:
        Trainer(run, bad, state, images, NO_IMAGES, CPU, Diverge()).train(StopRequest())
    assert str(run.post_mortem) in str(caught.value)
    report = json.loads(run.post_mortem.read_text())
    assert "20 steps in a row" in report["what"]
    assert (report["images"], report["steps"], report["processes"]) == (240, 30, 1)
    assert report["last_good_step"]["images"] == 80
    norms = {row["images"]: row["grad_norm"] for row in run.rows()}
    assert report["last_good_step"]["grad_norm"] == norms[80]
    assert [step["images"] for step in report["bad_steps"]] == list(range(88, 241, 8))
    assert {step["grad_norm"] for step in report["bad_steps"]} == {"nan"}
    (broken,) = report["last_batch"]["not_finite"]
    assert broken["row"] == order[SampleOrder(16, 0).indices(232, 8)[2]]
    assert (broken["loss"], broken["sigma"] > 0, report["last_batch"]["losses"]) == ("nan", True, 8)
    assert report["snapshot"].endswith("000000000200.pt")  # whose weights are finite
    assert report["precision"] == "float32" and not any("fp32" in fix for fix in report["try"])


@pytest.mark.parametrize("broken", ["network", "average"])
def test_non_finite_weights_are_neither_saved_nor_sampled(tmp_path: Path, broken: str) -> None:
    """As after a bit flip in memory; the next loss would only show it in one of the cases."""
    config = replace(CONFIG, preview=2)
    state = train_run(tmp_path, config)
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".png"))
    weights = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(getattr(state, broken).parameters()).view(-1)[3] = math.inf
    with pytest.raises(DivergedError) as caught:
        train_run(tmp_path, replace(config, budget=c.Budget(images=8000)), state)
    assert caught.value.exit_code == 3
    assert "the weights are no longer finite" in str(caught.value)
    now = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".png"))
    assert now == files
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert "weights" in json.loads((tmp_path / "post-mortem.json").read_text())["what"]


def test_the_time_of_a_save_is_logged(tmp_path: Path) -> None:
    state = train_run(tmp_path, replace(CONFIG, budget=c.Budget(images=80)))
    seconds = [row["save_seconds"] for row in RunDirectory(tmp_path).rows()]
    assert seconds[0] == 0 < seconds[-1]
    assert state.progress.save_seconds > 0


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def recorded_fsync(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def recorded_rename(self: Path, target: Path) -> Path:
        events.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_rename)
    files.write_text(tmp_path / "new" / "a.txt", "a")
    assert events == ["file", "name", "folder"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_new_file_has_the_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "ours", "a")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_snapshot_is_synced_before_it_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, verify = os.fsync, snapshots.verify
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), fsync(handle)))
    monkeypatch.setattr(snapshots, "verify", lambda path: (events.append("verify"), verify(path)))
    snapshots.write(tmp_path, TrainingState.initial(CONFIG, CPU.device).state_dict())
    assert events[:2] == ["sync", "verify"]


def test_the_watchdog_is_paused_during_saves_previews_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, calls = watchdog_pauses(monkeypatch), set()
    loss = step.training_loss

    def recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def record(*arguments: Any, **named: Any) -> Any:
            calls.add((name, paused()))
            return function(*arguments, **named)

        return record

    def recorded_loss(*arguments: Any) -> torch.Tensor:
        calls.add(("step" if torch.is_grad_enabled() else "validation", paused()))
        return loss(*arguments)

    monkeypatch.setattr(step, "training_loss", recorded_loss)
    for owner, name in (
        (TrainingState, "copied_state_dict"),  # at the start of a save
        (saving.Saver, "_finish"),  # waiting for the end of a save
        (preview, "save_preview"),
    ):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name), name))
    held_out = first_images(decoded_images(seed=1), 6)
    train_run(tmp_path, replace(CONFIG, budget=c.Budget(images=16)), held_out=held_out)
    long = {(name, True) for name in ("copied_state_dict", "_finish", "save_preview", "validation")}
    assert calls == long | {("step", False)}


def test_signals_change_nothing_but_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One arrives between two rows of metrics, one at the step of a snapshot and validation."""
    config = replace(CONFIG, snapshot_every=1600, budget=c.Budget(images=192), preview=1)
    config = replace(config, validate_every=160, log_every=16)
    held_out = first_images(decoded_images(seed=1), 6)
    moments = {16, 152}  # images seen before the step

    def signal_once(seen: int) -> None:
        if seen in moments:
            moments.remove(seen)
            request.on_signal(signal.SIGTERM)

    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    codes = []
    with monkeypatch.context() as patch:
        before_each_step(patch, signal_once)
        while not codes or codes[-1]:
            state, request = TrainingState.initial(config, CPU.device), StopRequest()
            resuming.restore_newest(run.snapshots, state, Silent())
            one = Trainer(run, config, state, decoded_images(), held_out, CPU, Silent())
            try:
                one.train(request)
                codes.append(0)
            except PreemptedError as error:
                codes.append(error.exit_code)
    assert codes == [75, 75, 0]
    train_run(tmp_path / "uninterrupted", config, held_out=held_out)
    assert [row["images"] for row in run.rows()] == list(range(16, 193, 16))
    assert equal_runs(str(run.path), str(tmp_path / "uninterrupted"))
    assert run.preview(160).is_file()


def test_a_save_in_progress_is_completed_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the error: where another rank died, this process ends at once otherwise."""
    started, writing, failed = threading.Event(), threading.Event(), threading.Event()
    start, write = saving.Saver.start, snapshots.write

    def start_and_set(self: saving.Saver, **what: bool) -> None:
        start(self, **what)
        started.set()

    def slow(folder: Path, state: dict[str, Any]) -> Path:
        writing.set()
        assert failed.wait(60)
        return write(folder, state)

    def fail(seen: int) -> None:
        if started.is_set():
            assert writing.wait(60)
            threading.Timer(0.2, failed.set).start()
            raise ValueError("another rank died")

    monkeypatch.setattr(saving.Saver, "start", start_and_set)
    monkeypatch.setattr(snapshots, "write", slow)
    before_each_step(monkeypatch, fail)
    with pytest.raises(ValueError, match="another rank died"):
        train_run(tmp_path)
    assert snapshot_names(tmp_path) != []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_ctrl_c_does_not_wait_for_the_save(tiny: Path, photos: Path) -> None:
    program = """
import os, signal, threading
from pathlib import Path
from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.training.batches import Batches
draw = Batches.draw
def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return draw(*arguments)
def slow(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(30)
    Path("waited").touch()
Batches.draw, snapshots.write = interrupted, slow
"""
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--preview", 0)
    (result,) = ranks.run(1, program, *command)
    assert (result.code, "exited at once" in result.err) == (130, True), result.err
    assert not Path("waited").exists()


def test_the_same_command_with_a_snapshot_restarts_from_it_only_once(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
) -> None:
    tiny_run("first")
    older, newer = snapshots.listed(Path("first/snapshots"))

    def resumed_at(snapshot: Path, images: int) -> int:
        options = ("--out", "run", "--resume", snapshot, "--images", images, "--preview", 0)
        result = train_tiny(*options, "--json")
        assert result.code == 0, result.err
        assert ("resumed from" in result.err) == (result.json()["resumed_at"] > 64)
        return int(result.json()["resumed_at"])

    assert resumed_at(older, 72) == 32
    assert resumed_at(older, 80) == 72
    assert resumed_at(newer, 72) == 64  # another snapshot
    older.write_bytes(b"")
    newer.unlink()  # no longer needed
    dry = train_tiny("--out", "run", "--resume", newer, "--preview", 0, "--dry-run")
    assert dry.code == 0, dry.err
    assert resumed_at(newer, 80) == 72
    never = train_tiny("--out", "run", "--resume", "never")
    assert (never.code, "--resume auto resumes it" in never.err) == (1, True)


def test_a_run_whose_snapshots_were_deleted_is_not_overwritten(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
) -> None:
    tiny_run("run")
    shutil.rmtree("run/snapshots")
    before = {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    again = train_tiny("--out", "run", "--images", 96)
    assert (again.code, "has no snapshot any more" in again.err) == (1, True)
    assert "--resume never" in again.err
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_killed_before_its_first_snapshot_is_restarted(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
) -> None:
    """Metrics and weights were written, but no snapshot."""
    tiny_run("run", "--images", 8, "--json")
    shutil.rmtree("run/snapshots")
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["resumed_at"]) == (0, 0)


def test_other_files_in_the_snapshots_folder_are_left_alone(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
) -> None:
    tiny_run("run")
    newest = snapshots.listed(Path("run/snapshots"))[-1]
    names = ("0-mine", "7", "99 best", "9999999999999")
    mine = {Path(f"run/snapshots/{name}.pt") for name in names}
    for path in mine:
        shutil.copyfile(newest, path)
    more = ("--snapshot-every", 8, "--keep", 1)
    again = train_tiny("--out", "run", "--images", 96, *more, "--json")
    assert again.code == 0, again.err
    assert (again.json()["resumed_at"], mine <= set(newest.parent.iterdir())) == (64, True)

    # Resuming from one of them makes it the run's newest.
    only = ("--resume", "run/snapshots/7.pt", "--images", 64)
    assert train_tiny("--out", "run", *only).code == 0
    assert [int(path.stem) for path in snapshots.listed(newest.parent)] == [64]


def test_a_signal_waits_for_its_own_save(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that exits with 75 has written the snapshot of its last step."""
    with monkeypatch.context() as patch:
        before_each_step(patch, lambda seen: seen == 24 and os.kill(os.getpid(), signal.SIGTERM))
        assert train_tiny("--out", "run", "--snapshot-every", 10**6).code == 75
    assert snapshot_names(Path("run")) == ["32.pt"]
    assert train_tiny("--out", "run", "--snapshot-every", 10**6).code == 0
    assert train_tiny("--out", "uninterrupted", "--snapshot-every", 10**6).code == 0
    one, other = (load_file(f"{name}/model.safetensors") for name in ("run", "uninterrupted"))
    assert equal_tensors(one, other)


def test_saves_are_due_at_multiples_and_once_early(tmp_path: Path) -> None:
    state = TrainingState.initial(CONFIG, CPU.device)
    config = replace(CONFIG, snapshot_every=200)
    averaged: Any = None
    saver = saving.Saver(RunDirectory(tmp_path), config, state, averaged, CPU.device)
    due = []
    for images in range(8, 500, 8):
        state.progress.images = images
        due += [images] if saver.is_due() else []
    assert due == [24, 200, 400]


def test_weights_without_a_snapshot_are_kept(train_tiny: Callable[..., Result]) -> None:
    """Those of a run so short that its metrics record no save."""
    options = ("--out", "run", "--snapshot-every", 32_000, "--images")
    assert train_tiny(*options, 16).code == 0
    before = {name: Path("run", name).read_bytes() for name in ("model.safetensors",)}
    shutil.rmtree("run/snapshots")
    again = train_tiny(*options, 8)
    assert (again.code, "it is model.safetensors.superseded now" in again.err) == (0, True)
    for name, content in before.items():
        assert Path(f"run/{name}.superseded").read_bytes() == content != Path("run", name)


def test_a_run_resumed_at_its_end_has_weights(
    train_tiny: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    tiny_run("one")
    (newest,) = snapshots.listed(Path("one/snapshots"))[-1:]
    other = train_tiny("--out", "other", "--resume", newest, "--json")
    assert (other.code, "budget is used up" in other.err) == (0, True)
    assert equal_tensors(*(load_file(f"{run}/model.safetensors") for run in ("one", "other")))
