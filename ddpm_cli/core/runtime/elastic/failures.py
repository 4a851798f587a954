"""Which worker failed first, and how, from what the workers told and what their system saw."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ddpm_cli.core.runtime.elastic.stopping import SIGNALS

_DETECTION = 10.0  # seconds; a killed worker is noticed after those that thereby lost it


@dataclass(frozen=True)
class Failure:
    """How one worker ended before its work was done."""

    rank: int
    host: str
    message: str
    moment: float  # seconds since 1970
    purpose: int | None = None  # its exit code, if it ended on purpose
    lost: bool = False  # it only noticed that others were gone
    killed: int = 0  # the signal that ended it
    traceback: str = ""

    @property
    def stopped(self) -> int:
        """The signal that asked it to stop when it could not listen yet, or 0."""
        return self.killed if self.killed in SIGNALS else 0

    @property
    def line(self) -> str:
        """What happened, in a sentence."""
        who = f"process {self.rank} on {self.host}"
        if self.killed:
            memory = " (out of memory?)" if self.killed == signal.SIGKILL else ""
            return f"{who} was killed by {signal.Signals(self.killed).name}{memory}."
        if self.lost:
            return f"{who} lost the others."
        return f"{who} failed first: {self.message}."


def first_failure(failures: Mapping[int, ProcessFailure]) -> Failure:
    """The one that explains the others; `failures` by rank.

    A worker that told what happened comes before one that was killed or lost the others, and
    what SIGTERM ended comes last: torch's agent sends it to the rest once one has failed.
    """
    return min((_read(rank, failure) for rank, failure in failures.items()), key=_order)


def _order(failure: Failure) -> tuple[int, float]:
    if failure.stopped:
        return 2, failure.moment
    if failure.killed:
        return 1, failure.moment - _DETECTION
    return (1 if failure.lost else 0), failure.moment


def _read(rank: int, failure: ProcessFailure) -> Failure:
    told = failure.error_file_data
    if "moment" not in told:
        message = f"it ended with exit code {failure.exitcode}"
        killed = max(0, -failure.exitcode)
        return Failure(rank, socket.gethostname(), message, float(failure.timestamp), killed=killed)
    return Failure(
        rank,
        told["host"],
        told["message"]["message"],
        told["moment"],
        told["purpose"],
        told["lost"],
        traceback=told["message"]["extraInfo"]["py_callstack"],
    )
