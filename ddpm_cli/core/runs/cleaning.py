"""What of a run may be deleted, and deleting it: nothing that a resume or a result needs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.checkpoints import post_hoc, snapshots
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runs import summary
from ddpm_cli.core.runtime import locks
from ddpm_cli.core.runtime.files import PARTIAL, status
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory

OLD, SUPERSEDED, LEFT_OVER = "older snapshot", "superseded", "left over by a crash"
MILESTONE = "kept by --keep-every"
_IN_USE = 3600.0  # seconds: a partial file that is younger may be being written
_NO_SNAPSHOT = "no snapshot can be read, so all that are there are kept"


@dataclass(frozen=True)
class Dispensable:
    """A file that may go."""

    path: Path
    why: str
    bytes: int


class _Verified(NamedTuple):
    """A snapshot that can be read, as it then was."""

    path: Path
    bytes: int
    modified: int  # nanoseconds since 1970


@dataclass(frozen=True)
class Cleaning:
    """What may go of one run, or why nothing does."""

    run: Path
    files: tuple[Dispensable, ...] = ()
    untouched: str = ""  # why nothing may go, or less than one might think
    milestones: bool = False  # whether those kept by --keep-every may go, too
    verified: _Verified | None = None  # the newest snapshot, which was read whole

    @property
    def bytes(self) -> int:
        """What is freed."""
        return sum(file.bytes for file in self.files)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        files = [
            {"file": str(file.path), "why": file.why, "bytes": file.bytes} for file in self.files
        ]
        return {
            "run": str(self.run),
            "files": files,
            "bytes": self.bytes,
            "untouched": self.untouched or None,
        }


def plan(folder: Path, *, milestones: bool = False) -> Cleaning:
    """What may go of a run: older snapshots, superseded files, and what crashes left over.

    Never of a run that is training; and never the newest snapshot that can be read, nor the newest
    and the best weights: only those that a resume from an earlier snapshot has set aside.
    milestones: whether those kept by --keep-every may go, too.
    """
    if summary.read(folder).state == "running":
        return Cleaning(folder, untouched="it is training")
    return _plan(folder, milestones, None)


def _plan(folder: Path, milestones: bool, verified: _Verified | None) -> Cleaning:
    run = RunDirectory(folder)
    existing = snapshots.listed(run.snapshots)
    found = [*_of(_left_over(run), LEFT_OVER)]
    verified = _newest_readable(existing, verified)
    if verified is None:
        aside = existing or any(_superseded(run))
        return Cleaning(folder, tuple(found), _NO_SNAPSHOT if aside else "", milestones)
    try:
        keep_every = run.read_config().keep_every
    except DdpmError as error:
        why = f"config.json cannot be read: {first_line(error)}"
        return Cleaning(folder, tuple(found), why, milestones, verified)
    kept = snapshots.milestones(existing, keep_every)
    older = existing[: existing.index(verified.path)]
    found += _of((path for path in older if path not in kept), OLD)
    if milestones:
        found += _of((path for path in older if path in kept), MILESTONE)
    found += _of(_superseded(run), SUPERSEDED)
    files = tuple(sorted(found, key=lambda file: file.path))
    return Cleaning(folder, files, milestones=milestones, verified=verified)


def clean(planned: Cleaning, reporter: Reporter) -> Cleaning:
    """Delete what may go of a run, while no training can begin in it; what was deleted.

    What may go is found anew; the newest snapshot is not read again unless it has changed.

    Raises DdpmError where a training holds the run, or a file cannot be deleted.
    """
    if not planned.files:
        return planned
    folder = planned.run
    left_over = tuple(_of(_left_over(RunDirectory(folder)), LEFT_OVER))
    with locks.lock_run(folder, reporter.say):  # which deletes some of what is left over
        planned = _plan(folder, planned.milestones, planned.verified)
        files = {file.path: file for file in (*left_over, *planned.files)}
        for path in files:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise DdpmError(f"cannot delete {path}: {error.strerror or error}") from error
    return Cleaning(folder, tuple(files[path] for path in sorted(files)), planned.untouched)


def _of(paths: Iterator[Path] | Sequence[Path], why: str) -> Iterator[Dispensable]:
    for path in paths:
        try:
            size = path.lstat().st_size
        except OSError:  # gone meanwhile
            continue
        yield Dispensable(path, why, size)


def _newest_readable(existing: Sequence[Path], known: _Verified | None) -> _Verified | None:
    """The snapshot from which a resume would go on: damaged ones are passed over.

    known: one that was read, and is not read again as long as it is the same.
    """
    for path in reversed(existing):
        there = status(path)
        if there is None:
            continue
        found = _Verified(path, there.st_size, there.st_mtime_ns)
        if found == known:
            return found
        try:
            snapshots.verify(path)
        except DdpmError:
            continue
        return found
    return None


def _superseded(run: RunDirectory) -> Iterator[Path]:
    """Snapshots, weights and averages that were set aside."""
    yield from snapshots.listed(run.snapshots, "superseded")
    for weights in (run.weights, run.best):
        aside = weights.with_name(f"{weights.name}.superseded")
        if aside.is_file():
            yield aside
    yield from post_hoc.superseded(run)


def _left_over(run: RunDirectory) -> Iterator[Path]:
    """Temporary files of writers that were killed."""
    of_training = set(locks.partial_files(run.path))
    for folder in (run.path, *(path for path in run.path.glob("*") if path.is_dir())):
        for path in folder.glob(f".*{PARTIAL}"):
            written = summary.modified(path)
            old = written is not None and time.time() - written > _IN_USE
            if path in of_training or old:
                yield path
