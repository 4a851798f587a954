"""What the files of a run say of it: its state, its progress, its scores, and what is damaged."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ddpm_cli.core.runs import summary
from ddpm_cli.core.runtime import locks
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result


def change_config(run: Path, **settings: object) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | settings))


def test_a_finished_run(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    with (run / "provenance.jsonl").open("a") as file:
        file.write('{"preset": "shapes"}\n{"preset": null}\n{"pres')
    found = summary.read(run)
    assert (found.state, found.used, found.images, found.total) == ("finished", 1.0, 64, 64)
    assert (found.preset, found.problem, found.steps) == ("shapes", "", 8)
    assert found.data.endswith("photos")
    assert found.preview == run / "samples" / "000000064.png"
    assert found.since is not None
    assert abs(datetime.now(UTC) - found.since).total_seconds() < 3600
    rows = RunDirectory(run).rows()
    assert found.loss == rows[-1]["loss_smooth"]
    assert found.held_out is None
    assert found.bytes == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize("limit", [{"images": 70}, {"steps": 9}, {"minutes": 60.0}])
def test_what_has_budget_left_is_stopped(
    limit: dict[str, float], tiny_run: Callable[..., Path]
) -> None:
    run = tiny_run("run")
    nothing = {"images": None, "steps": None, "epochs": None, "minutes": None}
    change_config(run, budget=nothing | limit)
    found = summary.read(run)
    assert found.state == "stopped"
    expected = found.seconds / 3600 if "minutes" in limit and found.seconds else 64 / 72
    assert found.used == pytest.approx(expected)


def test_a_budget_of_epochs(train_tiny: Callable[..., Result], tiny: Path) -> None:
    settings = json.loads(tiny.read_text())
    tiny.write_text(json.dumps(settings | {"budget": {"images": None, "epochs": 2}}))
    assert train_tiny("--out", "run").code == 0
    found = summary.read(Path("run"))
    assert (found.state, found.images, found.total) == ("finished", 48, 48)
    rows = (Path("run") / "metrics.jsonl").read_text().splitlines()
    (Path("run") / "metrics.jsonl").write_text("\n".join(rows[:3]) + "\n")
    for path in Path("run/snapshots").iterdir():
        path.unlink()
    found = summary.read(Path("run"))
    assert (found.state, found.used, found.total) == ("stopped", 0.5, 48)


def test_the_lock_says_running(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    with locks.lock_run(run, print):
        found = summary.read(run)
        assert found.state == "running"
        assert found.since is not None
        assert abs(datetime.now(UTC) - found.since).total_seconds() < 60
        assert locks.training_in(run) == locks.holder_of(run)
    assert summary.read(run).state == "finished"
    with locks.lock_run(run, pytest.fail):  # reading has left no lock
        pass


def test_a_killed_training_is_not_running(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    change_config(run, budget={"images": 128})
    holder = (
        "import sys, pathlib, os, signal\n"
        "from ddpm_cli.core.runtime.locks import lock_run\n"
        f"with lock_run(pathlib.Path({str(run)!r}), print): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", holder], check=False)
    assert "pid" in (run / ".lock").read_text()
    assert summary.read(run).state == "stopped"


def test_a_training_on_another_machine(tiny_run: Callable[..., Path]) -> None:
    """Its lock may not be seen here: that its metrics were just written counts."""
    run = tiny_run("run")
    change_config(run, budget={"images": 128})
    (run / ".lock").write_text(json.dumps({"host": "node-7", "pid": 1, "started": "1"}))
    for age, state in ((0, "running"), (60, "running"), (3600, "stopped")):
        written = time.time() - age
        os.utime(run / "metrics.jsonl", (written, written))
        assert summary.read(run).state == state
    (run / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
    os.utime(run / "metrics.jsonl")
    assert summary.read(run).state == "stopped"


def test_diverged_until_it_is_resumed(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    change_config(run, budget={"images": 128})
    post_mortem = RunDirectory(run).post_mortem
    post_mortem.write_text("{}")
    assert summary.read(run).state == "diverged"
    older = time.time() - 1000
    os.utime(post_mortem, (older, older))
    assert summary.read(run).state == "stopped"


def test_patience_at_its_end(train_tiny: Callable[..., Result]) -> None:
    options = ("--patience", 2, "--validate-every", 8, "--lr", 1e-12, "--images", 400)
    assert train_tiny("--out", "run", "--holdout", 4, *options).code == 0
    found = summary.read(Path("run"))
    rows = RunDirectory(Path("run")).rows()
    assert found.images < 400
    assert found.state == "finished"
    assert found.held_out == rows[-1]["loss_holdout"] is not None
    change_config(Path("run"), patience=9)
    assert summary.read(Path("run")).state == "stopped"


def test_the_best_comparable_score(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    rows: list[dict[str, object]] = [
        {"images": 8, "label": "fid5k", "value": 1.0, "weights_sha256": "other"},
        {"images": 16, "label": "fid64", "value": 0.5, "weights_sha256": "this"},
        {"images": 32, "label": "fid5k", "value": 20.5, "weights_sha256": "this"},
        {"images": 64, "label": "fid5k", "value": 21.0, "weights_sha256": "this"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"images": 80, "lab'
    (run / "scores.jsonl").write_text(text)
    assert summary.read(run).score == summary.Score("fid5k", 20.5, 32)


def test_only_begun(tmp_path: Path, tiny_run: Callable[..., Path]) -> None:
    config = (tiny_run("run") / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    found = summary.read(tmp_path)
    assert (found.state, found.images, found.used) == ("new", 0, 0.0)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"network": 3}', b'{"images": 1e999}']
)
@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "scores.jsonl", "provenance.jsonl", ".lock"]
)
def test_damaged_files_are_said(
    name: str, content: bytes | None, tiny_run: Callable[..., Path]
) -> None:
    run = tiny_run("run")
    (run / name).unlink(missing_ok=True)
    if content is not None:
        (run / name).write_bytes(content)
    found = summary.read(run)
    assert found.images == 64  # of the rows, or of the newest snapshot
    assert summary.is_run(run)
    if name == "config.json":
        assert "config.json" in found.problem
        assert str(run / "config.json") not in found.problem
    if name == "metrics.jsonl" and content:
        assert "metrics.jsonl" in found.problem


def test_rows_cut_short_do_not_count(tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"images": 72, "steps": 9, "loss_holdout": 0.')
    found = summary.read(run)
    assert (found.images, found.steps, found.held_out, found.problem) == (64, 8, None, "")


def test_reading_imports_no_torch(tiny_run: Callable[..., Path]) -> None:
    program = (
        "import sys, pathlib; from ddpm_cli.core.runs import summary\n"
        f"summary.read(pathlib.Path({str(tiny_run('run'))!r}))\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
