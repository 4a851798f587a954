"""What asks a training to stop, a signal or the end of its time, handled_signals between two steps."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ddpm_cli.core.errors import DdpmError, PreemptedError, StoppedByUserError, UsageError
from ddpm_cli.core.runtime.elastic import slurm, worker

OUT_OF_TIME: int = getattr(signal, "SIGXCPU", 24)  # the number that stands for the time limit
_PREEMPTIONS = tuple(  # Windows has only the first
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")
    if hasattr(signal, name)
)
SIGNALS = (signal.SIGINT, *_PREEMPTIONS)
_ALWAYS = ("SIGTERM", "SIGXCPU")  # no shell and no nohup lets a command ignore these

_GRACE = 120.0  # seconds that a launcher gives its workers to save, at least
_TORCHRUN_GRACE = 30.0
_FIRST_SAVE = 10.0  # seconds a snapshot is thought to take before one was taken
_LEAVING = 5.0  # seconds to end the processes once all is saved

RERUN_HINT = "run the same command again to go on from the newest snapshot"

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class TimeLimit:
    """The moment by which a training must have saved and ended."""

    def __init__(self, end: float, used: Callable[[], tuple[float, float]]) -> None:
        """`end` in seconds since 1970; `used` tells what saving and a step take, in seconds."""
        self._end, self._used = end, used

    def near(self) -> bool:
        """Whether the time left is what saving needs, with room to spare."""
        save, step = self._used()
        return self._end - time.time() < 2 * (save or _FIRST_SAVE) + 2 * step + _LEAVING


class StopRequest:
    """Which signal, if any, asked to stop."""

    def __init__(self, limit: TimeLimit | None = None) -> None:
        self._noted, self._interrupted, self._at_once = 0, False, False
        self.limit = limit  # known once the run is

    @property
    def signal(self) -> int:
        """The number of the first signal noted, OUT_OF_TIME when time runs out, else 0."""
        if not self._noted and self.limit is not None and self.limit.near():
            self._noted = OUT_OF_TIME
        return self._noted

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: the first signal counts, but a second Ctrl-C leaves at once."""
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self._noted = self._noted or number
        self._leave()

    @contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """Raise as soon as a signal comes, or came, in a block where nothing was learned yet.

        PreemptedError or StoppedByUserError. Elsewhere whoever works asks for the signal.
        """
        self._at_once = True
        try:
            self._leave()
            yield
        finally:
            self._at_once = False

    def _leave(self) -> None:
        if self._at_once and self._noted:
            name = signal.Signals(self._noted).name
            raise _ended_by(self._noted)(f"stopped by {name} before the first step; {RERUN_HINT}")


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Catch the signals for the length of a block (in the main thread; elsewhere none arrive)."""
    request = StopRequest()
    with signal_handler(request.note):
        try:
            yield request
        except KeyboardInterrupt:
            exit_immediately()


def exit_immediately() -> NoReturn:
    """End this process after a second Ctrl-C: Python itself would wait for a save being written.

    A third Ctrl-C no longer matters.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = "interrupted again: left at once"
    worker.record_failure(message, StoppedByUserError.exit_code)
    if not worker.is_worker():
        print(f"ddpm: {message}", file=sys.stderr, flush=True)
    os._exit(StoppedByUserError.exit_code)


def handled_signals() -> list[int]:
    """The signals that ask to stop, but for those that this process was started to ignore.

    `nohup` makes a command ignore SIGHUP, and a shell's `&` may make it ignore SIGINT.
    """
    return [
        number
        for number in SIGNALS
        if number.name in _ALWAYS or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def signal_handler(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Give the signals that ask to stop to `handler` for the length of a block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in handled_signals()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def stopped_error(number: int, run: str) -> DdpmError:
    """The error that ends a run which signal `number` stopped, after what it learned was saved."""
    why = signal.Signals(number).name if number != OUT_OF_TIME else "the end of its time"
    return _ended_by(number)(
        f"stopped by {why}; {run} holds all that was learned: run the same command again to go on"
    )


def _ended_by(number: int) -> type[DdpmError]:
    return StoppedByUserError if number == signal.SIGINT else PreemptedError


def parse_time_limit(text: str | None) -> float | None:
    """Read "4h", "90m", "1d12h" or "3600" as seconds."""
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(
            f"--time-limit {text!r} should be a time such as 4h, 90m or 3600 (seconds)"
        )
    return seconds


def end_of_time(limit: float | None) -> float | None:
    """When a run of `limit` seconds, or SLURM's job, must be over, in seconds since 1970.

    The limit counts from the launcher's start, however often it started us again.
    """
    started = float(os.environ.get(worker.STARTED, time.time()))
    ends = [slurm.end_time(), None if limit is None else started + limit]
    return min((end for end in ends if end is not None), default=None)


def grace_period(save: float) -> float:
    """Seconds that workers get to save and end, where the last snapshot took `save` seconds."""
    return max(_GRACE, 3 * save)


def short_grace_warning(save: float) -> str | None:
    """What to say where an outer torchrun would kill us before a snapshot was written."""
    given = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TORCHRUN_GRACE))
    if worker.is_worker() or "TORCHELASTIC_RUN_ID" not in os.environ or save < given:
        return None
    return (
        f"torchrun kills its workers {given:.0f} s after SIGTERM, but the last snapshot took "
        f"{save:.0f} s: start them by ddpm train --nproc, which waits, or set "
        f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace_period(save):.0f} for torchrun"
    )
