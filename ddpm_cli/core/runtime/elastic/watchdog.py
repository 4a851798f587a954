"""Ends a process that hangs, after writing its stacks, so that a launcher restarts it."""

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

_EXIT_DELAY = 2.0  # seconds from writing the stacks to exiting, so that all ranks can write theirs
_REARM_INTERVAL = 1.0  # seconds between two restarts of faulthandler's timer, at least


class _Watch:
    """faulthandler's timer, which writes stacks without the GIL, and a thread that exits."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._closed = threading.Event()
        self._paused = False
        self._armed_at = -_REARM_INTERVAL
        self.step()
        threading.Thread(target=self._monitor, name="watchdog", daemon=True).start()

    def step(self) -> None:
        """Restart the timeout."""
        self._last_step = time.monotonic()
        if self._last_step - self._armed_at >= min(_REARM_INTERVAL, self.seconds / 10):
            self._armed_at = self._last_step
            faulthandler.dump_traceback_later(self.seconds, file=self._file)

    def pause(self, paused: bool) -> None:
        """Suspend the timeout, or restart it."""
        self._paused, self._armed_at = paused, -_REARM_INTERVAL
        if paused:
            faulthandler.cancel_dump_traceback_later()
        else:
            self.step()

    def close(self) -> None:
        """Stop watching; remove the file of stacks if it is empty."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if self.path.stat().st_size == 0:
            self.path.unlink()
            with suppress(OSError):  # other ranks may write there
                self.path.parent.rmdir()

    def _monitor(self) -> None:
        timeout = self.seconds + _EXIT_DELAY
        interval, now = timeout / 50, time.monotonic()
        while not self._closed.wait(interval):
            before, now = now, time.monotonic()
            if now - before > 2 * interval:  # the process was suspended while its clock ran on
                self._last_step += now - before - interval
            if not self._paused and now - self._last_step > timeout:
                _exit_with(
                    f"no step ended for {self.seconds:g} seconds (--stall-timeout); where it "
                    f"hangs is in {self.path}"
                )


_watch: _Watch | None = None


@contextmanager
def watching(folder: Path, seconds: float) -> Iterator[None]:
    """End this process when `step` is not called for so many seconds within the block; 0: never.

    The stacks of all its threads are written to a file in `folder`.
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
    """Restart the timeout; does nothing outside `watching`."""
    if _watch is not None:
        _watch.step()


@contextmanager
def paused() -> Iterator[None]:
    """Suspend the timeout within a block that may take long, such as an evaluation."""
    if _watch is not None:
        _watch.pause(True)
    try:
        yield
    finally:
        if _watch is not None:
            _watch.pause(False)


@contextmanager
def deadline(seconds: float, message: Callable[[], str]) -> Iterator[None]:
    """End this process, without a restart, if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, lambda: _exit_with(message(), intended_exit_code=1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exit_with(message: str, intended_exit_code: int | None = None) -> None:
    """Report a failure and exit with code 1, whatever the other threads are blocked in."""
    worker.record_failure(message, intended_exit_code)
    if not worker.is_worker() or os.environ.get("RANK") != "0":
        print(f"ddpm: {message}", file=sys.stderr, flush=True)
    os._exit(1)
