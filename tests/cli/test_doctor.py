"""`ddpm doctor`: each line has a verdict and what to do; nothing hangs, nothing crashes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.doctor import examination, machine, storage, trials
from ddpm_cli.core.doctor.findings import NOTE, OK, PROBLEM, Check, Finding, carry_out, lines
from tests.support.cli import Result

Call = Callable[..., Result]


def test_a_quick_look(ddpm: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_RUNS", "mine")
    result = ddpm("doctor", "--quick")
    assert result.code == 0 and list(Path().iterdir()) == []
    told = result.out.splitlines()
    assert {line.split()[0] for line in told[:-1]} <= {OK, NOTE, "->"}
    for topic in ("ddpm", "libraries", "devices", "cores", "memory", "runs folder", "FID weights"):
        assert any(line[9:].startswith(topic) for line in told), topic
    assert "DDPM_RUNS=mine" in result.out and told[-1].startswith("0 problems")


def test_as_json_with_a_problem(ddpm: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").write_text("a file")
    monkeypatch.setenv("DDPM_RUNS", "taken/runs")
    monkeypatch.setattr(storage, "_SIZE", storage._BLOCK)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = ddpm("doctor", "--quick", "--json")
    document = result.json()
    assert (result.code, document["problems"]) == (1, 1)
    (found,) = [f for f in document["findings"] if f["verdict"] == PROBLEM]
    assert found["topic"] == "runs folder" and "Read-only file system" in found["text"]
    assert "DDPM_RUNS" in found["advice"]


def test_without_a_home_folder(ddpm: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "DDPM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ddpm_cli.core.config.paths.home", lambda: None)
    assert ddpm("doctor", "--quick").code == 0


def test_a_check_that_hangs_or_fails_is_a_line() -> None:
    released = threading.Event()
    (hung,) = carry_out(Check("disk", lambda: released.wait() and [], 0.01))
    released.set()
    assert (hung.topic, hung.verdict) == ("disk", NOTE) and "no answer in 0.01 s" in hung.text
    (failed,) = carry_out(Check("disk", lambda: 1 // 0))  # type: ignore[arg-type,return-value]
    assert failed.text == "could not be looked at: ZeroDivisionError: integer division or modulo " \
        "by zero"  # fmt: skip


def test_the_text_can_be_pasted() -> None:
    told = lines([Finding("a", OK, "well"), Finding("longer", PROBLEM, "ill", "do this")])
    assert told.splitlines() == [
        "ok       a       well",
        "problem  longer  ill",
        "                 -> do this",
        "1 problem, 0 notes",
    ]


def test_damaged_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    assert storage.weights()[0].text == "not in the cache yet"
    from ddpm_cli.core.metrics.networks.inception import PUBLISHED

    PUBLISHED.cache_path.parent.mkdir()
    PUBLISHED.cache_path.write_bytes(b"half a download")
    (found,) = storage.weights()
    assert found.verdict == PROBLEM and "delete it" in found.advice
    assert storage.cache()[1].text.startswith("holds weights ")


def test_programs_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 60.0)
    here = {"A_VARIABLE": "1"}
    code = "import os, sys; sys.exit(os.environ['A_VARIABLE'] + sys.argv[1])"
    assert trials._run([(code, "2", here)]) == "12"
    assert trials._run([("import ddpm_cli.core.errors", "", {})]) == ""
    monkeypatch.setattr(trials, "SECONDS", 0.01)
    assert trials._run([("import time; time.sleep(60)", "", {})]) == "no answer in 0.01 s"


def test_a_crash_is_told_while_another_program_still_waits() -> None:
    programs = "import time; time.sleep(600)", "raise SystemExit('a port is taken')"
    assert trials._run([(program, "", {}) for program in programs]) == "a port is taken"


@pytest.mark.chaos  # as it starts two processes with torch
def test_two_processes_meet() -> None:
    (found, *_) = trials.processes()
    assert (found.verdict, found.text) == (OK, "two processes work together over gloo on cpu")


def test_compiling_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_run", lambda _: "InductorError: no headers")
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    (found,) = trials.compiling()
    assert found.verdict == NOTE and "InductorError: no headers" in found.text
    monkeypatch.setattr("shutil.which", lambda _: None)
    (found,) = trials.compiling()
    assert found.verdict == OK and "no C++ compiler" in found.text


def test_extras_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: None if name == "av" else "1.0")
    text, missing = machine.extras()
    assert "pyarrow 1.0" in text.text and missing.text == "not installed: video: films as .mp4"
    assert missing.advice.endswith('pip install "ddpm-cli[video]"')


def test_trials_are_left_out_of_a_quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    looks = [Check("a", lambda: [Finding("a", OK, "")])]
    monkeypatch.setattr(examination, "_LOOKS", looks)
    monkeypatch.setattr(examination, "_TRIALS", (Check("b", lambda: [Finding("b", OK, "")]),))
    assert [f.topic for f in examination.examine(quick=True, say=tried.append)] == ["a"]
    assert [f.topic for f in examination.examine(quick=False, say=tried.append)] == ["a", "b"]
    assert tried == ["trying: b, which may take 90 s"]
