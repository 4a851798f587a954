"""The averages that --ema-every keeps: exact, stored as the training goes on, and resumed."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpm_cli.core.checkpoints import post_hoc, profiles, snapshots, tensors, weights
from ddpm_cli.core.checkpoints.post_hoc import TRACKED
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.config import run as c
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runs import cleaning
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import resuming, saving, step
from ddpm_cli.core.training.state import TrainingState
from tests.support import ranks
from tests.support.cli import Result
from tests.support.training import CONFIG, CPU, Messages, equal_tensors, train_run

KEPT = replace(CONFIG, ema_every=24)  # images; a batch is of 8, and the run of 64


def names(folder: Path) -> list[str]:
    return sorted(path.name.lstrip("0") for path in (folder / "ema").iterdir())


def every_weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights after each step, which the trainings from now on append."""
    found, update = [], step.Step.update

    def recorded(self: step.Step, decays: step.ema.Decays, skipped: Tensor) -> None:
        update(self, decays, skipped)
        named = self._state.network.named_parameters()
        found.append({name: p.detach().double().clone() for name, p in named})

    monkeypatch.setattr(step.Step, "update", recorded)
    return found


def test_the_averages_are_the_means_under_their_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight k is constant over the images of its step: its share is an integral of the profile.

    So it is where a step was skipped: its images count with the weights that it left unchanged.
    """
    losses, calls = step.training_loss, []

    def third_is_nan(*arguments: object) -> Tensor:
        calls.append(1)
        return losses(*arguments) * (math.nan if len(calls) == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "training_loss", third_is_nan)
    found = every_weights(monkeypatch)
    state = train_run(tmp_path, replace(KEPT, validate_every=1000))
    assert state.progress.skipped == 1 and len(found) == 8
    for length in TRACKED:
        exponent = profiles.gamma(length) + 1
        for name, average in state.power_averages[length].named_parameters():
            shares = [((k + 1) / 8) ** exponent - (k / 8) ** exponent for k in range(8)]
            mean = sum(share * w[name] for share, w in zip(shares, found, strict=True))
            # float32 rounds each of 8 updates.
            torch.testing.assert_close(average.double(), mean, rtol=1e-5, atol=1e-6)
    assert equal_tensors(found[1], found[2])


def test_both_are_stored_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    state = train_run(tmp_path, KEPT)
    assert names(tmp_path) == [
        f"{images}-{length}.safetensors" for images in (24, 48, 64) for length in ("0.050", "0.100")
    ]
    for length, average in state.power_averages.items():
        path = post_hoc.path_of(RunDirectory(tmp_path), Profile(64, length))
        assert equal_tensors(load_file(path), average.state_dict())
        described = weights.read_description(path, tensors.describe(path))
        assert (described.images, described.sigma_rel) == (64, length)
        assert weights.load(path).config == KEPT  # to be sampled from


def test_a_run_without_them_stores_and_snapshots_what_it_did_before(tmp_path: Path) -> None:
    train_run(tmp_path)
    assert not (tmp_path / "ema").exists()
    parts = {"network", "average", "optimiser", "progress", "history", "config"}
    assert snapshots.read(snapshots.listed(tmp_path / "snapshots")[-1]).keys() == parts


def test_a_resume_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train_run(tmp_path / "whole", replace(KEPT, budget=c.Budget(images=64)))
    train_run(tmp_path / "halves", replace(KEPT, budget=c.Budget(images=40)))
    state = TrainingState.initial(KEPT, CPU.device)
    assert resuming.restore_newest(tmp_path / "halves" / "snapshots", state, Silent())
    train_run(tmp_path / "halves", KEPT, state)
    for length in TRACKED:
        one, other = (x.power_averages[length].state_dict() for x in (whole, state))
        assert equal_tensors(one, other)


def test_averages_newer_than_the_snapshot_are_set_aside_until_they_are_stored_again(
    tmp_path: Path,
) -> None:
    run = RunDirectory(tmp_path)
    train_run(tmp_path, KEPT)
    resuming.prepare_directory(run, KEPT, 32)
    assert [one.profile.images for one in post_hoc.stored(run)] == [24, 24]
    aside = post_hoc.superseded(run)
    assert len(aside) == 4 and {file.path for file in cleaning.plan(tmp_path).files} >= {*aside}
    state = TrainingState.initial(KEPT, CPU.device)
    resuming.load_snapshot(snapshots.snapshot_path(run.snapshots, 32), state)
    train_run(tmp_path, replace(KEPT, budget=c.Budget(images=48)), state)
    assert [path.name.lstrip("0") for path in post_hoc.superseded(run)] == [
        "64-0.050.superseded",
        "64-0.100.superseded",
    ]


def test_averages_that_begin_at_a_resume(tmp_path: Path, train_tiny: Callable[..., Result]) -> None:
    """The weights there stand for those before; long averages are said to be wrong at first."""
    assert train_tiny("--out", "run").code == 0
    more = train_tiny("--out", "run", "--images", 96, "--ema-every", 32)
    assert more.code == 0, more.err
    assert "holds no averages for --ema-every" in more.err
    assert names(Path("run")) == ["96-0.050.safetensors", "96-0.100.safetensors"]
    again = train_tiny("--out", "run", "--images", 128)  # the setting is the run's by now
    assert again.code == 0 and "no averages" not in again.err
    assert len(names(Path("run"))) == 4


def test_a_save_without_space_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr(saving, "check_free_space", lambda *arguments: said.append(arguments[1:3]))
    state = train_run(tmp_path, replace(KEPT, snapshot_every=1000, validate_every=1000))
    size = 4 * sum(p.numel() for p in state.network.parameters())
    assert said[0] == (2 * size, "two averages of the weights")


def test_a_dry_run_counts_them(train_tiny: Callable[..., Result]) -> None:
    plain, kept = (train_tiny("--dry-run", "--json", *more) for more in ((), ("--ema-every", "24")))
    size = 4 * plain.json()["parameters"]
    one, other = (result.json()["disk_bytes"] for result in (plain, kept))
    assert (one["averages"], other["averages"]) == (0, 3 * 2 * size)  # at 24, 48 and 64 images
    assert other["snapshots"] == one["snapshots"] + 2 * 2 * size
    assert ", 6 averages in ema/ (" in kept.err and "averages in ema/" not in plain.err
    memory = [result.json()["memory_bytes"] for result in (plain, kept)]
    assert memory[1]["average"] - memory[0]["average"] == 2 * size


# Killed in the NTH call of weights.save, before or after it (DONE).
KILLER = """
import os, signal
from ddpm_cli.core.checkpoints import weights
save, calls = weights.save, []
def killed(*arguments):
    calls.append(1)
    if len(calls) == {nth} and not {done}:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)
    if len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
weights.save = killed
"""


def check_kills(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, nth: int, *, done: bool
) -> None:
    """After a kill the same command stores what a training without one stores, byte for byte."""
    settings = tiny.read_text().replace('"lr"', '"decay": 0, "lr"')
    tiny.write_text(settings)
    options = ("--out", "run", "--ema-every", 24, "--snapshot-every", 16, "--preview", 0)
    program = KILLER.format(nth=nth, done=done)
    (killed,) = ranks.run(1, program, "train", "--data", photos, "--config", tiny, *options)
    assert killed.code == -signal.SIGKILL, killed.err
    assert train_tiny(*options).code == 0
    assert train_tiny(*options[2:], "--out", "whole").code == 0
    stored = [path for path in Path("run/ema").iterdir() if path.suffix == ".safetensors"]
    assert names(Path("run")) == names(Path("whole"))
    for path in stored:
        assert path.read_bytes() == (Path("whole/ema") / path.name).read_bytes(), path


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_between_a_store_and_the_next_snapshot(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    """Weights at 8, 16; averages at 24 (two files): the kill comes when the second was written."""
    check_kills(train_tiny, photos, tiny, 4, done=True)


@pytest.mark.chaos
@pytest.mark.parametrize("nth", range(1, 11))
@pytest.mark.parametrize("done", [False, True])
def test_killed_in_any_file(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path, nth: int, done: bool
) -> None:
    check_kills(train_tiny, photos, tiny, nth, done=done)


@pytest.mark.chaos
def test_two_processes_store_the_averages_of_one(
    train_tiny: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    options = ("--ema-every", 24, "--preview", 0)
    assert train_tiny("--out", "one", *options).code == 0
    command = ("train", "--data", photos, "--config", tiny, "--out", "two", *options)
    both = ranks.run(2, "", *command)
    assert [result.code for result in both] == [0, 0], both[0].err
    assert names(Path("two")) == names(Path("one"))
    for path in Path("one/ema").iterdir():
        for name, tensor in load_file(path).items():  # sums over ranks differ in the last digits
            other = load_file(Path("two/ema") / path.name)[name]
            torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-4)


def test_a_store_that_fails_ends_the_training_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise DdpmError("cannot write ema: no space")

    monkeypatch.setattr(post_hoc, "store", full)
    with pytest.raises(DdpmError, match="no space"):
        train_run(tmp_path, KEPT, reporter=Messages())
