"""Requests to stop, by a signal or a time limit: between two steps of training, else at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from ddpm_cli.core.errors import DdpmError, PreemptedError, StoppedByUserError
from ddpm_cli.core.runtime.elastic import slurm, worker
from ddpm_cli.core.runtime.elastic.variables import number
from ddpm_cli.core.runtime.reporting import Reporter

OUT_OF_TIME: int = getattr(signal, "SIGXCPU", 24)  # stands for the time limit
_PREEMPTIONS = tuple(  # Windows has only the first
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")
    if hasattr(signal, name)
)
SIGNALS = (signal.SIGINT, *_PREEMPTIONS)
_NEVER_IGNORED = ("SIGTERM", "SIGXCPU")  # no shell and no nohup makes a command ignore these

_MIN_GRACE = 120.0  # seconds that our launcher gives its workers to save, at least
_TORCHRUN_GRACE = 30
_FIRST_SAVE = 10.0  # seconds assumed for a snapshot before the first one
_EXIT_TIME = 5.0  # seconds to end the processes after saving
_REPEAT_AFTER = 0.01  # seconds, of a signal that came within a destructor

RERUN_HINT = "run the same command again to resume from the newest snapshot"
NOTHING_NEW = (
    "nothing new was saved; the same command starts again, from the newest snapshot if there is one"
)
NOTHING_WRITTEN = "nothing was written, and the same command starts again"
NO_SCORE = "what was not scored yet is by the same command, with what is cached"


class _Stop(BaseException):
    """Raised by the signal handler; not an Exception, which libraries may catch."""

    def __init__(self, number: int) -> None:
        self.exit_code = _error_type(number).exit_code


class TimeLimit:
    """The time by which training must have saved and ended."""

    def __init__(self, end: float, durations: Callable[[], tuple[float, float]]) -> None:
        """`end` in seconds since 1970; `durations`: seconds that saving and a step take."""
        self._end, self._durations = end, durations

    def must_stop(self) -> bool:
        """Whether no more than twice the time for saving and a step remains."""
        save, step = self._durations()
        return self._end - time.time() < 2 * (save or _FIRST_SAVE) + 2 * step + _EXIT_TIME


class StopRequest:
    """The signal, if any, that requested a stop."""

    def __init__(self, limit: TimeLimit | None = None) -> None:
        self._received, self._interrupted, self._raise_immediately = 0, False, False
        self.limit = limit  # set once the run directory is known
        self.saves = False  # whether a snapshot follows, after a step at least

    @property
    def signal(self) -> int:
        """The first signal received, OUT_OF_TIME once the time limit is reached, else 0."""
        if not self._received and self.limit is not None and self.limit.must_stop():
            self._received = OUT_OF_TIME
        return self._received

    def on_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: keeps the first signal; a second Ctrl-C exits immediately."""
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        if not self._received:
            self._received = number
            self._raise_if_received()
            _announce_stop(number, saves=self.saves)

    def repeat(self) -> None:
        """Send the signal again, as what its handler raised was lost in a destructor."""
        number, self._received, self._interrupted = self._received, 0, False
        threading.Timer(_REPEAT_AFTER, os.kill, (os.getpid(), number)).start()

    @contextmanager
    def raise_at_once(self, end: str = f" before the first step: {NOTHING_NEW}") -> Iterator[None]:
        """Raise PreemptedError or StoppedByUserError on a signal, during or before the block.

        For work with nothing to save, such as that before the first step of training; after it,
        the training loop reads `signal` between steps. `end`: of the message.
        """
        self._raise_immediately = True
        try:
            self._raise_if_received()
            yield
        except (Exception, SystemExit, _Stop) as error:
            if not self._received:
                raise
            name = signal.Signals(self._received).name  # other errors are consequences of it
            raise _error_type(self._received)(f"stopped by {name}{end}") from error
        finally:
            self._raise_immediately = False

    def _raise_if_received(self) -> None:
        if self._raise_immediately and self._received:
            raise _Stop(self._received)


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Record stop signals within a block (in the main thread; others receive none)."""
    request, hook = StopRequest(), sys.unraisablehook

    def on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            exit_immediately()
        if isinstance(unraisable.exc_value, _Stop):
            request.repeat()
        else:
            hook(unraisable)

    with signal_handler(request.on_signal):
        sys.unraisablehook = on_unraisable
        try:
            yield request
        except KeyboardInterrupt:
            exit_immediately()
        finally:
            sys.unraisablehook = hook


@contextmanager
def stop_at_once(kept: str = NOTHING_WRITTEN) -> Iterator[None]:
    """End a block, or a function that this decorates, on a stop signal.

    Raises PreemptedError or StoppedByUserError; the message says what is `kept`.
    """
    with catch_signals() as request, request.raise_at_once(f"; {kept}"):
        yield


_announced = ""  # on the terminal, in place of the last line and below


def take_announcement() -> str:
    """The line that was written to the terminal on a signal, once; "" without one.

    It began in the line where the cursor was, which is now in the line below its end.
    """
    global _announced
    line, _announced = _announced, ""
    return line


def _announce_stop(number: int, *, saves: bool) -> None:
    """Say at once, on rank 0, what happens until the program ends.

    Straight to the terminal, in place of the bar's line: a handler must not wait for a stream that
    the code it interrupted is writing to.
    """
    global _announced
    if os.environ.get("RANK", "0") != "0":
        return
    line = "Stopping before the first step: there is nothing new to save"
    if saves:
        line = "Stopping: the current step is finished and a snapshot saved"
    if number == signal.SIGINT:
        line += "; Ctrl-C again ends at once" + (", without saving" if saves else "")
    with suppress(OSError):
        erase = "\r\x1b[K" if os.isatty(2) else ""
        os.write(2, f"{erase}{line}\n".encode())
        _announced = line if erase else ""


def exit_immediately() -> NoReturn:
    """Exit after a second Ctrl-C; Python's own exit would wait for a save in progress.

    Further Ctrl-Cs are ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = "interrupted again: exited at once"
    worker.record_failure(message, StoppedByUserError.exit_code)
    if not worker.is_worker():
        print(f"ddpm: {message}", file=sys.stderr, flush=True)
    os._exit(StoppedByUserError.exit_code)


def handled_signals() -> list[int]:
    """The stop signals, without those that this process was started to ignore.

    `nohup` makes a command ignore SIGHUP, and a shell's `&` may make it ignore SIGINT.
    """
    return [
        number
        for number in SIGNALS
        if number.name in _NEVER_IGNORED or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextmanager
def signal_handler(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Handle the stop signals by `handler` within a block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in handled_signals()}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def stopped_error(number: int, run: str) -> DdpmError:
    """The error that ends a run stopped by signal `number`, after saving."""
    cause = signal.Signals(number).name if number != OUT_OF_TIME else "the time limit"
    return _error_type(number)(
        f"stopped by {cause}; {run} holds all progress: run the same command again to resume"
    )


def _error_type(number: int) -> type[DdpmError]:
    return StoppedByUserError if number == signal.SIGINT else PreemptedError


def end_of_time(limit: float | None, reporter: Reporter) -> float | None:
    """When a run of `limit` seconds, or the SLURM job, ends, in seconds since 1970.

    The limit counts from the launcher's start, across restarts of its workers.
    """
    started = float(os.environ.get(worker.STARTED, time.time()))
    ends = [slurm.end_time(started, reporter), None if limit is None else started + limit]
    return min((end for end in ends if end is not None), default=None)


def grace_period(save: float) -> float:
    """Seconds for workers to save and end, where the last snapshot took `save` seconds."""
    return max(_MIN_GRACE, 3 * save)


def short_grace_warning(save: float) -> str | None:
    """A warning if an outer torchrun would kill workers before a snapshot is written."""
    grace = number("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TORCHRUN_GRACE)
    if worker.is_worker() or "TORCHELASTIC_RUN_ID" not in os.environ or save < grace:
        return None
    return (
        f"torchrun kills its workers {grace} s after SIGTERM, but the last snapshot took "
        f"{save:.0f} s: start them by ddpm train --nproc, which waits, or set "
        f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace_period(save):.0f} for torchrun"
    )
