"""The commands on a report's page: those that make a run again, and those of its pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.report import commands
from ddpm_cli.core.report.records import Record
from tests.support.cli import Result


def test_options_of_the_last_start_that_are_no_settings_are_kept(
    tiny_run: Callable[..., Path],
) -> None:
    run = Path(tiny_run("run"))
    command = (
        "ddpm train --data d --size 16 --skip-bad --max-pixels=900 --lr 0.1 --out run "
        "--no-compile --log 'a b'"
    )
    with (run / "provenance.jsonl").open("a") as file:
        file.write(json.dumps({"command": command}) + "\n")
    again, sample, score, more = (command for _, command in commands.again(Record.read(run)))
    options = " --skip-bad --max-pixels=900 --no-compile --log 'a b'"
    assert again == f"ddpm train --config run/config.json --out run-again{options}"
    assert more == f"ddpm train --resume run{options}"
    assert score.endswith(" run --skip-bad --max-pixels=900")
    assert sample == "ddpm sample run -n 36 --seed 0 --guidance 2"


def test_they_work(ddpm: Callable[..., Result], photos: Path, tiny: Path) -> None:
    (photos / "light" / "bad.png").write_bytes(b"no image")
    few = ["--images", 8, "--preview", 0, "--config", tiny, "--skip-bad"]
    result = ddpm("train", "--data", photos, *few, "--out", "a run")
    assert result.code == 0, result.err
    assert "Next: ddpm sample 'a run' --guidance 2" in result.out
    (_, again), *_ = commands.again(Record.read(Path("a run")))
    assert again.endswith("--out 'a run-again' --skip-bad")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ddpm sample --guidance 2 -n 24", "ddpm sample 'my run' --guidance 2 -n 24"),
        ("ddpm sample", "ddpm sample 'my run'"),
        ("ddpm sample 'my run'", "ddpm sample 'my run'"),
        ("ddpm gif -n 4 '/a/my run/model.safetensors'",) * 2,
        ("ddpm sample other -n 4",) * 2,  # the run's name at that time
        ("python draw.py",) * 2,
        ("an 'unfinished",) * 2,
    ],
)
def test_commands_of_pictures_name_the_run(command: str, named: str) -> None:
    assert commands.naming(command, Path("my run")) == named
