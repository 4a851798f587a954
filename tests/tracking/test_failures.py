"""A tracker that fails, blocks or dies costs a training one line and no step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.errors import DdpmError, PreemptedError
from ddpm_cli.core.runtime.reporting import Warned
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.tracking import processes, telling
from tests.support.cli import Result, refused
from tests.support.followed import FakeWandb, Said, add_rows, write_run


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.setattr(processes, "_TO_CLOSE", 1.0)
    monkeypatch.setattr(processes, "_TO_CLOSE_IN_HASTE", 0.5)
    return FakeWandb(tmp_path, monkeypatch)


@pytest.mark.parametrize("when", ["open", "log", "close"])
@pytest.mark.parametrize("how", ["raise", "block", "die"])
def test_a_training_goes_on(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch, how: str, when: str
) -> None:
    wandb.behave(f"{how} at {when}")
    if how != "block":  # it ends by itself, later on a busy machine
        monkeypatch.setattr(processes, "_TO_CLOSE", 15.0)
    run, said = write_run(tmp_path / "run"), Said()
    add_rows(run, (8, 16))
    started = time.monotonic()
    with processes.following(["wandb"], run, 0, said):
        if how != "block" and when != "close":
            said.wait_for("does not follow" if how == "die" else "is behind")  # while it trains
        add_rows(run, (24,))
    assert time.monotonic() - started < 20
    (line,) = said.failures
    reason = {"raise": "network is away", "block": "not ready in time", "die": "exit code -9"}[how]
    assert reason in line and "tracking/wandb.txt" in line
    assert ("is behind, and tries again" in line) == (how == "raise" and when != "close")
    assert isinstance(line, Warned)  # as --quiet shows it


def test_that_it_has_caught_up_is_said(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.behave("raise once at log")
    run, said = write_run(tmp_path / "run"), Said()
    add_rows(run, (8, 16))
    with processes.following(["wandb"], run, 0, said):
        said.wait_for("is behind")
    assert [step for step, _ in wandb.records] == [8, 16, "closed"]
    assert len(said.failures) == 1
    assert said.lines[-1] == "wandb follows the training again, up to now"


def test_passwords_and_keys_are_not_said(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "0123456789abcdef")
    words = "no answer of http://me:SE@CRET@127.0.0.1:9/a?b=me@home with 0123456789abcdef"
    monkeypatch.setenv("FAKE_REASON", words)
    wandb.behave("raise at open")
    run, said = write_run(tmp_path / "run"), Said()
    with processes.following(["wandb"], run, 0, said):
        said.wait_for("is behind")
    (line,) = said.failures
    assert "no answer of http://127.0.0.1:9/a?b=me@home with $OTHER_API_KEY (" in line
    cut = f"{'x' * 180} postgresql://me:SECRET@host/runs"  # by first_line, within the password
    assert "SEC" not in telling.reason(ConnectionError(cut))


def test_the_command_ends_as_if_nothing_had_been(
    train_tiny: Callable[..., Result], wandb: FakeWandb
) -> None:
    wandb.behave("block at log")
    result = train_tiny("--out", "run", "--log", "wandb", "--preview", 0)
    assert result.code == 0, result.err
    assert result.err.count("does not follow") == 1
    assert len(RunDirectory(Path("run")).rows()) == 8
    assert "does not follow" in Path("run/log.txt").read_text()


def test_a_stopped_training_is_closed_as_such_and_soon(tmp_path: Path, wandb: FakeWandb) -> None:
    run, said = write_run(tmp_path / "run"), Said()
    with pytest.raises(PreemptedError), processes.following(["wandb"], run, 0, said):
        said.wait_for("Followed by wandb: at https://")
        add_rows(run, (8,))
        raise PreemptedError("SIGTERM")
    assert wandb.records == [[8, {"progress/steps": 1, "loss/loss": 0.125}], ["closed", 0]]
    assert said.failures == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", ("pip install 'ddpm-cli[log]'", "pip install wandb")),
        ("no login", ("wandb login", "WANDB_MODE=offline")),
        ("exit", ("exit code 7",)),
    ],
)
@pytest.mark.usefixtures("planned_only")
def test_what_is_missing_is_said_before_the_first_step(
    train_tiny: Callable[..., Result], wandb: FakeWandb, how: str, words: tuple[str, ...]
) -> None:
    wandb.behave(how)
    for dry in ((), ("--dry-run",)):
        result = train_tiny("--out", "run", "--log", "wandb", *dry)
        error = result.err.splitlines()[-1]
        refused(result._replace(err=error), "--log wandb", *words)
    assert not Path("run").exists()


def test_a_library_that_does_not_answer_is_not_waited_for(
    wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.behave("no answer")
    monkeypatch.setattr(processes, "_TO_CHECK", 0.5)
    with pytest.raises(DdpmError, match="did not answer"):
        processes.check(["wandb"])


def test_unknown_trackers(train_tiny: Callable[..., Result]) -> None:
    refused(train_tiny("--log", "tensorbord"), "--log", "did you mean tensorboard?")
    refused(train_tiny("--log", "wandb,,mlflow"), "--log", "by commas")
