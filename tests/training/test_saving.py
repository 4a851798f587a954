"""What a run leaves on the disk: whole, checked, bounded, and never of broken numbers."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config import run as c
from ddpm_cli.core.data.loader import SampleOrder
from ddpm_cli.core.errors import DdpmError, DivergedError, PreemptedError
from ddpm_cli.core.runtime import files
from ddpm_cli.core.runtime.elastic import watchdog
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import resuming, saving, trainer
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Trainer
from tests.conftest import Result
from tests.support import ranks
from tests.support.faults import same as alike
from tests.training.test_training import CONFIG, CPU, pictures, replace_rows, same, trained


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def snapshot_names(folder: Path) -> list[str]:
    return [path.name.lstrip("0") for path in sorted((folder / "snapshots").iterdir())]


@pytest.mark.parametrize("noise_levels", ["uniform", "importance"])
def test_going_on_repeats_every_random_number(tmp_path: Path, noise_levels: str) -> None:
    """Dropout, mirroring, hidden labels, order, noise and, by the losses before, noise levels."""
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
    straight = trained(tmp_path / "straight", replace(config, budget=whole))
    trained(tmp_path / "halves", replace(config, budget=half))
    state = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(tmp_path / "halves" / "snapshots", state, Silent())
    assert state.progress.images == 91
    if state.history is not None:
        assert state.history.probabilities().std() > 0  # it has begun to choose
    trained(tmp_path / "halves", replace(config, budget=whole), state)
    one, other = straight.state_dict(), state.state_dict()
    for name in ("network", "average"):
        assert same(one[name], other[name]), name
    for mine, its in zip(
        one["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True
    ):
        assert same(mine, its)


def damaged(contents: bytes, how: str) -> bytes:
    middle = len(contents) // 2
    if how == "one bit":
        return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
    return {
        "cut": contents[:middle],
        "without its end": contents[:-100],
        "emptied": b"",
        "zeroed": bytes(len(contents)),
    }[how]


@pytest.mark.parametrize("how", ["cut", "without its end", "emptied", "zeroed", "one bit"])
def test_a_damaged_snapshot_is_named_and_the_one_before_it_used(tmp_path: Path, how: str) -> None:
    trained(tmp_path)
    older, newest = snapshots.listed(tmp_path / "snapshots")
    newest.write_bytes(damaged(newest.read_bytes(), how))
    state, listener = TrainingState.initial(CONFIG, CPU.device), Listener()
    assert resuming.restore_newest(tmp_path / "snapshots", state, listener) == older
    assert state.progress.images == 32
    assert f"{newest} is damaged" in listener.said[0]


def test_zeros_amid_the_numbers_are_noticed(tmp_path: Path) -> None:
    """As a disk leaves them that lost a block: torch.load takes them for weights."""
    trained(tmp_path)
    newest = snapshots.listed(tmp_path / "snapshots")[-1]
    weight = next(value for value in torch.load(newest)["network"].values() if value.numel() > 500)
    contents, numbers = newest.read_bytes(), weight.numpy().tobytes()
    zeroed = contents.replace(numbers[400:800], bytes(400), 1)
    assert len(zeroed) == len(contents) and zeroed != contents
    newest.write_bytes(zeroed)
    torch.load(newest, weights_only=True)  # does not mind
    with pytest.raises(DdpmError, match=r"is damaged: .*/data/.* is not what was written"):
        resuming.load_snapshot(newest, TrainingState.initial(CONFIG, CPU.device))


def test_a_snapshot_that_did_not_arrive_whole_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def careless(held: Any, file: Any) -> None:
        save(held, file)
        file.seek(2000)
        file.write(bytes(100))

    held = TrainingState.initial(CONFIG, CPU.device).state_dict()
    monkeypatch.setattr(torch, "save", careless)
    with pytest.raises(DdpmError, match="is damaged"):
        snapshots.write(tmp_path / "new", held)
    assert list((tmp_path / "new").iterdir()) == []


def test_which_snapshots_stay(tmp_path: Path) -> None:
    for images in range(5, 125, 10):
        (tmp_path / f"{images:012d}.pt").touch()
        (tmp_path / f"{images:012d}.superseded").touch()
        snapshots.prune(tmp_path, 2, 40)
    # The first one at or after 40 and after 80, and the last two.
    assert [int(path.stem) for path in snapshots.listed(tmp_path)] == [45, 85, 105, 115]
    held = snapshots.listed(tmp_path, "superseded")
    assert [int(path.stem) for path in held] == [45, 85, 105, 115]
    snapshots.prune(tmp_path, 1, None)
    assert [int(path.stem) for path in snapshots.listed(tmp_path)] == [115]


def test_snapshots_are_kept_as_asked(train_tiny: Callable[..., Result]) -> None:
    kept = ("--snapshot-every", 8, "--keep", 1, "--keep-every", 24, "--preview", 0)
    assert train_tiny("--out", "run", *kept).code == 0
    assert snapshot_names(Path("run")) == ["24.pt", "48.pt", "64.pt"]
    wrong = train_tiny("--out", "other", "--keep-every", 0)
    assert (wrong.code, "keep-every must be more than 0" in wrong.err) == (2, True)


def test_training_goes_on_while_a_save_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is the state as it was when the save began."""
    write, may_go = snapshots.write, threading.Event()
    seen: list[int] = []

    def slow(folder: Path, held: dict[str, Any]) -> Path:
        assert may_go.wait(60)
        return write(folder, held)

    class Steps(Silent):
        def update(self, done: float, note: str = "") -> None:
            if not may_go.is_set():
                seen.append(len(snapshots.listed(tmp_path / "a" / "snapshots")))
            if done >= 75:  # of the budget: the first save began long ago
                may_go.set()

    monkeypatch.setattr(snapshots, "write", slow)
    config = replace(CONFIG, snapshot_every=1000, keep=3)  # the first save comes early, after 96
    config = replace(config, budget=c.Budget(images=160))
    (tmp_path / "a").mkdir()
    state, none = TrainingState.initial(config, CPU.device), replace_rows(pictures(), 0)
    Trainer(RunDirectory(tmp_path / "a"), config, state, pictures(), none, CPU, Steps()).train(
        StopRequest()
    )
    assert len(seen) > 3 and max(seen) == 0
    assert snapshot_names(tmp_path / "a") == ["104.pt", "160.pt"]
    saved, wanted = (
        TrainingState.initial(config, CPU.device),
        replace(config, budget=c.Budget(images=104)),
    )
    resuming.load_snapshot(snapshots.snapshot_path(tmp_path / "a" / "snapshots", 104), saved)
    undisturbed = trained(tmp_path / "b", wanted)
    assert same(saved.network.state_dict(), undisturbed.network.state_dict())
    assert same(saved.average.state_dict(), undisturbed.average.state_dict())


def test_a_save_that_fails_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    full = [False]

    def disk_usage(place: Path) -> Any:
        return usage(10**9, 10**9, 0) if full[0] else usage(10**9, 0, 10**9)

    class Fills(Silent):
        def update(self, done: float, note: str = "") -> None:
            full[0] = done > 50

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    config = replace(CONFIG, snapshot_every=40, budget=c.Budget(images=8000))
    config = replace(config, budget=c.Budget(images=160))
    state, none = TrainingState.initial(config, CPU.device), replace_rows(pictures(), 0)
    run = RunDirectory(tmp_path)
    with pytest.raises(DdpmError, match=r"which has 0\.0 MB free; free some space.*000000000080"):
        Trainer(run, config, state, pictures(), none, CPU, Fills()).train(StopRequest())
    assert 120 < state.progress.images <= 160
    assert snapshot_names(tmp_path) == ["40.pt", "80.pt"]
    full[0] = False
    restored = TrainingState.initial(config, CPU.device)
    assert resuming.restore_newest(run.snapshots, restored, Silent())


def test_nothing_begins_without_space_to_save_in(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needed(*arguments: object) -> float:
        """Megabytes the command says it needs where there is next to nothing."""
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda place: usage(10, 10, 10))
            result = train_tiny("--out", "run", *arguments)
        assert result.code == 1
        assert not Path("run").exists() or arguments == ("--images", 80)
        words = result.err.split("the run's snapshots and weights need ")[1]
        assert "which has 0.0 MB free; free some, lower --keep, or choose another" in words
        return float(words.split(" MB")[0])

    done = train_tiny("--dry-run", "--json")
    one = 4 * done.json()["parameters"] / 1e6  # all weights in float32
    assert needed("--dry-run") == pytest.approx((3 * 4 + 3) * one, abs=0.06)
    assert needed("--keep", 5) == pytest.approx((6 * 4 + 3) * one, abs=0.06)
    assert train_tiny("--out", "run").code == 0
    assert needed("--images", 80) < needed_at_first(one)


def needed_at_first(one: float) -> float:
    return 0.6 * (3 * 4 + 3) * one  # two of the snapshots are there already


def test_a_loss_that_is_not_finite_spoils_the_step_even_where_the_gradient_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves weights, average, optimiser and the history of losses as they were."""
    config = replace(CONFIG, objective=c.ObjectiveConfig(noise_levels="importance"))
    state = trained(tmp_path, config)
    before = json.dumps(state.copied_state_dict(), default=lambda value: value.tolist())
    real = trainer.training_loss

    def infinite(*arguments: Any) -> torch.Tensor:
        return real(*arguments) + torch.tensor([math.inf, *7 * [0.0]])

    monkeypatch.setattr(trainer, "training_loss", infinite)
    after = trained(tmp_path, replace(config, budget=c.Budget(images=72)), state)
    assert (after.progress.skipped, after.progress.images) == (1, 72)
    for part in ("network", "average", "optimiser", "history"):
        now = json.loads(
            json.dumps(after.copied_state_dict()[part], default=lambda value: value.tolist())
        )
        assert now == json.loads(before)[part], part
    assert RunDirectory(tmp_path).rows()[-1]["skipped_steps"] == 1


def test_a_post_mortem_tells_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained(tmp_path)
    real = trainer.training_loss

    def poisoned(*arguments: Any) -> torch.Tensor:
        return real(*arguments) * torch.tensor([1, 1, math.nan, *5 * [1]])

    good = replace(CONFIG, budget=c.Budget(images=72), snapshot_every=8000)
    trained(tmp_path, good, state)

    class Poison(Silent):
        def update(self, done: float, note: str = "") -> None:
            if "80 images" in note:
                monkeypatch.setattr(trainer, "training_loss", poisoned)

    bad = replace(good, budget=c.Budget(images=8000), snapshot_every=100)
    run, none = RunDirectory(tmp_path), replace_rows(pictures(), 0)
    taken = np.arange(16)[::-1]  # rows are the source's, whatever the training takes of them
    shown = replace(pictures(), rows=taken.copy())
    with pytest.raises(DivergedError, match=r"lr 0\.0007 with a new --out") as caught:
        Trainer(run, bad, state, shown, none, CPU, Poison()).train(StopRequest())
    assert str(run.post_mortem) in str(caught.value)
    told = json.loads(run.post_mortem.read_text())
    assert "20 steps in a row" in told["what"]
    assert (told["images"], told["steps"], told["processes"]) == (240, 30, 1)
    assert told["last_good_step"]["images"] == 80
    norms = {row["images"]: row["grad_norm"] for row in run.rows()}
    assert told["last_good_step"]["grad_norm"] == norms[80]
    assert [step["images"] for step in told["bad_steps"]] == list(range(88, 241, 8))
    assert {step["grad_norm"] for step in told["bad_steps"]} == {"nan"}
    (loss,) = told["last_batch"]["not_finite"]
    assert loss["row"] == taken[SampleOrder(16, 0).indices(232, 8)[2]]
    assert (loss["loss"], loss["sigma"] > 0, told["last_batch"]["losses"]) == ("nan", True, 8)
    assert told["snapshot"].endswith("000000000200.pt")  # of good weights: bad steps change none
    assert told["precision"] == "float32" and not any("fp32" in mend for mend in told["try"])


@pytest.mark.parametrize("broken", ["network", "average"])
def test_broken_weights_are_never_saved_nor_drawn(tmp_path: Path, broken: str) -> None:
    """Here a bit flips in memory; the next loss would show it only in the one case."""
    config = replace(CONFIG, preview=2)
    state = trained(tmp_path, config)
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".png"))
    weights = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(getattr(state, broken).parameters()).view(-1)[3] = math.inf
    with pytest.raises(DivergedError) as caught:
        trained(tmp_path, replace(config, budget=c.Budget(images=8000)), state)
    assert caught.value.exit_code == 3
    assert "the weights are no longer finite" in str(caught.value)
    now = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".png"))
    assert now == files
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert "weights" in json.loads((tmp_path / "post-mortem.json").read_text())["what"]


def test_the_time_of_a_save_is_written_down(tmp_path: Path) -> None:
    state = trained(tmp_path, replace(CONFIG, budget=c.Budget(images=80)))
    seconds = [row["save_seconds"] for row in RunDirectory(tmp_path).rows()]
    assert seconds[0] == 0 < seconds[-1]
    assert state.progress.save_seconds > 0


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_rename(self: Path, target: Path) -> Path:
        happened.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    files.write_text(tmp_path / "new" / "a.txt", "a")
    assert happened == ["file", "name", "folder"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_new_file_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "ours", "a")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_snapshot_is_on_the_disk_before_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, verify = os.fsync, snapshots.verify
    monkeypatch.setattr(os, "fsync", lambda handle: (happened.append("disk"), fsync(handle)))
    monkeypatch.setattr(snapshots, "verify", lambda path: (happened.append("read"), verify(path)))
    snapshots.write(tmp_path, TrainingState.initial(CONFIG, CPU.device).state_dict())
    assert happened[:2] == ["disk", "read"]


def test_the_watchdog_waits_for_saves_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, seen = [True], set()

    @contextmanager
    def paused() -> Iterator[None]:
        watched.append(False)
        yield
        watched.pop()

    def noting(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            seen.add((name, watched[-1]))
            return function(*arguments, **named)

        return noted

    monkeypatch.setattr(watchdog, "paused", paused)
    for kind, name in (
        (saving.Saver, "_start"),
        (saving.Saver, "_finish"),
        (saving.Saver, "_draw"),
        (Trainer, "_validate"),
        (Trainer, "_accumulate_gradients"),
    ):
        monkeypatch.setattr(kind, name, noting(getattr(kind, name), name))
    trained(tmp_path, replace(CONFIG, budget=c.Budget(images=16)))
    waits = {(name, False) for name in ("_start", "_finish", "_draw", "_validate")}
    assert seen == waits | {("_accumulate_gradients", True)}


def test_a_signal_changes_nothing_but_the_time(tmp_path: Path) -> None:
    """One comes between two rows of metrics, another at the step of a snapshot and validation."""
    config = replace(CONFIG, snapshot_every=1600, budget=c.Budget(images=192), preview=1)
    unseen = replace_rows(pictures(seed=1), 6)
    moments = {24, 160}

    class Signalled(Trainer):
        def _accumulate_gradients(self, share: Batch) -> torch.Tensor:
            ahead = self.state.progress.images + 8
            if ahead in moments:
                moments.remove(ahead)
                request.on_signal(signal.SIGTERM)
            return super()._accumulate_gradients(share)

    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    codes = []
    while not codes or codes[-1]:
        state, request = TrainingState.initial(config, CPU.device), StopRequest()
        resuming.restore_newest(run.snapshots, state, Silent())
        one = Signalled(run, config, state, pictures(), unseen, CPU, Silent())
        try:
            one.train(request)
            codes.append(0)
        except PreemptedError as error:
            codes.append(error.exit_code)
    assert codes == [75, 75, 0]
    trained(tmp_path / "calm", config, held_out=unseen)
    assert [row["images"] for row in run.rows()] == list(range(16, 193, 16))
    assert alike(str(run.path), str(tmp_path / "calm"))
    assert run.preview(160).is_file()


def test_a_save_under_way_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else goes wrong meanwhile: a process that shares its work leaves at once then."""
    begun, failed = threading.Event(), threading.Event()
    write = snapshots.write

    def slow(folder: Path, held: dict[str, Any]) -> Path:
        begun.set()
        assert failed.wait(60)
        return write(folder, held)

    def fails(self: Trainer, share: Batch) -> torch.Tensor:
        if self.saver._pending is None:
            return accumulate(self, share)
        assert begun.wait(60)
        threading.Timer(0.2, failed.set).start()
        raise ValueError("the other process is gone")

    accumulate = Trainer._accumulate_gradients
    monkeypatch.setattr(snapshots, "write", slow)
    monkeypatch.setattr(Trainer, "_accumulate_gradients", fails)
    with pytest.raises(ValueError, match="gone"):
        trained(tmp_path)
    assert snapshot_names(tmp_path) != []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_ctrl_c_does_not_wait_for_the_save(tiny: Path, photos: Path) -> None:
    program = """
import os, signal, threading
from pathlib import Path
from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.training.trainer import Trainer
accumulate = Trainer._accumulate_gradients
def interrupted(self, share):
    os.kill(os.getpid(), signal.SIGINT)
    return accumulate(self, share)
def slow(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(30)
    Path("waited").touch()
Trainer._accumulate_gradients, snapshots.write = interrupted, slow
"""
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--preview", 0)
    (left,) = ranks.run(1, program, *command)
    assert (left.code, "left at once" in left.err) == (130, True), left.err
    assert not Path("waited").exists()


def test_the_same_command_with_a_snapshot_goes_back_to_it_only_once(
    train_tiny: Callable[..., Result],
) -> None:
    assert train_tiny("--out", "first").code == 0
    older, newer = snapshots.listed(Path("first/snapshots"))

    def resumed_at(snapshot: Path, images: int) -> int:
        given = ("--out", "run", "--resume", snapshot, "--images", images, "--preview", 0)
        result = train_tiny(*given, "--json")
        assert result.code == 0, result.err
        assert ("resumed from" in result.err) == (result.json()["resumed_at"] > 64)
        return int(result.json()["resumed_at"])

    assert resumed_at(older, 72) == 32
    assert resumed_at(older, 80) == 72
    assert resumed_at(newer, 72) == 64  # another one: as asked
    older.write_bytes(b"")
    newer.unlink()  # it is not needed any more
    dry = train_tiny("--out", "run", "--resume", newer, "--preview", 0, "--dry-run")
    assert dry.code == 0, dry.err
    assert resumed_at(newer, 80) == 72
    never = train_tiny("--out", "run", "--resume", "never")
    assert (never.code, "--resume auto resumes it" in never.err) == (1, True)


def test_a_run_whose_snapshots_are_gone_is_not_overwritten(
    train_tiny: Callable[..., Result],
) -> None:
    assert train_tiny("--out", "run").code == 0
    shutil.rmtree("run/snapshots")
    before = {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    again = train_tiny("--out", "run", "--images", 96)
    assert (again.code, "has no snapshot any more" in again.err) == (1, True)
    assert "--resume never" in again.err
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_that_died_before_its_first_snapshot_begins_again(
    train_tiny: Callable[..., Result],
) -> None:
    """FeatureStore were logged and weights written, but no save had ended."""
    assert train_tiny("--out", "run", "--images", 8, "--json").code == 0
    shutil.rmtree("run/snapshots")
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["resumed_at"]) == (0, 0)


def test_other_files_among_the_snapshots_are_left_alone(
    train_tiny: Callable[..., Result],
) -> None:
    assert train_tiny("--out", "run").code == 0
    newest = snapshots.listed(Path("run/snapshots"))[-1]
    names = ("0-mine", "7", "99 best", "9999999999999")
    mine = {Path(f"run/snapshots/{name}.pt") for name in names}
    for path in mine:
        shutil.copyfile(newest, path)
    more = ("--snapshot-every", 8, "--keep", 1)
    again = train_tiny("--out", "run", "--images", 96, *more, "--json")
    assert again.code == 0, again.err
    assert (again.json()["resumed_at"], mine <= set(newest.parent.iterdir())) == (64, True)

    # Going on from one of them makes it the run's newest.
    only = ("--resume", "run/snapshots/7.pt", "--images", 64)
    assert train_tiny("--out", "run", *only).code == 0
    assert [int(path.stem) for path in snapshots.listed(newest.parent)] == [64]


def test_a_signal_waits_for_its_own_save(train_tiny: Callable[..., Result]) -> None:
    """The process that exits with 75 has left the snapshot of its last step."""

    class Signalled(Trainer):
        def _accumulate_gradients(self, share: Any) -> torch.Tensor:
            if self.state.progress.images == 24:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._accumulate_gradients(share)

    from ddpm_cli.core.training import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Trainer", Signalled)
        assert train_tiny("--out", "run", "--snapshot-every", 10**6).code == 75
    assert snapshot_names(Path("run")) == ["32.pt"]
    assert train_tiny("--out", "run", "--snapshot-every", 10**6).code == 0
    assert train_tiny("--out", "straight", "--snapshot-every", 10**6).code == 0
    one, other = (load_file(f"{name}/model.safetensors") for name in ("run", "straight"))
    assert same(one, other)


def test_saves_come_at_multiples_and_once_early(tmp_path: Path) -> None:
    state = TrainingState.initial(CONFIG, CPU.device)
    config = replace(CONFIG, snapshot_every=200)
    averaged: Any = None
    saver = saving.Saver(RunDirectory(tmp_path), config, state, averaged, CPU.device)
    due = []
    for images in range(8, 500, 8):
        state.progress.images = images
        due += [images] if saver.is_due() else []
    assert due == [24, 200, 400]


def test_weights_that_lost_their_snapshot_are_kept(train_tiny: Callable[..., Result]) -> None:
    """Those of a run so short that its metrics do not tell of a save."""
    given = ("--out", "run", "--snapshot-every", 32_000, "--images")
    assert train_tiny(*given, 16).code == 0
    before = {name: Path("run", name).read_bytes() for name in ("model.safetensors",)}
    shutil.rmtree("run/snapshots")
    again = train_tiny(*given, 8)
    assert (again.code, "it is model.safetensors.superseded now" in again.err) == (0, True)
    for name, content in before.items():
        assert Path(f"run/{name}.superseded").read_bytes() == content != Path("run", name)


def test_a_run_that_begins_at_its_end_has_weights(train_tiny: Callable[..., Result]) -> None:
    assert train_tiny("--out", "one").code == 0
    (newest,) = snapshots.listed(Path("one/snapshots"))[-1:]
    other = train_tiny("--out", "other", "--resume", newest, "--json")
    assert (other.code, "budget is used up" in other.err) == (0, True)
    held = [load_file(f"{run}/model.safetensors") for run in ("one", "other")]
    assert same(*held)
