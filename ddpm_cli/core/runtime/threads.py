"""Threads of arithmetic on a CPU: how many, and how they wait for work. Imports no torch.

torch's threads wait for their next part of an operation in a loop, and libgomp's loop lasts for
milliseconds. Where another process uses one of the cores, threads wait in it for others that do not
run. So the program has them sleep sooner; a library leaves that to its host.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # the user's choice, if set
COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
SPINS = "5000"  # rounds of waiting: some 0.1 to 0.2 ms; docs/performance.md compares others
# Operations of a network call: with 6e7 a second thread gains 5 %, with 1e9 a half or nearly
# (docs/performance.md); between them was not measured.
SMALL = 100e6

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_STATISTICS = Path("/proc/stat")
_CROWDED = 0.5  # cores that others use, from which a training is warned
_LEAST = 0.3  # seconds, of a measurement of what others use


class _Usage(NamedTuple):
    """Seconds on the clock, of the processor by anyone on this process's cores, and by itself."""

    clock: float
    busy: float
    own: float


_began: _Usage | None = None


def cores() -> int:
    """The number of CPU cores this process may use, which a job or container may restrict."""
    count = _allowed_cores()
    return min(count, _quota() or count)


def watch() -> None:
    """From now on measure what others use of this process's cores."""
    global _began
    _began = _usage()


def set_waiting(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait for work sleep soon, unless the user chose how they wait.

    Before torch is imported: libgomp reads its variables when it is loaded.
    """
    if not any(environment.get(name) for name in WAITING):
        environment["GOMP_SPINCOUNT"] = SPINS


def limit_to_cores() -> None:
    """Give torch no more threads than `cores`, unless the user chose a number."""
    import torch

    if not any(os.environ.get(name) for name in COUNTING):
        torch.set_num_threads(min(torch.get_num_threads(), cores()))


def limit_to_work(operations: float) -> None:
    """For sampling: no threads that gain nothing, and none for cores that others use.

    One thread where a network call has few operations: it waits for no other. Else torch gets as
    many as there are free cores. Unless the user chose a number. Another number of threads adds in
    another order: so a training, which promises exact resumes, keeps those of `limit_to_cores`.
    """
    import torch

    if not any(os.environ.get(name) for name in COUNTING):
        free = 1 if operations < SMALL else max(1, round(_allowed_cores() - used_by_others()))
        torch.set_num_threads(min(torch.get_num_threads(), free))


def warning() -> str | None:
    """A warning to a training where other processes use its cores, with what helps."""
    import torch

    others, count = used_by_others(), _allowed_cores()
    free = max(1, round(count - others))
    if others < _CROWDED or torch.get_num_threads() <= free:
        return None
    return (
        f"other processes use about {others:.1f} of {count} cores, where threads then wait for "
        f"each other: as long as that lasts, OMP_NUM_THREADS={free} is faster"
    )


def used_by_others() -> float:
    """How many of this process's cores other processes have used since it began; 0: not known."""
    if _began is None or (now := _usage()) is None or now.clock - _began.clock < _LEAST:
        return 0.0
    others = now.busy - _began.busy - (now.own - _began.own)
    return max(0.0, others / (now.clock - _began.clock))


def share(processes: int) -> int:
    """Threads of each of several processes on this machine."""
    return max(1, cores() // processes)


def _affinity() -> set[int] | None:
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return allowed(0) if allowed else None


def _allowed_cores() -> int:
    return len(_affinity() or ()) or os.cpu_count() or 1


def _usage() -> _Usage | None:
    """Now; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        names, ticks = {f"cpu{core}" for core in _affinity() or ()}, 0
        for line in _STATISTICS.read_text(encoding="utf-8").splitlines():
            name, *counts = line.split()
            if name in names:
                idle = int(counts[3]) + int(counts[4])  # idle, and waiting for input or output
                ticks += sum(map(int, counts[:8])) - idle
        return _Usage(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())
    return None


def _quota() -> int | None:
    """Cores whose time control groups allow, the fewest of nested groups; None: no limit."""
    return min((count for folder in _groups() if (count := _allowed(folder))), default=None)


def _groups() -> Iterator[Path]:
    """The folders of this process's control groups, and of those around them."""
    with suppress(OSError):  # not Linux
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                mounts = [_GROUPS]
            elif "cpu" in controllers.split(","):
                mounts = [_GROUPS / controllers, _GROUPS / "cpu"]
            else:
                continue
            group = Path(path.lstrip("/"))
            for mount in mounts:
                yield from (mount / folder for folder in (group, *group.parents))


def _allowed(folder: Path) -> int | None:
    """Cores that one control group allows, a part of one counted whole."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file; "max"
        quota, period = (int(part) for part in (folder / "cpu.max").read_text().split())
        return math.ceil(quota / period)
    with suppress(OSError, ValueError):  # version 1
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return math.ceil(quota / period) if quota > 0 else None
    return None
