"""The records that the libraries themselves read back: numbers, previews, settings, and a resume.

They run in processes of their own as in a training, so their warnings are their own.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_cli import train
from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.tracking import processes
from tests.support.followed import Said, add_preview, add_rows, add_score, write_run
from tests.support.training import CONFIG

LOSSES = {8: 1 / 8, 16: 1 / 16, 24: 1 / 24, 32: 1 / 32}


def follow_twice(name: str, folder: Path) -> tuple[RunDirectory, Said]:
    """Follow a run to 24 images, and a resumed one from 16 images to 32, with a score there."""
    run, said = write_run(folder / "runs" / "first"), Said()
    with processes.following([name], run, 0, said):
        add_rows(run, (8, 16, 24))
        add_preview(run, 16)
    run.rewind_rows(16)
    with processes.following([name], run, 16, said):
        add_rows(run, (24, 32))
        add_score(run, 32, 7.5)
    assert said.failures == []
    assert len(said.lines) == 2
    return run, said


def test_tensorboard(tmp_path: Path) -> None:
    run, said = follow_twice("tensorboard", tmp_path)
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in said.lines[0]
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert {e.step: e.value for e in events.Scalars("loss/loss")} == pytest.approx(LOSSES)
    assert [e.step for e in events.Scalars("loss/loss")] == list(LOSSES)  # none twice
    assert [(e.step, e.value) for e in events.Scalars("scores/fid5k")] == [(32, 7.5)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (16, 6, 4)
    assert image.encoded_image_string == run.preview(16).read_bytes()
    settings = events.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "| optimiser.batch | `8` |" in settings and "| preset | `shapes` |" in settings


def test_a_training_from_python_is_followed(tmp_path: Path) -> None:
    images = np.zeros((16, 8, 8, 3), np.uint8)
    config = replace(CONFIG, budget=Budget(images=16), preview=2)
    train(config, images, out=tmp_path / "run", device="cpu", log="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/loss")] == [8, 16]
    assert events.Images("samples")[-1].step == 16


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    run, _ = follow_twice("mlflow", tmp_path)
    id_ = json.loads(run.tracker("mlflow").read_text())["id"]
    (stored,) = (tmp_path / "store").glob(f"*/{id_}")  # in files, read here: an import takes long
    losses = [
        line.split()[1:] for line in (stored / "metrics" / "loss" / "loss").read_text().splitlines()
    ]
    assert [(int(step), float(loss)) for loss, step in losses] == list(LOSSES.items())
    assert (stored / "metrics" / "scores" / "fid5k").read_text().split()[1:] == ["7.5", "32"]
    assert (stored / "params" / "optimiser.batch").read_text() == "8"
    meta = (stored / "meta.yaml").read_text().splitlines()
    assert {"run_name: first", "status: 3"} <= set(meta)  # 3: finished
    (preview,) = stored.glob("artifacts/samples/*.png")
    assert preview.read_bytes() == run.preview(16).read_bytes()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, said = follow_twice("wandb", tmp_path)
    assert f"wandb sync {run.path}/wandb/offline-run-*" in said.lines[0]
    id_ = json.loads(run.tracker("wandb").read_text())["id"]
    files = sorted(run.path.glob(f"wandb/offline-run-*-{id_}/run-{id_}.wandb"))
    assert len(files) == 2
    steps = dict[int, float]()
    for file in files:
        steps |= losses_of(file)
    assert steps == pytest.approx(LOSSES)
    (preview,) = run.path.glob("wandb/offline-run-*/files/media/images/samples_16_*.png")
    assert preview.read_bytes() == run.preview(16).read_bytes()


def losses_of(file: Path) -> dict[int, float]:
    """The losses by step in a file of wandb's records, which are its library's messages.

    They lie one after the other, each after a check sum, its length and the number 1.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, found = file.read_bytes(), 7, dict[int, float]()
    assert content.startswith(b":W&B") and len(content) < 32768  # else some are in parts
    while position < len(content):
        length, kind = struct.unpack_from("<HB", content, position + 4)
        assert kind == 1
        record = Record.FromString(content[position + 7 : position + 7 + length])
        position += 7 + length
        items = {
            item.key or item.nested_key[0]: json.loads(item.value_json)
            for item in record.history.item
        }
        if "loss/loss" in items:
            assert record.history.step.num not in found
            found[record.history.step.num] = items["loss/loss"]
    return found


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run, said = follow_twice("trackio", tmp_path)
    assert "trackio show --project ddpm" in said.lines[0]
    name = json.loads(run.tracker("trackio").read_text())["id"]
    (database,) = (tmp_path / "trackio").glob("ddpm*.db")
    with closing(sqlite3.connect(database)) as connection:
        columns = "select run_name, step, metrics from metrics order by id"
        rows = [(*row, json.loads(values)) for *row, values in connection.execute(columns)]
    assert {run_name for run_name, _, _ in rows} == {name}
    losses = [(step, values["loss/loss"]) for _, step, values in rows if "loss/loss" in values]
    assert losses == list(LOSSES.items())
    assert rows[-1][1:] == (32, {"scores/fid5k": 7.5})
    (picture,) = (values["samples"] for _, step, values in rows if "samples" in values)
    stored = tmp_path / "trackio" / "media" / picture["file_path"]
    assert stored.read_bytes() == run.preview(16).read_bytes()
