"""Threads of arithmetic on a CPU: how many, and how they wait for work. Imports no torch.

torch's threads wait for their next part of an operation in a loop, and libgomp's loop lasts for
milliseconds. Where another process uses one of the cores, threads wait in it for others that do not
run. So the program has them sleep sooner; a library leaves that to its host.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # the user's choice, if set
COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
SPINS = "5000"  # rounds of waiting: some 0.1 to 0.2 ms; docs/performance.md compares others

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """The number of CPU cores this process may use, which a job or container may restrict."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(count, _quota() or count)


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


def share(processes: int) -> int:
    """Threads of each of several processes on this machine."""
    return max(1, cores() // processes)


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
