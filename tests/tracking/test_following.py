"""What a tracker is given of a run directory, in which order, and what a resumed training adds."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.files import write_json
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.tracking import following, processes
from ddpm_cli.core.tracking.following import Entries, Entry, settings_of
from ddpm_cli.core.tracking.telling import Telling
from ddpm_cli.core.tracking.tracker import Run
from ddpm_cli.core.training.validation import COLUMNS
from tests.support.followed import (
    FakeWandb,
    Said,
    add_preview,
    add_rows,
    add_score,
    write_run,
)
from tests.support.training import CONFIG


def test_a_resumed_training_continues_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps never go back, none is missing, and what was logged is not logged again."""
    wandb, said = FakeWandb(tmp_path, monkeypatch), Said()
    run = write_run(tmp_path / "run")
    with processes.following(["wandb"], run, 0, said):
        add_rows(run, (8, 16, 24))
        add_preview(run, 16)
    run.rewind_rows(16)  # as a resume does from a snapshot after 16 images
    with processes.following(["wandb"], run, 16, said):
        add_rows(run, (24, 32))
        add_score(run, 32, 7.5)
    steps = [step for step, _ in wandb.records if step != "closed"]
    assert steps == [8, 16, 16, 24, 32, 32]
    assert wandb.records[2] == [16, {"samples": str(run.preview(16))}]
    assert wandb.records[-2:] == [[32, {"scores/fid5k": 7.5}], ["closed", 0]]
    kept = json.loads(run.tracker("wandb").read_text())
    assert kept == {"id": "new", "images": {"metrics": 32, "scores": 32, "samples": 16}}
    assert said.failures == []


def test_a_run_that_was_not_followed_before_is_recorded_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb(tmp_path, monkeypatch)
    run = write_run(tmp_path / "run")
    add_rows(run, range(8, 88, 8))
    with processes.following(["wandb"], run, 80, Said()):
        add_rows(run, (88,))
    assert [step for step, _ in wandb.records] == [*range(8, 96, 8), "closed"]


@settings(max_examples=20)
@given(looks=st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_entries_come_in_the_order_of_the_images_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory, looks: list[int]
) -> None:
    """Whenever the run directory is looked at: here between the files that a step writes."""
    run = write_run(tmp_path_factory.mktemp("order") / "run")
    entries, found = Entries(run, {"metrics": 0, "scores": 0, "samples": 0}), list[Entry]()

    def look(*, last: bool = False) -> None:
        for entry in entries.new(last=last):
            entries.done(entry)
            found.append(entry)

    for step, chosen in enumerate(looks, 1):
        for part in range(3):
            if part == 0 and step % 2:
                add_rows(run, (8 * step,))
            if part == 1 and step % 3 == 0:
                run.preview(8 * step).parent.mkdir(exist_ok=True)
                run.preview(8 * step).touch()
            if part == 2 and step % 4 == 0:
                add_score(run, 8 * step, 1.0)
            if part < chosen:
                look()
    look(last=True)
    images = [entry.images for entry in found]
    assert images == sorted(images)
    sources = {name: [e.images // 8 for e in found if e.source == name] for name in entries._done}
    assert sources == {
        "metrics": [1, 3, 5, 7, 9, 11],
        "samples": [3, 6, 9, 12],
        "scores": [4, 8, 12],
    }


def test_a_row_that_is_being_written_is_read_later(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    entries = Entries(run, {"metrics": 0, "scores": 0, "samples": 0})
    run.metrics.write_text('{"images": 8, "loss": 0.5}\n{"images": 16, "lo')
    assert [entry.images for entry in entries.new(last=False)] == [8]
    with run.metrics.open("a") as file:
        file.write('ss": 0.25}\n')
    assert [entry.values for entry in entries.new(last=False)] == [
        {"loss/loss": 0.5},
        {"loss/loss": 0.25},
    ]


def test_a_validations_columns_are_sent_in_their_groups(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    row = dict.fromkeys(COLUMNS, 0.5)
    run.append_row({"images": 8, **row})
    (entry,) = Entries(run, {"metrics": 0, "scores": 0, "samples": 0}).new(last=True)
    groups = ("loss/", "loss_by_noise/")
    assert {name.removeprefix(groups["_q" in name]) for name in entry.values} == set(COLUMNS)


class Stub:
    """A record that is interrupted, as by a kill, at an entry."""

    id, where, rewinds, added = "stub", "nowhere", False, list[int]()

    def __init__(self, run: Run) -> None:
        pass

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        if images == 8 * 20:
            raise KeyboardInterrupt
        self.added.append(images)

    def close(self, state: str) -> None:
        pass


def follow_stub(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, looks: int = 1, write: Any = None
) -> tuple[list[int], list[int], list[Any]]:
    """Follow for some looks: what was added, what was known at each write, what was told."""
    stub, written, told = type("Record", (Stub,), {"added": []}), list[int](), list[Any]()
    monkeypatch.setitem(sys.modules, "ddpm_cli.core.tracking.stub", SimpleNamespace(Record=stub))

    def counted(file: Path, document: Any, *, durable: bool) -> None:
        written.append(document["images"]["metrics"])
        if write is not None:
            write(len(written))
        write_json(file, document, durable=durable)

    monkeypatch.setattr(following, "write_json", counted)
    left = iter([False] * (looks - 1) + [True])
    ended: Any = SimpleNamespace(wait=lambda _: next(left), state="finished")
    monkeypatch.setattr(Telling, "__init__", lambda _: None)
    monkeypatch.setattr(Telling, "__call__", lambda _, *message: told.append(message))
    with suppress(KeyboardInterrupt):
        following._follow("stub", run, 0, ended, Telling())
    return stub.added, written, told


def test_what_is_known_is_written_on_the_way_and_only_if_it_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    add_rows(run, range(8, 8 * 19, 8))
    _, written, _ = follow_stub(run, monkeypatch, looks=5)
    assert written == [0, 8 * 16, 8 * 18]  # after opening, on the way, and at the end; then nothing
    add_rows(run, range(8 * 19, 8 * 40, 8))
    added, written, _ = follow_stub(run, monkeypatch)
    assert (added, written) == ([8 * 19], [])  # killed at the twentieth
    run.tracker("stub").write_text("")  # by a power cut
    added, written, _ = follow_stub(run, monkeypatch)
    assert (len(added), written) == (19, [0, 8 * 16])


def test_a_full_disk_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(attempt: int) -> None:
        if attempt == 1:
            raise DdpmError("No space left on device")

    run = write_run(tmp_path / "run")
    add_rows(run, (8, 16))
    added, _, told = follow_stub(run, monkeypatch, looks=2, write=full)
    assert added == [8, 16]
    assert told[1:] == [("behind", "No space left on device"), ("caught up",)]


def test_rows_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run.metrics.write_text('[1]\n{"step": 3}\n{"images": 8, "loss": 0.5, "by": "x"}\n\n')
    run.scores.write_text('{"images": 8}\n{"images": 8, "label": "fid5k", "value": 2.5}\n{"im')
    run.provenance.write_text('{"host": "here"}\n3\n{"preset": "shapes"}\n{"preset": ["x"]}\n')
    assert run.rows() == [{"images": 8, "loss": 0.5, "by": "x"}]
    assert [row["value"] for row in run.score_rows()] == [2.5]
    assert (len(run.starts()), run.presets()) == (3, ["shapes"])
    found = Entries(run, {"metrics": 0, "scores": 0, "samples": 0}).new(last=True)
    assert [entry.values for entry in found] == [{"loss/loss": 0.5}, {"scores/fid5k": 2.5}]
    run.rewind_rows(8)
    assert run.rows() == [{"images": 8, "loss": 0.5, "by": "x"}]


def test_the_settings_are_flat_and_name_preset_and_origin(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run.write_config(
        updated(CONFIG, {"data": {"source": "/home/me/photos.zip", "given_data": "/home/me/low"}})
    )
    start = {"preset": "shapes", "torch": "2.9", "host": "here", "command": "ddpm train --data /a"}
    run.provenance.write_text(json.dumps(start) + '\n{"torch": "cut sho')
    found = settings_of(run)
    assert (found["preset"], found["provenance.torch"]) == ("shapes", "2.9")
    assert found["data.source"] == "photos.zip"
    sent = json.dumps(found)  # perhaps to where anyone can see it
    assert not any(word in sent for word in ("here", "/home/me", "ddpm train"))
    assert (found["optimiser.batch"], found["network.multipliers"]) == (8, "[1, 2]")
    assert all(isinstance(value, str | int | float | None) for value in found.values())
