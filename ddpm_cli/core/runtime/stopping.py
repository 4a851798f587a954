"""Signals that ask a training to stop: noted at once, heeded between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ddpm_cli.core.errors import DdpmError, PreemptedError, StoppedByUserError

_PREEMPTIONS = tuple(  # Windows has only the first
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(signal, name)
)


class StopRequest:
    """Which signal, if any, asked to stop."""

    def __init__(self) -> None:
        self.signal = 0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: the first signal counts, but a second Ctrl-C leaves at once."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch the signals for the length of a block (in the main thread; elsewhere none arrive)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, request.note) for number in (signal.SIGINT, *_PREEMPTIONS)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(number: int, run: str) -> DdpmError:
    """The error that ends a run which signal `number` stopped, after what it learned was saved."""
    name = signal.Signals(number).name
    kind = StoppedByUserError if number == signal.SIGINT else PreemptedError
    return kind(
        f"stopped by {name}; {run} holds all that was learned: run the same command again to go on"
    )
