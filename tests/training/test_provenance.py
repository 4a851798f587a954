"""Where a run and its results come from, and the log of what was said."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ddpm_cli import __version__
from ddpm_cli.core.runtime.reporting import Log
from ddpm_cli.core.training import step
from tests.support.cli import Result
from tests.support.training import Messages

KEYS = ["command", "date", "ddpm", "device", "host", "preset", "torch"]


def test_every_start_of_a_run_is_recorded(train_tiny: Callable[..., Result]) -> None:
    first = train_tiny("--out", "my run", "--images", 32, "--json")
    assert first.code == 0, first.err
    again = train_tiny("--out", "my run")
    assert again.code == 0, again.err
    lines = Path("my run/provenance.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records[0] == first.json()["provenance"]
    assert [sorted(record) for record in records] == [KEYS, KEYS]
    assert records[1]["ddpm"] == __version__
    assert records[1]["preset"] == "small"
    assert shlex.split(records[1]["command"])[:2] == ["ddpm", "train"]
    assert "--out 'my run'" in records[1]["command"]
    assert datetime.fromisoformat(records[1]["date"]).utcoffset() == timedelta(0)

    log = Path("my run/log.txt").read_text()
    assert log.count("started: ddpm train") == log.count("Run directory: my run") // 2 == 2
    for said in again.err.splitlines() + again.out.splitlines():
        assert said in log or said.startswith("training:")
    assert all(datetime.fromisoformat(line.split()[0]) for line in log.splitlines())


def test_provenance_is_in_no_file_that_defines_equality(train_tiny: Callable[..., Result]) -> None:
    for out in ("one", "two"):
        assert train_tiny("--out", out, *(["--keep", 2] if out == "two" else [])).code == 0
    for name in ("config.json", "model.safetensors", "best.safetensors"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_samples_are_completed_whoever_began_them(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result]
) -> None:
    tiny_run("run")
    command = ("sample", "run", "-n", 2, "--steps", 2, "--device", "cpu", "--out", "out", "--json")
    document = ddpm(*command).json()
    assert sorted(document["provenance"]) == KEYS
    file = Path("out/sampling.json")
    written = json.loads(file.read_text())
    assert sorted(written["provenance"]) == KEYS
    written["provenance"] |= {"host": "elsewhere", "date": "2020-01-01T00:00:00+00:00"}
    file.write_text(json.dumps(written))
    again = ddpm(*command)
    assert (again.code, again.json()["drawn"]) == (0, 0), again.err


def test_why_a_training_ended_is_in_its_log(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = step.training_loss
    monkeypatch.setattr(step, "training_loss", lambda *given: loss(*given) * math.nan)
    result = train_tiny("--out", "run", "--lr", 10)
    assert result.code == 3
    (line,) = [line for line in result.err.splitlines() if line.startswith("ddpm: ")]
    assert "--lr 0.002 (the preset small's) with a new --out" in line
    assert "--lr 10 may make training diverge: the preset small has --lr 0.002" in result.err
    assert line.removeprefix("ddpm: ") in Path("run/log.txt").read_text()


def test_a_log_starts_with_what_was_said_before_it_was_opened(tmp_path: Path) -> None:
    terminal = Messages()
    log = Log(terminal)
    log.say("before")
    log.open(tmp_path / "log.txt")
    log.note("unsaid")
    log.say("after")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["before", "unsaid", "after"]
    assert terminal.messages == ["before", "after"]


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    terminal = Messages()
    log = Log(terminal)
    log.open(tmp_path / "missing" / "log.txt")
    log.say("said")
    assert terminal.messages == ["said"]
