"""Whatever dies while a run is saved, the same command goes on to what would have come out."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.data.loader import SampleOrder
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.trainer import Trainer
from tests.support import ranks
from tests.support.cli import Result
from tests.training.test_training import same

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills and limits of POSIX")

# Die when FUNCTION of MODULE is called for the N-th time: DONE of it (0, 0.5, 1) having happened.
KILLER = """
import os, signal
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints import snapshots
import torch, io
from pathlib import Path
calls = 0
def die(function, partly=None):
    def dying(*arguments):
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
    return dying
{module}.{name} = die({module}.{name})
"""


@pytest.fixture(autouse=True)
def _steady(tiny: Path) -> None:
    """The learning rate stays, so that a smaller budget is the beginning of a larger one."""
    settings = json.loads(tiny.read_text())
    settings["optimiser"]["decay"] = 0
    tiny.write_text(json.dumps(settings))


def command(photos: Path, tiny: Path, *more: object) -> tuple[object, ...]:
    given = ("--data", photos, "--config", tiny, "--snapshot-every", 16, "--preview", 0)
    return ("train", *given, "--out", "run", *more)


def dies_and_goes_on(
    train_tiny: Callable[..., Result],
    photos: Path,
    tiny: Path,
    where: tuple[str, str, float],
    nth: int,
) -> None:
    module, name, done = where
    program = KILLER.format(module=module, name=name, done=done, nth=nth)
    (victim,) = ranks.run(1, program, *command(photos, tiny))
    assert victim.code == -signal.SIGKILL, victim.err
    again = train_tiny("--out", "run", "--snapshot-every", 16, "--preview", 0, "--json")
    assert again.code == 0, again.err
    assert again.json()["resumed_at"] < 64
    straight = train_tiny("--out", "straight", "--snapshot-every", 16, "--preview", 0)
    assert straight.code == 0
    for weights in ("model", "best"):
        one, other = (load_file(f"{run}/{weights}.safetensors") for run in ("run", "straight"))
        assert same(one, other), weights
    rows = [RunDirectory(Path(run)).rows() for run in ("run", "straight")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_killed_amid_writing_a_snapshot(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    """The third one, at 48 images, is half on the disk: the second is gone on from."""
    dies_and_goes_on(train_tiny, photos, tiny, ("torch", "save", 0.5), 4)


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
    dies_and_goes_on(train_tiny, photos, tiny, where, nth)


# From its second snapshot on, the first process may make no file of more than 100,000 bytes.
LIMITED = """
import os, resource
from ddpm_cli.core.checkpoints import snapshots
write, seen = snapshots.write, []
def limited(*arguments):
    seen.append(1)
    if len(seen) > 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return write(*arguments)
snapshots.write = limited
"""


def test_a_disk_that_refuses_more_stops_all_processes_with_one_line(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    first, second = ranks.run(2, LIMITED, *command(photos, tiny, "--images", 8000))
    assert (first.code, second.code) == (1, 1), first.err + second.err
    assert "Traceback" not in first.err + second.err
    (line,) = [line for line in first.err.splitlines() if line.startswith("ddpm: ")]
    assert "000000000016.pt: File too large" in line
    assert "the newest snapshot is run/snapshots/000000000008.pt" in line
    assert "ddpm:" not in second.err
    (whole,) = Path("run/snapshots").iterdir()  # and nothing half-written
    assert whole.stat().st_size > 100_000
    again = train_tiny("--out", "run", "--json")
    assert (again.code, again.json()["resumed_at"]) == (0, 8)


# In the second of two processes one gradient is NaN at the third step, one loss is infinite at the
# fifth, and one is NaN from the ninth step on. Each process leaves the weights it ends with.
POISON = """
import math, os
import torch
from ddpm_cli.core.training import trainer
accumulate, loss, train = (
    trainer.Trainer._accumulate_gradients, trainer.training_loss, trainer.Trainer.train
)
rank, spoilt = int(os.environ["RANK"]), 0.0
def accumulated(self, share):
    global spoilt
    seen, hooks = self.state.progress.images, []
    if rank == 1 and seen == 16:
        weight = next(self.state.network.parameters())
        hooks.append(weight.register_hook(lambda gradient: gradient * math.nan))
    spoilt = (math.inf if seen == 32 else math.nan if seen >= 64 else 0.0) if rank == 1 else 0.0
    losses = accumulate(self, share)
    for hook in hooks:
        hook.remove()
    return losses
def losses_of(*arguments):
    losses = loss(*arguments)
    return losses + torch.tensor([spoilt] + [0.0] * (len(losses) - 1))
def trained(self, request):
    try:
        train(self, request)
    finally:
        torch.save(self.state.network.state_dict(), f"rank{rank}.pt")
trainer.Trainer._accumulate_gradients, trainer.training_loss = accumulated, losses_of
trainer.Trainer.train = trained
"""


def test_bad_numbers_in_one_process_are_skipped_by_all_and_end_all_where_they_stay(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--images", 8000, "--snapshot-every", 32)
    both = ranks.run(2, POISON, *command(photos, tiny, *more))
    assert [ended.code for ended in both] == [3, 3], both[0].err + both[1].err
    assert "Traceback" not in both[0].err + both[1].err
    assert "20 steps in a row" in both[0].err
    together = [torch.load(f"rank{rank}.pt") for rank in (0, 1)]
    assert same(*together)

    told = json.loads(Path("run/post-mortem.json").read_text())
    assert (told["images"], told["processes"], told["last_good_step"]["images"]) == (224, 2, 64)
    (loss,) = told["last_batch"]["not_finite"]
    assert told["last_batch"]["losses"] == 8
    assert (
        loss["row"] == SampleOrder(24, 0).indices(216, 8)[4]
    )  # the first of the second one's share
    for path in snapshots.listed(Path("run/snapshots")):
        held = torch.load(path, weights_only=True)
        assert held["progress"]["skipped"] == 2 + held["progress"]["bad_steps"]
        for name in ("network", "average"):
            assert all(weight.isfinite().all() for weight in held[name].values()), path

    def skipped(self: Trainer, share: Batch, losses: torch.Tensor, *, is_finite: bool) -> None:
        step(self, share, losses, is_finite=self.state.progress.images not in (24, 40))

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", skipped)
    assert train_tiny("--out", "alone", "--preview", 0).code == 0
    alone = torch.load(snapshots.snapshot_path(Path("alone/snapshots"), 64), weights_only=True)
    for name, weight in together[0].items():
        assert near(weight, alone["network"][name]), name


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for sums in another order: Adam makes much of those where a gradient is near 0."""
    print(float((one - other).norm() / other.norm()), one.shape)
    return bool((one - other).norm() <= 1e-3 * other.norm())


@pytest.mark.parametrize("processes", [1, pytest.param(4, marks=pytest.mark.chaos)])
def test_going_on_with_fewer_or_more_processes(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, processes: int
) -> None:
    """The pictures of the whole batch are the same in the same order, and it is said."""
    program = """
import os, numpy
from ddpm_cli.core.training.batches import Batches
draw = Batches.draw
def noted(self, seen, history):
    batch = draw(self, seen, history)
    numpy.save(f"{seen}-{os.environ.get('RANK', 0)}.npy", batch.rows)
    return batch
Batches.draw = noted
"""
    two = ranks.run(2, "", *command(photos, tiny, "--images", 32))
    assert [ended.code for ended in two] == [0, 0], two[0].err
    more = ranks.run(processes, program, *command(photos, tiny))
    assert [ended.code for ended in more] == processes * [0], more[0].err
    now = f"{processes} process{'es' if processes > 1 else ''}"
    assert f"trained by 2 processes and resumes with {now}: same batch and order" in more[0].err
    for images in range(32, 64, 8):
        rows = [np.load(f"{images}-{rank}.npy") for rank in range(processes)]
        assert (np.concatenate(rows) == SampleOrder(24, 0).indices(images, 8)).all()
    assert train_tiny("--out", "straight", "--snapshot-every", 16, "--preview", 0).code == 0
    straight = load_file("straight/model.safetensors")
    for name, weight in load_file("run/model.safetensors").items():
        assert near(weight, straight[name]), name
