"""ddpm runs: which runs are found, in which order, and what is said of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.cli import tables
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.runs import listing, summary
from tests.support.cli import Result, refused


@pytest.fixture
def three(tiny_run: Callable[..., Path]) -> Path:
    """A folder of a finished run, a stopped one in a folder, and a damaged one."""
    Path("runs").mkdir()
    run = tiny_run("run").rename("runs/finished")
    inner = Path(shutil.copytree(run, "runs/project/stopped"))
    config = json.loads((inner / "config.json").read_text())
    (inner / "config.json").write_text(json.dumps(config | {"budget": {"images": 640}}))
    rows = [json.loads(line) for line in (inner / "metrics.jsonl").read_text().splitlines()]
    rows[-1] |= {"loss_smooth": 1e-9}
    (inner / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    damaged = Path("runs/damaged")
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    os.utime(inner / "metrics.jsonl", (1e9, 1e9))
    for path in (inner / "snapshots").iterdir():
        os.utime(path, (1e9, 1e9))
    return Path("runs")


def names(result: Result) -> list[str]:
    assert result.code == 0, result.err
    return [Path(run["run"]).name for run in result.json()["runs"]]


def test_a_table_of_all_runs(three: Path, ddpm: Callable[..., Result]) -> None:
    result = ddpm("runs")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:2] == ["RUN", "STATE"]
    by_name = {line.split()[0]: line for line in lines[1:4]}
    assert all(word in by_name["finished"] for word in (" finished ", " 100 % ", " 64/64 "))
    assert "stopped" in by_name["project/stopped"] and "10 %" in by_name["project/stopped"]
    assert "damaged" in by_name["damaged"]
    assert lines[-1].startswith("damaged: config.json is not a run's config.json")


def test_orders(three: Path, ddpm: Callable[..., Result]) -> None:
    assert names(ddpm("runs", "runs", "--sort", "run", "--json")) == [
        "damaged", "finished", "stopped",
    ]  # fmt: skip
    assert names(ddpm("runs", "--sort", "loss", "--json")) == ["stopped", "finished", "damaged"]
    assert names(ddpm("runs", "--sort", "loss", "--reverse", "--json"))[-1] == "damaged"
    assert names(ddpm("runs", "--json"))[-1] == "stopped"  # that of 2001
    assert names(ddpm("runs", "--sort", "used", "--json")) == ["finished", "stopped", "damaged"]
    refused(ddpm("runs", "--sort", "los"), "did you mean loss?")


@pytest.mark.parametrize("column", listing.ORDERS)
def test_every_order_takes_every_run(column: str, three: Path) -> None:
    found = [summary.read(path) for path in listing.find(three)]
    for reverse in (False, True):
        runs = listing.ordered(found, column, reverse=reverse)
        assert {run.path for run in runs} == {run.path for run in found}


def test_one_run_and_none(three: Path, ddpm: Callable[..., Result]) -> None:
    assert names(ddpm("runs", "runs/finished", "--json")) == ["finished"]
    Path("empty").mkdir()
    assert "no runs in empty" in ddpm("runs", "empty").out
    assert ddpm("runs", "empty", "--json").json() == {"folder": "empty", "runs": []}
    refused(ddpm("runs", "nowhere"), "nowhere: no such folder")
    refused(ddpm("runs", "runs/damaged/config.json"), "is a file")


def test_without_runs(ddpm: Callable[..., Result]) -> None:
    assert ddpm("runs").out == "There are no runs in runs; ddpm train makes one.\n"


def test_a_folder_named_as_a_command(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result]
) -> None:
    Path("compare").mkdir()
    tiny_run("run").rename("compare/run")
    refused(ddpm("runs", "compare"), "two runs or more")
    assert names(ddpm("runs", "./compare", "--json")) == ["run"]
    assert names(ddpm("runs", "--json", "compare")) == ["run"]
    refused(ddpm("runs", "comapre"), "no such folder", "ddpm runs compare")


def test_models_of_others_and_weights_alone_are_none(three: Path) -> None:
    pipeline = Path("runs/pipeline")
    for folder, settings in ((pipeline, "model_index.json"), (pipeline / "unet", "config.json")):
        folder.mkdir()
        (folder / settings).write_text('{"_class_name": "UNet2DModel"}')
        (folder / "model.safetensors").write_bytes(b"")
    (three / "pulled").mkdir()
    shutil.copy(three / "finished" / "model.safetensors", three / "pulled")
    (three / "cache" / "snapshots" / "0123abcd").mkdir(parents=True)
    assert sorted(path.name for path in listing.find(three)) == ["damaged", "finished", "stopped"]


COLUMNS = [
    Column("NAME", ["a" * 40, "b"], cut="start"),
    Column("STATE", ["running", "stopped"]),
    Column("NOTE", ["x" * 30, ""], needed=1),
    Column("SIZE", ["1 MB", "20 MB"], right=True, needed=2),
    Column("NOTHING", ["", ""]),
]


def test_plain_columns_are_whole() -> None:
    lines = tables.table(COLUMNS).splitlines()
    assert lines[1] == f"{'a' * 40}  running  {'x' * 30}   1 MB"
    assert "NOTHING" not in lines[0]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 150])
def test_a_terminal_cuts_no_column_that_stays(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", tables.table(COLUMNS)).splitlines()
    assert all(len(line) <= width for line in lines)
    assert ("NOTE" in lines[0]) == (width >= 58)
    assert ("SIZE" in lines[0]) == (width >= 28)
    assert "running" in lines[2] and "a" * 10 in lines[2]
    assert ("…" in lines[2]) == (width < 86)
