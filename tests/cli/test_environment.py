"""Environment variables: each sets its option, below the command line and above files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from ddpm_cli.cli.app import app
from ddpm_cli.core.config import environment
from tests.support.cli import Result, refused

Call = Callable[..., Result]


def test_every_variable_of_an_option_is_in_the_help_of_the_option() -> None:
    group: Any = typer.main.get_command(app)
    shown = {
        (param.opts[0], param.envvar)
        for command in (group, *group.commands.values())
        for param in command.params
        if getattr(param, "envvar", None)
    }
    declared = {(v.option, v.name) for v in environment.VARIABLES if v.option}
    assert shown == declared - {("--traceback", environment.TRACEBACK)}


def test_the_command_line_before_the_environment_before_the_file(
    ddpm: Call, photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_DEVICE", "cuda")  # there is none
    monkeypatch.setenv("DDPM_RUNS", "elsewhere")
    train = ("train", "--data", photos, "--config", tiny, "--images", 8)
    result = ddpm(*train)
    refused(result, "no GPU", "--device is that of the environment variable DDPM_DEVICE")
    result = ddpm(*train, "--device", "cpu", "--json")
    assert Path(result.json()["run"]) == Path("elsewhere/photos-8")
    assert list(Path().iterdir()) == [Path("elsewhere")]
    monkeypatch.setenv("DDPM_DEVICE", "cpu")
    assert ddpm("sample", "-n", 1, "--steps", 1).code == 0  # the newest run, found there
    monkeypatch.setenv("DDPM_RUNS", "nowhere")
    refused(ddpm("sample"), "no trained run under nowhere/ here")


@pytest.mark.parametrize(
    ("name", "value", "command", "message"),
    [
        ("DDPM_DEVICE", "gpu", "train", "--device 'gpu' is unknown; choose one of auto"),
        ("DDPM_PRECISION", "half", "train", "--precision 'half' is unknown"),
        ("DDPM_NPROC", "two", "train", "takes a whole number, not 'two'"),
        ("DDPM_NPROC", "0", "train", "--nproc must be more than 0"),
        ("DDPM_COMPILE", "perhaps", "train", "give it 1 or 0, not 'perhaps'"),
        ("DDPM_TIME_LIMIT", "soon", "train", "--time-limit 'soon' should be a time"),
        ("DDPM_QUIET", "a bit", "inspect-schedule", "is a switch: give it 1 or 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    ddpm: Call, monkeypatch: pytest.MonkeyPatch, name: str, value: str, command: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    result = ddpm(command)
    refused(result, name, message)
    assert result.code == 2


def test_an_empty_variable_is_as_one_that_is_not_set(
    ddpm: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in environment.VARIABLES:
        if variable.name != environment.CACHE:
            monkeypatch.setenv(variable.name, "")
    assert ddpm("inspect-schedule", "--timesteps", 10).code == 0


def test_scores_keep_a_precision_of_their_own(
    ddpm: Call, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    monkeypatch.setenv("DDPM_PRECISION", "nonsense")
    refused(ddpm("fid", photos, "none"), "none")
    assert "DDPM_PRECISION" not in ddpm("fid", photos, "none").err


def test_a_name_that_is_nearly_one_of_ours(ddpm: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_DEVISE", "cpu")
    monkeypatch.setenv("DDPM_SECRET_OF_MINE", "x")
    monkeypatch.setenv("DDPM_LAUNCHER", "1")
    result = ddpm("inspect-schedule", "--timesteps", 10)
    assert result.err == (
        "the environment variable DDPM_DEVISE is not one of ddpm's; did you mean DDPM_DEVICE?\n"
    )


def test_each_of_several_near_names_is_written_whole() -> None:
    (told,) = environment.mistyped({"DDPM_DATACHE": ""})
    assert told.endswith("; did you mean DDPM_DATA or DDPM_CACHE?")


@pytest.mark.parametrize("where", ["before", "after", "variable", "short"])
def test_quiet_shows_the_result_and_what_is_wrong(
    ddpm: Call, photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    train: list[object] = ["train", "--data", photos, "--config", tiny, "--images", 8]
    if where == "variable":
        monkeypatch.setenv(environment.QUIET, "1")
    words = ["-q", *train] if where == "before" else train
    words += {"after": ["--quiet"], "short": ["-q"]}.get(where, [])
    result = ddpm(*words, "--device", "cpu", "--out", "run")
    assert result.code == 0
    lines = result.err.splitlines()
    assert all(line.startswith(("Warning", "other processes")) for line in lines), lines
    assert result.out.splitlines()[1:] == [
        "Run directory: run",
        "Next: ddpm sample run --guidance 2",
    ]
    assert "Training for" in Path("run/log.txt").read_text()


def test_quiet_ends_with_its_call(ddpm: Call, tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run", "--images", 16)
    sample = ("sample", run, "-n", 1, "--steps", 1, "--device", "cpu")
    told = ddpm(*sample, "--out", "a").err.splitlines()
    quiet = ddpm("--quiet", *sample, "--out", "b", "--json")
    assert set(quiet.err.splitlines()) < set(told)  # what is wrong with these images
    assert quiet.json()["n"] == 1
    assert len(ddpm(*sample, "--out", "c").err.splitlines()) == len(told)


def test_quiet_keeps_warnings(ddpm: Call, photos: Path, tiny: Path) -> None:
    (photos / "dark" / "0.png").write_bytes(b"no image")
    train = ("train", "--data", photos, "--config", tiny, "--images", 8, "--device", "cpu")
    result = ddpm("-q", *train, "--skip-bad")
    assert result.code == 0 and "left out" in result.err and "0.png" in result.err
