"""File locks, which the system frees when their process ends: the run directory and downloads."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.files import PARTIAL

LOCK = ".lock"  # the lock file in a run directory
_REPORT_AFTER = 1.0  # seconds of waiting before it is reported
_POLL = 0.05  # seconds
_TRIED_BY_OTHERS = 0.2  # seconds; `training_in` holds a lock for an instant
_WRITTEN_BY_TRAINING = (  # in a run directory, where other commands may write their results
    "snapshots/",
    "samples/",
    "tracking/",
    *("config.json", "metrics.", "model.safetensors", "best", "loss.png", "scores."),
    *("holdout.png", "resumed.json", "post-mortem.json"),
)


@contextmanager
def lock_run(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a run directory's lock within a block; remove partial files of a killed training.

    Raises DdpmError, naming host and process, where another training holds it. On a file system
    without locks only trainings of this machine are detected, which is said.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        free = _acquire_soon(file, _TRIED_BY_OTHERS)
        holder = _read_holder(file)
        fix = "stop that one, or choose another --out"
        if free is None:
            free = not _runs_here(holder)
            fix += f"; if there is none, delete {file.name}"
            say(f"{folder} is on a file system without locks: let only one training write to it")
        if not free:
            raise DdpmError(
                f"{folder} is being written by process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}; {fix}"
            )
        file.truncate(0)
        pid = os.getpid()
        json.dump({"host": socket.gethostname(), "pid": pid, "started": _start_time(pid)}, file)
        file.flush()
        for partial in partial_files(folder):
            partial.unlink(missing_ok=True)
        try:
            yield
        finally:
            file.truncate(0)


def partial_files(folder: Path) -> list[Path]:
    """What a training that was killed while it wrote has left in a run directory."""
    found: list[Path] = []
    for written in _WRITTEN_BY_TRAINING:
        parent, _, name = written.rpartition("/")
        found += (folder / parent).glob(f".{name}*{PARTIAL}")
    return found


@contextmanager
def lock_writing(
    path: Path,
    say: Callable[[str], None],
    doing: str = "downloading or opening",
    fix: str = "set DDPM_CACHE to another folder",
    *,
    kept: bool = True,
) -> Iterator[None]:
    """Hold the lock of a file or folder to download, or to make otherwise, within a block.

    Waits for another process that holds it; after a second, says so.

    On a file system without locks it does not wait: files are renamed into place whole. Raises
    DdpmError where the lock file, `.NAME.lock` beside `path`, cannot be created. kept: whether that
    file stays.
    """
    lock = lock_path(path)
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("ab")
        except OSError as error:
            reason = error.strerror or error
            raise DdpmError(f"cannot write {lock}: {reason}; {fix}") from error
        with file:
            if _acquire_soon(file) is False:
                say(f"another process is {doing} {path.name}; waiting for it")
                _acquire(file, blocking=True)
            if not (kept or _is_named(file, lock)):  # its last holder has deleted it
                continue
            try:
                yield
                return
            finally:
                if not kept:
                    with suppress(OSError):  # Windows deletes no open files
                        lock.unlink()


def training_in(folder: Path) -> dict[str, Any] | None:
    """Host and process of the training that holds a run directory's lock; None where none does.

    Nothing is written. The lock is tried, shared and for an instant, only where the last holder
    neither gave it up nor runs on this machine: a training that starts meanwhile waits for that.
    """
    try:
        file = (folder / LOCK).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        holder = _read_holder(file)
        if not holder and sys.platform != "win32":  # where a locked file cannot be read
            return None
        return holder if _runs_here(holder) or _is_locked(file) else None


def holder_of(folder: Path) -> dict[str, Any]:
    """Host and process that last held a run's lock and did not give it up; empty without any.

    It may have been killed; and the file system may not tell of another machine's lock.
    """
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            return _read_holder(file)
    except OSError:
        return {}


def _is_locked(file: IO[Any]) -> bool:
    """Whether a process holds the lock of an open file; False where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _acquire(file) is False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    return False


def _is_named(file: IO[Any], path: Path) -> bool:
    """Whether a path leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def lock_path(path: Path) -> Path:
    """The lock file of `lock_writing`."""
    return path.with_name(f".{path.name}.lock")


def mark_in_use(file: IO[Any]) -> None:
    """Share the lock of an open file for as long as it, or a memory map of it, is open.

    So `held_by_nobody` knows of it; where there are no such locks, it does not.
    """
    with suppress(ImportError, OSError):  # Windows, file systems without locks
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_SH)


@contextmanager
def held_by_nobody(path: Path) -> Iterator[bool]:
    """Whether no process holds the lock of a file, and none gets it within the block.

    True also of a file that is not there, and where locks do not exist.
    """
    try:
        file = path.open("r+b")
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    with file:
        yield _acquire(file) is not False


def _acquire_soon(file: IO[Any], patience: float = _REPORT_AFTER) -> bool | None:
    """As `_acquire`, trying again until so many seconds are over."""
    deadline = time.monotonic() + patience
    while (acquired := _acquire(file)) is False and time.monotonic() < deadline:
        time.sleep(_POLL)
    return acquired


def _acquire(file: IO[Any], *, blocking: bool = False) -> bool | None:
    """Lock an open file until it is closed: whether that succeeded, None if locks do not exist."""
    from filelock import lock_descriptor  # many commands lock nothing

    try:
        return lock_descriptor(file.fileno(), blocking=blocking)
    except (OSError, NotImplementedError):  # ENOSYS, EOPNOTSUPP, ENOLCK
        return None


def _read_holder(file: IO[str]) -> dict[str, Any]:
    """The host, process and start time that the last holder wrote into the lock file."""
    try:
        file.seek(0)
        return dict(json.loads(file.read()))
    except (OSError, ValueError, TypeError):  # locked (Windows), empty, or being written
        return {}


def _runs_here(holder: dict[str, Any]) -> bool:
    """Whether the holder still runs on this machine.

    Its start time tells it from a later process of the same number: in a container that starts
    again, host and number are those of the process that was killed.
    """
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if pid == os.getpid() or holder.get("started") != _start_time(pid):
        return False
    if sys.platform == "win32":  # where os.kill would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22; field 2, a name, may contain spaces
