"""What a tracker is given of a run directory, in which order, and what a resumed training adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_cli.core.tracking import processes
from ddpm_cli.core.tracking.following import Entries, Entry, settings_of
from tests.support.followed import (
    FakeWandb,
    Said,
    add_preview,
    add_rows,
    add_score,
    write_run,
)


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


def test_the_settings_are_flat_and_name_preset_and_origin(tmp_path: Path) -> None:
    found = settings_of(write_run(tmp_path / "run"))
    assert found["preset"] == "shapes" and found["provenance.host"] == "here"
    assert (found["optimiser.batch"], found["network.multipliers"]) == (8, "[1, 2]")
    assert all(isinstance(value, str | int | float | None) for value in found.values())
