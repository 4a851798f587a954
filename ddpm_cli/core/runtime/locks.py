"""One training at a time in a run directory, by a lock that ends with the process holding it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ddpm_cli.core.errors import DdpmError

if sys.platform != "win32":
    import fcntl

_OURS = ("", "snapshots", "samples")  # folders of a run that only its training writes into


@contextmanager
def lock_run(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run directory for the length of a block; remove what a killed training left.

    Raises DdpmError, naming host and process, where another training holds it. A file system
    without locks knows of trainings on this machine only, which is said.
    """
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        free = _lock(file)
        holder = _holder(file)
        mend = "stop that one, or choose another --out"
        if free is None:
            free = not _alive_here(holder)
            mend += f"; if there is none, delete {file.name}"
            say(f"{folder} is on a file system without locks: let only one training write to it")
        if not free:
            raise DdpmError(
                f"{folder} is being written by process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}; {mend}"
            )
        file.truncate(0)
        pid = os.getpid()
        json.dump({"host": socket.gethostname(), "pid": pid, "started": _started(pid)}, file)
        file.flush()
        for name in _OURS:
            for left in (folder / name).glob(".*.part"):
                left.unlink(missing_ok=True)
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: IO[str]) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder(file: IO[str]) -> dict[str, Any]:
    """Who wrote its name into the file last."""
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except (ValueError, TypeError):  # empty, or being written
        return {}


def _alive_here(holder: dict[str, Any]) -> bool:
    """Whether the holder still lives on this machine, and is not just another of its number.

    In a container that starts again, host and number are those of the process that was killed.
    """
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if pid == os.getpid() or holder.get("started") != _started(pid):
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


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the system did; None where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22; the second, a name, may hold blanks
