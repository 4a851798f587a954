"""ddpm runs clean: what may go, what never does, and that a resume does not notice."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.runs import cleaning, summary
from ddpm_cli.core.runtime import locks
from ddpm_cli.core.runtime.reporting import SILENT
from tests.support.cli import Result, refused


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    """Snapshots after 8, 16, … 64 images, of which those after 24 and 48 are milestones."""
    run = tiny_run("run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"keep": 9, "keep_every": 24}))
    newest = run / "snapshots" / "000000000064.pt"
    for images in range(8, 64, 8):
        shutil.copyfile(newest, newest.with_stem(f"{images:012d}"))
    return run


def left(run: Path) -> list[int]:
    return [int(path.stem) for path in sorted((run / "snapshots").glob("*.pt"))]


def test_only_what_may_go_is_deleted(run: Path, ddpm: Callable[..., Result]) -> None:
    others = {path for path in run.rglob("*") if path.is_file() and path.suffix != ".pt"}
    before = {path: path.read_bytes() for path in others if path.name != ".lock"}
    assert left(run) == [8, 16, 24, 32, 40, 48, 56, 64]
    told = ddpm("runs", "clean", run)
    assert told.code == 0, told.err
    assert "5 files" in told.out and "--yes" in told.out
    assert left(run) == [8, 16, 24, 32, 40, 48, 56, 64]
    size = sum(path.stat().st_size for path in run.rglob("*"))
    document = ddpm("runs", "clean", run, "--yes", "--json").json()
    assert left(run) == [24, 48, 64]
    assert document["deleted"] is True
    assert document["bytes"] == size - sum(path.stat().st_size for path in run.rglob("*"))
    assert {path: path.read_bytes() for path in before} == before
    assert "nothing to delete" in ddpm("runs", "clean", "--yes", run).out
    ddpm("runs", "clean", run, "--milestones", "--yes")
    assert left(run) == [64]


def test_a_resume_after_it_is_bit_exact(run: Path, train_tiny: Callable[..., Result]) -> None:
    whole = Path(shutil.copytree(run, "whole"))
    cleaning.clean(cleaning.plan(run, milestones=True), SILENT)
    assert left(run) == [64]
    for path in (run, whole):
        assert train_tiny("--out", path, "--images", 72).code == 0
    weights = [(path / "model.safetensors").read_bytes() for path in (run, whole)]
    assert weights[0] == weights[1]


def test_a_held_lock_protects(run: Path, ddpm: Callable[..., Result]) -> None:
    with locks.lock_run(run, print):
        result = ddpm("runs", "clean", run, "--yes")
        assert result.code == 0
        assert "untouched, it is training" in result.out
        assert len(left(run)) == 8


def test_a_training_that_began_meanwhile_protects(
    run: Path, ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began after the plan was made: the lock is taken before anything is deleted."""
    unseen = summary.read(run)
    with locks.lock_run(run, print):
        monkeypatch.setattr("ddpm_cli.core.runs.summary.read", lambda _: unseen)
        refused(ddpm("runs", "clean", run, "--yes"), "is being written by process")
    assert len(left(run)) == 8


def test_a_damaged_newest_snapshot_is_not_counted_on(run: Path) -> None:
    newest = sorted((run / "snapshots").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-500])
    cleaning.clean(cleaning.plan(run), SILENT)
    assert left(run) == [24, 48, 56, 64]


def test_the_newest_snapshot_is_read_once(
    run: Path, ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, verify = list[str](), snapshots.verify
    monkeypatch.setattr(snapshots, "verify", lambda path: (read.append(path.stem), verify(path)))
    assert ddpm("runs", "clean", run, "--yes").code == 0
    assert read == [f"{64:012d}"] and left(run) == [24, 48, 64]


def test_without_a_snapshot_that_can_be_read(run: Path) -> None:
    (run / "snapshots" / "000000000004.superseded").write_bytes(b"1234")
    for path in (run / "snapshots").glob("*.pt"):
        path.write_bytes(b"not a snapshot")
    planned = cleaning.clean(cleaning.plan(run), SILENT)
    assert (planned.files, "no snapshot can be read" in planned.untouched) == ((), True)
    assert len(left(run)) == 8


def test_superseded_and_left_over(run: Path) -> None:
    aside = [run / "snapshots" / "000000000004.superseded", run / "model.safetensors.superseded"]
    parts = [run / "snapshots" / ".000000000072.pt.0123456789abcdef.part"]
    (run / "generated").mkdir()
    old = run / "generated" / ".000000.png.0123456789abcdef.part"
    young = run / "generated" / ".000001.png.0123456789abcdef.part"
    own = run / "snapshots" / "mine.pt"
    for path in (*aside, *parts, old, young, own):
        path.write_bytes(b"1234")
    os.utime(old, (time.time() - 7200,) * 2)
    deleted = {file.path: file.why for file in cleaning.clean(cleaning.plan(run), SILENT).files}
    assert all(deleted[path] == cleaning.SUPERSEDED for path in aside)
    assert all(deleted[path] == cleaning.LEFT_OVER for path in (*parts, old))
    assert not any(path.exists() for path in deleted)
    assert young.exists() and own.exists()


def test_an_unreadable_config_keeps_snapshots(run: Path) -> None:
    (run / "config.json").write_text("{")
    assert cleaning.clean(cleaning.plan(run), SILENT).files == ()
    assert len(left(run)) == 8


def test_several_runs_and_folders(run: Path, ddpm: Callable[..., Result]) -> None:
    shutil.copytree(run, "runs/one")
    shutil.copytree(run, "runs/two")
    assert len(ddpm("runs", "clean", "--json").json()["runs"]) == 2
    document = ddpm("runs", "clean", "runs", "runs/one", run, "--yes", "--json").json()
    assert [len(one["files"]) for one in document["runs"]] == [5, 5, 5]
    refused(ddpm("runs", "clean", "nowhere"), "no such folder")


def test_asks_on_a_terminal(
    run: Path, ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr("ddpm_cli.cli.commands.runs_clean._is_asked", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: next(answers))
    assert "nothing was deleted" in ddpm("runs", "clean", run).out
    assert len(left(run)) == 8
    assert "Deleted 5 files" in ddpm("runs", "clean", run).out
    assert len(left(run)) == 3
    assert json.loads((run / "config.json").read_text())["keep"] == 9
