"""Ends a process that hangs, after its stacks were written down, so that a launcher restarts it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_cli.core.runtime.elastic import worker

_GRACE = 2.0  # seconds between writing the stacks and ending: all processes get to write theirs
_OFTEN = 1.0  # seconds between two windings of the timer, at most


class _Watch:
    """A timer that writes the stacks, without needing Python's lock, and a thread that ends it."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._over = threading.Event()
        self._paused = False
        self._wound = -_OFTEN
        self.step()
        threading.Thread(target=self._guard, name="watchdog", daemon=True).start()

    def step(self) -> None:
        """Begin to wait anew."""
        self._last = time.monotonic()
        if self._last - self._wound >= min(_OFTEN, self.seconds / 10):
            self._wound = self._last
            faulthandler.dump_traceback_later(self.seconds, file=self._file)

    def pause(self, paused: bool) -> None:
        """Stop waiting, or begin anew."""
        self._paused, self._wound = paused, -_OFTEN
        if paused:
            faulthandler.cancel_dump_traceback_later()
        else:
            self.step()

    def close(self) -> None:
        """Stop for good."""
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if self.path.stat().st_size == 0:
            self.path.unlink()
            with suppress(OSError):  # others may write there
                self.path.parent.rmdir()

    def _guard(self) -> None:
        patience = self.seconds + _GRACE
        nap, now = patience / 50, time.monotonic()
        while not self._over.wait(nap):
            before, now = now, time.monotonic()
            if now - before > 2 * nap:  # the process was suspended, and its clock ran on
                self._last += now - before - nap
            if not self._paused and now - self._last > patience:
                _end(
                    f"no step ended for {self.seconds:g} seconds (--stall-timeout); where it "
                    f"hangs is in {self.path}"
                )


_watch: _Watch | None = None


@contextmanager
def watching(folder: Path, seconds: float) -> Iterator[None]:
    """End this process when `step` is not called for so many seconds within the block; 0: never.

    The stacks of all its threads go to a file in `folder`.
    """
    global _watch
    if not seconds:
        yield
        return
    rank = os.environ.get("RANK", "0")
    _watch = _Watch(folder / f"stacks-rank{rank}.txt", seconds)
    try:
        yield
    finally:
        _watch.close()
        _watch = None


def step() -> None:
    """Say that the work goes on; nothing where nobody watches."""
    if _watch is not None:
        _watch.step()


@contextmanager
def paused() -> Iterator[None]:
    """Do not watch for the length of a block, which may take long, such as a score."""
    if _watch is not None:
        _watch.pause(True)
    try:
        yield
    finally:
        if _watch is not None:
            _watch.pause(False)


@contextmanager
def deadline(seconds: float, message: Callable[[], str]) -> Iterator[None]:
    """End this process for good, saying `message`, if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, lambda: _end(message(), purpose=1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(message: str, purpose: int | None = None) -> None:
    """Leave, whatever the other threads are stuck in."""
    worker.record_failure(message, purpose)
    if not worker.is_worker() or os.environ.get("RANK") != "0":
        print(f"ddpm: {message}", file=sys.stderr, flush=True)
    os._exit(1)
