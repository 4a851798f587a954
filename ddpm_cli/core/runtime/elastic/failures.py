"""The first failure among workers, from the error files they wrote and from their exit codes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ddpm_cli.core.runtime.elastic.stopping import SIGNALS

# Seconds by which a killed worker is noticed after the workers that lost it as their peer.
_DETECTION_DELAY = 10.0


@dataclass(frozen=True)
class Failure:
    """How one worker failed."""

    rank: int
    host: str
    message: str
    timestamp: float  # seconds since 1970
    intended_exit_code: int | None = None  # of a worker that ended on purpose
    lost_peers: bool = False  # it failed only because other workers were gone
    killed_by: int = 0  # the signal that killed it
    traceback: str = ""

    @property
    def stop_signal(self) -> int:
        """The stop signal that killed it before its handler was installed, or 0."""
        return self.killed_by if self.killed_by in SIGNALS else 0

    @property
    def summary(self) -> str:
        """The failure in a sentence."""
        name = f"process {self.rank} on {self.host}"
        if self.killed_by:
            memory = " (out of memory?)" if self.killed_by == signal.SIGKILL else ""
            return f"{name} was killed by {signal.Signals(self.killed_by).name}{memory}."
        if self.lost_peers:
            return f"{name} lost its connection to the others."
        return f"{name} failed first: {self.message}."


def first_failure(failures: Mapping[int, ProcessFailure]) -> Failure:
    """The failure that caused the others; `failures` by rank.

    A worker that wrote its error file comes before one that was killed or lost its peers, and
    one ended by SIGTERM comes last: torch's agent sends it to the rest once one has failed.
    """
    return min((_parse(rank, failure) for rank, failure in failures.items()), key=_order)


def _order(failure: Failure) -> tuple[int, float]:
    if failure.stop_signal:
        return 2, failure.timestamp
    if failure.killed_by:
        return 1, failure.timestamp - _DETECTION_DELAY
    return (1 if failure.lost_peers else 0), failure.timestamp


def _parse(rank: int, failure: ProcessFailure) -> Failure:
    data = failure.error_file_data
    if "intended_exit_code" not in data:  # the worker wrote no error file
        return Failure(
            rank,
            socket.gethostname(),
            f"it ended with exit code {failure.exitcode}",
            float(failure.timestamp),
            killed_by=max(0, -failure.exitcode),
        )
    return Failure(
        rank,
        data["host"],
        data["message"]["message"],
        data["timestamp"],
        data["intended_exit_code"],
        data["lost_peers"],
        traceback=data["message"]["extraInfo"]["py_callstack"],
    )
