"""What the files of a run say about it, read without torch, and without opening a snapshot."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime import locks
from ddpm_cli.core.runtime.files import read_json, size_below
from ddpm_cli.core.runtime.json_lines import lines, number, parsed
from ddpm_cli.core.runtime.run_directory import RunDirectory

T = TypeVar("T")
State = Literal["running", "stopped", "finished", "diverged", "new"]
_FRESH = 120.0  # seconds: metrics written since then are of a training that runs
_PARTS = {"network", "optimiser", "budget"}  # that only a config.json of a run has together
_ROWS_MISSED = 3  # times the interval between rows is fresh, too


@dataclass(frozen=True)
class Score:
    """The best score of `--fid-every`."""

    label: str  # such as fid5k: never bare FID
    value: float
    images: int  # seen in training, at that score
    protocol: str = ""  # the line that says what it can be compared with


@dataclass(frozen=True)
class RunSummary:
    """One run; None, or "" of a text, where its files do not say it."""

    path: Path
    state: State
    since: datetime | None  # UTC; when it was started, if it is running, else when it ended
    data: str = ""  # as given to --data
    preset: str = ""  # that it was started with last
    images: int = 0  # seen
    steps: int | None = None
    seconds: float | None = None  # of training
    budget: Budget = field(default_factory=Budget)
    used: float | None = None  # fraction of the budget, from 0 to 1
    loss: float | None = None  # smoothed, of training
    held_out: float | None = None  # of the last validation
    score: Score | None = None
    preview: Path | None = None  # the newest
    bytes: int = 0  # on the disk
    config: RunConfig | None = None
    problem: str = ""  # what cannot be read, in a line

    @property
    def best(self) -> float | None:
        """The best score's value."""
        return None if self.score is None else self.score.value

    @property
    def total(self) -> int | None:
        """The images of the whole budget; None where it is one of time, or unknown."""
        if self.config is None:
            return None
        limit = self.budget.in_images(self.config.optimiser.batch, 0)
        if self.budget.epochs is None:
            return limit
        return round(self.images / self.used) if self.used and not self.budget.minutes else None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, be it a damaged one: files of a training, or our config.json.

    Weights alone are none, nor is a model of another program, which may have a config.json, too.
    """
    run = RunDirectory(folder)
    if run.metrics.is_file() or any(run.snapshots.glob("[0-9]*.pt")):
        return True
    try:
        config = read_json(run.config)
    except OSError:
        return False
    except ValueError:  # damaged; whose it was cannot be told
        return True
    return isinstance(config, dict) and config.keys() >= _PARTS


def read(path: Path) -> RunSummary:
    """Read a run directory. Files that are missing, cut short or damaged never are an error.

    Nothing is locked or written, so that a training in the directory is not disturbed.
    """
    run, problems = RunDirectory(path), []
    config = None
    try:
        config = run.read_config()
    except DdpmError as error:
        problems.append(_without_path(error, run.config))
    snapshots = _snapshots(run)
    metrics = _Metrics(run.metrics)
    last = metrics.last
    images = max(number(last.get("images")) or 0, snapshots[-1][0] if snapshots else 0)
    if metrics.damaged:
        problems.append("metrics.jsonl has no row that can be read")
    used = _used(config, last, int(images))
    state, since = _state(run, config, metrics, snapshots, int(images), used)
    return RunSummary(
        path=path,
        state=state,
        since=since,
        data=config.data.source if config else "",
        preset=next(reversed(_or_nothing(run.presets)), ""),
        images=int(images),
        steps=_whole(last.get("steps")),
        seconds=number(last.get("seconds")),
        budget=config.budget if config else Budget(),
        used=used,
        loss=number(last.get("loss_smooth")),
        held_out=metrics.held_out(),
        score=_best_score(path),
        preview=next(reversed(run.previews()), None),
        bytes=size_below(path),
        config=config,
        problem="; ".join(problems),
    )


class _Metrics:
    """metrics.jsonl, from its end: a training of weeks has many rows."""

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, modified(path)
        self._lines = _or_nothing(lambda: lines(path))
        self.last = next(self._backwards(), {})
        self.damaged = bool(self._lines) and not self.last

    def _backwards(self) -> Iterator[dict[str, Any]]:
        rows = (parsed(line) or {} for line in reversed(self._lines))
        yield from (row for row in rows if number(row.get("images")) is not None)

    def held_out(self) -> float | None:
        """The held-out loss of the last validation."""
        null = re.compile(r'"loss_holdout": *(null|$)')
        for line in reversed(self._lines):
            if "loss_holdout" in line and not null.search(line):
                value = number((parsed(line) or {}).get("loss_holdout"))
                if value is not None:
                    return value
        return None

    def interval(self) -> float:
        """Seconds of training between the last two rows."""
        rows = self._backwards()
        last, before = (number(next(rows, {}).get("seconds")) for _ in range(2))
        return 0.0 if last is None or before is None else last - before


def _state(
    run: RunDirectory,
    config: RunConfig | None,
    metrics: _Metrics,
    snapshots: list[tuple[int, float]],
    images: int,
    used: float | None,
) -> tuple[State, datetime | None]:
    """The state, and since when."""
    saved = max((written for _, written in snapshots), default=0.0)
    latest = max(saved, metrics.written or 0.0)
    holder = locks.training_in(run.path)
    if holder is not None or (_is_elsewhere(run) and _is_fresh(metrics)):
        return "running", _time(modified(run.path / locks.LOCK))
    died = modified(run.post_mortem)
    if died is not None and died >= latest:
        return "diverged", _time(died)
    if not images and not latest:
        return "new", _time(modified(run.config))
    stopped_early = config is not None and _is_stopped_early(config, run)
    if (used is not None and used >= 1) or stopped_early:
        return "finished", _time(modified(run.weights) or latest)
    return "stopped", _time(latest or None)


def _is_elsewhere(run: RunDirectory) -> bool:
    """Whether another machine held the run's lock last, and did not give it up."""
    here = socket.gethostname()
    return bool(locks.holder_of(run.path).get("host", here) != here)


def _is_fresh(metrics: _Metrics) -> bool:
    """Whether the last row was written a short while ago."""
    if metrics.written is None:
        return False
    return abs(time.time() - metrics.written) < max(_FRESH, _ROWS_MISSED * metrics.interval())


def _used(config: RunConfig | None, row: dict[str, Any], images: int) -> float | None:
    """The fraction of the budget that is used, by the limit that is reached first."""
    if config is None:
        return None
    budget, batch = config.budget, config.optimiser.batch
    fractions = []
    limit = Budget(images=budget.images, steps=budget.steps).in_images(batch, 0)
    if limit:
        fractions.append(images / (-(-limit // batch) * batch))  # whole steps
    if budget.minutes:
        fractions.append((number(row.get("seconds")) or 0.0) / (60 * budget.minutes))
    if budget.epochs:  # how many images an epoch has is in no file: the rows have the fraction
        fractions.append(number(row.get("budget_used")) or 0.0)
    return min(1.0, max(fractions)) if fractions else None


def _is_stopped_early(config: RunConfig, run: RunDirectory) -> bool:
    """Whether training ended by --patience or --stop-at-gap."""
    limit, gap = config.stop_at_gap, None  # of the last validation
    if not config.patience and limit is None:
        return False
    best, stale, holds_out = float("inf"), 0, bool(config.data.holdout or config.holdout_data)
    batch, every = config.optimiser.batch, config.validate_every
    for row in rows(run.path):
        images = int(number(row.get("images")) or 0)
        loss = number(row.get("loss_holdout" if holds_out else "loss_smooth"))
        due = holds_out or images // every > (images - batch) // every
        if loss is not None and due:
            best, stale = (loss, 0) if loss < best else (best, stale + 1)
            gap = number(row.get("loss_gap"))
    copies = limit is not None and gap is not None and gap >= limit
    return copies or 0 < config.patience <= stale


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that are complete."""
    return _or_nothing(RunDirectory(path).rows)


def all_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's scores.jsonl that are complete."""
    return _or_nothing(RunDirectory(path).score_rows)


def scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's scores.jsonl that can be compared with the last one."""
    found = all_scores(path)
    alike = ("label", "weights_sha256")
    return [row for row in found if all(row.get(key) == found[-1].get(key) for key in alike)]


def _best_score(path: Path) -> Score | None:
    """The lowest score among those that can be compared with the last one."""
    found = scores(path)
    if not found:
        return None
    best = min(found, key=lambda row: float(row["value"]))
    protocol = str(best.get("protocol") or "")
    return Score(str(best["label"]), float(best["value"]), int(best["images"]), protocol)


def starts(path: Path) -> list[dict[str, Any]]:
    """The provenance of each start of a run, the first one first."""
    return _or_nothing(RunDirectory(path).starts)


def _or_nothing(read: Callable[[], list[T]]) -> list[T]:
    """What is read; nothing where a file cannot be."""
    try:
        return read()
    except OSError:
        return []


def _snapshots(run: RunDirectory) -> list[tuple[int, float]]:
    """Images seen and time of writing of each snapshot, fewest images first."""
    found = []
    for path in run.snapshots.glob("[0-9]*.pt"):
        written = modified(path)
        if path.stem.isdecimal() and written is not None:
            found.append((int(path.stem), written))
    return sorted(found)


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def modified(path: Path) -> float | None:
    """When a file was written, in seconds since 1970; None without it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _without_path(error: DdpmError, path: Path) -> str:
    """The error in a row that names the run already."""
    return first_line(error).replace(str(path), path.name)
