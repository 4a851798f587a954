"""What a run directory says of itself, read so that nothing damaged or missing stops a report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.published import renamed
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.models.families import parameters_of
from ddpm_cli.core.runs import summary
from ddpm_cli.core.runs.summary import RunSummary
from ddpm_cli.core.runtime.files import read_json, status
from ddpm_cli.core.runtime.json_lines import number
from ddpm_cli.core.runtime.run_directory import RunDirectory

_LONGEST_LOG = 200_000  # bytes of the end of a log that are read
_OF_ANY_START = ("date", "ddpm", "torch")  # what others may know of it
_LONGEST_DOCUMENT = 1_000_000  # bytes of a JSON document that may hold scores

Document = dict[str, Any]
Column = NDArray[np.float64]  # NaN where a row has no such number


@dataclass(frozen=True)
class Record:
    """A run's files."""

    summary: RunSummary
    public: bool = False  # for others: without machine, log, commands and folders
    called: str = ""  # beside another run; "": as its folder

    @classmethod
    def read(cls, path: Path, *, public: bool = False) -> Record:
        """Read a run directory."""
        return cls(summary.read(path), public)

    @property
    def run(self) -> RunDirectory:
        """Its paths."""
        return RunDirectory(self.summary.path)

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.called or self.summary.path.resolve().name or str(self.summary.path)

    @property
    def place(self) -> str:
        """The run directory, as commands name it."""
        return self.name if self.public else str(self.summary.path)

    @cached_property
    def config(self) -> RunConfig | None:
        """Its settings; None where they cannot be read."""
        config = self.summary.config
        return renamed(config) if config is not None and self.public else config

    @cached_property
    def rows(self) -> list[Document]:
        """The rows of metrics.jsonl."""
        return summary.rows(self.run.path)

    def column(self, name: str) -> Column:
        """A column of the metrics; empty where no row has it."""
        values = [number(row.get(name)) for row in self.rows]
        if all(value is None for value in values):
            return np.zeros(0)
        return np.array([np.nan if value is None else value for value in values])

    @cached_property
    def images(self) -> Column:
        """The images seen at each row."""
        return np.array([float(row["images"]) for row in self.rows])

    @cached_property
    def scores(self) -> list[Document]:
        """The rows of scores.jsonl."""
        return summary.all_scores(self.run.path)

    @cached_property
    def documents(self) -> list[tuple[str, Document]]:
        """The JSON documents in the run directory that `fid` and its like have printed, by name."""
        found = []
        for path in sorted(self.run.path.glob("*.json")):
            there = status(path)
            if there is None or there.st_size > _LONGEST_DOCUMENT:
                continue
            content = document(path)
            if content is not None and not content.keys().isdisjoint(_SCORES):
                found.append((path.name, content))
        return found

    @cached_property
    def starts(self) -> list[Document]:
        """Where the run comes from: one for each start."""
        rows = summary.starts(self.run.path)
        if not self.public:
            return rows
        return [{name: row[name] for name in _OF_ANY_START if name in row} for row in rows]

    @cached_property
    def log(self) -> list[str]:
        """The lines at the end of log.txt; none for others."""
        if self.public:
            return []
        try:
            with self.run.log.open("rb") as file:
                file.seek(max(0, self.run.log.stat().st_size - _LONGEST_LOG))
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    @property
    def post_mortem(self) -> Document | None:
        """Why training diverged, where it did."""
        if self.summary.state != "diverged":
            return None
        return document(self.run.post_mortem)

    @cached_property
    def parameters(self) -> int | None:
        """Of the network; None where its settings cannot be read."""
        if self.config is None:
            return None
        return parameters_of(self.config.network)


_SCORES = {"fid", "kid", "cmmd", "inception_score", "splits", "decoder"}  # the last: bits/dim


def document(path: Path) -> Document | None:
    """The object of a JSON file; None where there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
