"""Processes killed, full disks and non-finite steps around saves: the same command resumes."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.data.order import SampleOrder
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import step
from tests.support import ranks
from tests.support.cli import Result
from tests.support.training import before_each_step, equal_tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")

# Killed in the NTH call of MODULE.NAME, after the part DONE of it: 0, 0.5 or 1.
KILLER = """
import os, signal
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints import snapshots
import torch, io
from pathlib import Path
calls = 0
def killed_in(function):
    def killed(*arguments):
        global calls
        calls += 1
        if calls < {nth}:
            return function(*arguments)
        if {done} == 1:
            function(*arguments)
        elif {done} == 0.5:
            whole = io.BytesIO()
            function(arguments[0], whole)
            arguments[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
            arguments[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return killed
{module}.{name} = killed_in({module}.{name})
"""


@pytest.fixture(autouse=True)
def _constant_learning_rate(tiny: Path) -> None:
    """So that a run with a smaller budget is the beginning of one with a larger budget."""
    settings = json.loads(tiny.read_text())
    settings["optimiser"]["decay"] = 0
    tiny.write_text(json.dumps(settings))


def command(photos: Path, tiny: Path, *more: object) -> tuple[object, ...]:
    every = () if "--snapshot-every" in more else ("--snapshot-every", 16)
    options = ("--data", photos, "--config", tiny, *every, "--preview", 0)
    return ("train", *options, "--out", "run", *more)


def check_kill_and_resume(
    train_tiny: Callable[..., Result],
    photos: Path,
    tiny: Path,
    where: tuple[str, str, float],
    nth: int,
) -> None:
    module, name, done = where
    program = KILLER.format(module=module, name=name, done=done, nth=nth)
    (killed,) = ranks.run(1, program, *command(photos, tiny))
    assert killed.code == -signal.SIGKILL, killed.err
    again = train_tiny("--out", "run", "--snapshot-every", 16, "--preview", 0, "--json")
    assert again.code == 0, again.err
    assert again.json()["resumed_at"] < 64
    uninterrupted = train_tiny("--out", "uninterrupted", "--snapshot-every", 16, "--preview", 0)
    assert uninterrupted.code == 0
    for weights in ("model", "best"):
        one, other = (load_file(f"{run}/{weights}.safetensors") for run in ("run", "uninterrupted"))
        assert equal_tensors(one, other), weights
    rows = [RunDirectory(Path(run)).rows() for run in ("run", "uninterrupted")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_killed_while_writing_a_snapshot(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    """The third one, at 48 images, is half written: training resumes from the second."""
    check_kill_and_resume(train_tiny, photos, tiny, ("torch", "save", 0.5), 4)


@pytest.mark.chaos
@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize(
    "where",
    [
        ("weights", "save", 0),
        ("weights", "save", 1),
        ("torch", "save", 0),
        ("torch", "save", 0.5),
        ("torch", "save", 1),
        ("snapshots", "verify", 1),
        ("snapshots", "prune", 0),
        ("snapshots", "prune", 1),
        ("Path", "replace", 0),
        ("Path", "replace", 1),
    ],
    ids=lambda where: "-".join(map(str, where)),
)
def test_killed_anywhere_in_a_save(
    train_tiny: Callable[..., Result],
    photos: Path,
    tiny: Path,
    where: tuple[str, str, float],
    nth: int,
) -> None:
    check_kill_and_resume(train_tiny, photos, tiny, where, nth)


# From its second snapshot on, rank 0 can write no file of more than 100,000 bytes.
LIMITED = """
import os, resource
from ddpm_cli.core.checkpoints import snapshots
write, calls = snapshots.write, []
def limited(*arguments):
    calls.append(1)
    if len(calls) > 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return write(*arguments)
snapshots.write = limited
"""


def test_a_full_disk_ends_all_processes_with_one_line(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    first, second = ranks.run(2, LIMITED, *command(photos, tiny, "--images", 8000))
    assert (first.code, second.code) == (1, 1), first.err + second.err
    assert "Traceback" not in first.err + second.err
    (line,) = [line for line in first.err.splitlines() if line.startswith("ddpm: ")]
    assert "000000000016.pt: File too large" in line
    assert "the newest snapshot is run/snapshots/000000000008.pt" in line
    assert "ddpm:" not in second.err
    (snapshot,) = Path("run/snapshots").iterdir()  # and no partial file
    assert snapshot.stat().st_size > 100_000
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["resumed_at"]) == (0, 8)


# On rank 1 of two, a gradient is NaN at step 3, a loss infinite at step 5, and a loss NaN from step
# 9 on. Each rank saves its final weights.
NON_FINITE = """
import math, os
import torch
from ddpm_cli.core.training import step, trainer
from ddpm_cli.core.training.batches import Batches
draw, loss, train = Batches.draw, step.training_loss, trainer.Trainer.train
rank, seen = int(os.environ["RANK"]), 0
def drawn(self, images_seen, history):
    global seen
    seen = images_seen
    return draw(self, images_seen, history)
def losses(*arguments):
    values, added = loss(*arguments), 0.0
    if rank == 1 and torch.is_grad_enabled():
        added = math.inf if seen == 32 else math.nan if seen >= 64 else 0.0
    return values + torch.tensor([added] + [0.0] * (len(values) - 1))
def trained(self, stop):
    weight = next(self.state.network.parameters())
    weight.register_hook(lambda g: g * math.nan if rank == 1 and seen == 16 else g)
    try:
        train(self, stop)
    finally:
        torch.save(self.state.network.state_dict(), f"rank{rank}.pt")
Batches.draw, step.training_loss, trainer.Trainer.train = drawn, losses, trained
"""


def test_non_finite_steps_of_one_rank_are_skipped_by_all_and_end_all_where_they_persist(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--images", 8000, "--snapshot-every", 32)
    both = ranks.run(2, NON_FINITE, *command(photos, tiny, *more))
    assert [result.code for result in both] == [3, 3], both[0].err + both[1].err
    assert "Traceback" not in both[0].err + both[1].err
    assert "20 steps in a row" in both[0].err
    together = [torch.load(f"rank{rank}.pt") for rank in (0, 1)]
    assert equal_tensors(*together)

    report = json.loads(Path("run/post-mortem.json").read_text())
    assert (report["images"], report["processes"]) == (224, 2)
    assert report["last_good_step"]["images"] == 64
    (broken,) = report["last_batch"]["not_finite"]
    assert report["last_batch"]["losses"] == 8
    first_of_rank_1 = SampleOrder(24, 0).indices(216, 8)[4]
    assert broken["row"] == first_of_rank_1
    for path in snapshots.listed(Path("run/snapshots")):
        state = torch.load(path, weights_only=True)
        assert state["progress"]["skipped"] == 2 + state["progress"]["bad_steps"]
        for name in ("network", "average"):
            assert all(weight.isfinite().all() for weight in state[name].values()), path

    # One process that skips the same two steps ends with the same weights.
    loss, seen = step.training_loss, [0]

    def non_finite_twice(*arguments: Any) -> torch.Tensor:
        return loss(*arguments) * (math.nan if seen[0] in (16, 32) else 1)

    before_each_step(monkeypatch, lambda images: seen.__setitem__(0, images))
    monkeypatch.setattr(step, "training_loss", non_finite_twice)
    assert train_tiny("--out", "alone", "--preview", 0).code == 0
    alone = torch.load(snapshots.snapshot_path(Path("alone/snapshots"), 64), weights_only=True)
    for name, weight in together[0].items():
        assert near(weight, alone["network"][name]), name


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the order of sums, which Adam amplifies where a gradient is near 0."""
    return bool((one - other).norm() <= 1e-3 * other.norm())


@pytest.mark.parametrize("processes", [1, pytest.param(4, marks=pytest.mark.chaos)])
def test_resuming_with_fewer_or_more_processes(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, processes: int
) -> None:
    """The global batch has the same images in the same order, and the change is reported."""
    program = """
import os, numpy
from ddpm_cli.core.training.batches import Batches
draw = Batches.draw
def recorded(self, seen, history):
    batch = draw(self, seen, history)
    numpy.save(f"{seen}-{os.environ.get('RANK', 0)}.npy", batch.rows)
    return batch
Batches.draw = recorded
"""
    two = ranks.run(2, "", *command(photos, tiny, "--images", 32))
    assert [result.code for result in two] == [0, 0], two[0].err
    more = ranks.run(processes, program, *command(photos, tiny))
    assert [result.code for result in more] == processes * [0], more[0].err
    now = f"{processes} process{'es' if processes > 1 else ''}"
    assert f"trained by 2 processes and resumes with {now}: same batch and order" in more[0].err
    for images in range(32, 64, 8):
        rows = [np.load(f"{images}-{rank}.npy") for rank in range(processes)]
        assert (np.concatenate(rows) == SampleOrder(24, 0).indices(images, 8)).all()
    assert train_tiny("--out", "uninterrupted", "--snapshot-every", 16, "--preview", 0).code == 0
    expected = load_file("uninterrupted/model.safetensors")
    for name, weight in load_file("run/model.safetensors").items():
        assert near(weight, expected[name]), name
