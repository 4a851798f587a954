"""Run directories for trackers, made without a training, and a stand-in for the library wandb."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.data import files
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support import fake_wandb
from tests.support.training import CONFIG


def write_run(folder: Path) -> RunDirectory:
    """A run directory that has begun: its settings and provenance."""
    run = RunDirectory(folder)
    run.path.mkdir(parents=True)
    run.write_config(CONFIG)
    run.provenance.write_text(json.dumps({"preset": "shapes", "host": "here"}) + "\n")
    return run


def add_rows(run: RunDirectory, images: Iterable[int]) -> None:
    """Append rows at these numbers of images seen; each loss is one over its number."""
    for seen in images:
        run.append_row({"images": seen, "steps": seen / 8, "loss": 1 / seen, "loss_holdout": None})


def add_preview(run: RunDirectory, images: int) -> None:
    """Write a preview of one colour, 6 wide and 4 high."""
    files.write_png(run.preview(images), np.full((3, 4, 6), images % 256, np.uint8))


def add_score(run: RunDirectory, images: int, value: float) -> None:
    """Append a score."""
    with run.scores.open("a") as file:
        file.write(json.dumps({"images": images, "label": "fid5k", "value": value}) + "\n")


class Said(Silent):
    """A reporter that keeps what is said, which a test can wait for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()

    def say(self, message: str) -> None:
        with self._more:
            self.lines.append(message)
            self._more.notify_all()

    def wait_for(self, word: str) -> None:
        """Wait until a line has this word in it."""
        with self._more:
            assert self._more.wait_for(lambda: any(word in line for line in self.lines), 60)

    @property
    def failures(self) -> list[str]:
        """The lines that say that a tracker does not follow, or is behind."""
        return [line for line in self.lines if line.startswith("Training goes on, but")]


class FakeWandb:
    """The stand-in on the PYTHONPATH of processes started from here; it records what it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file, self._monkeypatch = folder / "records.jsonl", monkeypatch
        modules = folder / "modules"
        modules.mkdir()
        shutil.copyfile(fake_wandb.__file__, modules / "wandb.py")
        monkeypatch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
        monkeypatch.setenv("FAKE_LOG", str(self._file))
        self.behave("")

    def behave(self, how: str) -> None:
        """How it fails: see fake_wandb.py; "" not at all."""
        self._monkeypatch.setenv("FAKE", how)

    @property
    def records(self) -> list[Any]:
        """What it was told: steps with their values, and how it was closed."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines]
