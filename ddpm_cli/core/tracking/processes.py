"""The processes that trackers run in, one each: checked, started, reported and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from ddpm_cli.core.errors import DdpmError, PreemptedError, StoppedByUserError, first_line
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.runtime.run_directory import RunDirectory

_TO_CHECK = 120.0  # seconds
_TO_CLOSE, _TO_CLOSE_IN_HASTE = 30.0, 5.0  # seconds, after the end, and on a signal or an error
_NOT_AGAIN = 600.0  # seconds after a line that a tracker is behind, in which no other says so
_MODULE = "ddpm_cli.core.tracking.following"


def check(names: Sequence[str]) -> None:
    """Raise DdpmError where a tracker cannot be used: not installed, no login, no folder."""
    with ExitStack() as stack:
        checks = []
        for name in names:  # at the same time
            process = _start(name, stderr=subprocess.DEVNULL)
            stack.callback(_close, process)
            stack.callback(_kill, process)
            checks.append((name, process))
        reasons = [f"--log {name}: {reason}" for name, one in checks if (reason := _reason(one))]
    if reasons:
        raise DdpmError("; ".join(reasons))


def _reason(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=_TO_CHECK)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_TO_CHECK:.0f} s"
    try:
        return str(json.loads(output)[1])
    except (ValueError, LookupError):
        return f"its process ended with exit code {process.returncode}"


@contextmanager
def following(
    names: Sequence[str], run: RunDirectory, seen: int, reporter: Reporter
) -> Iterator[None]:
    """Have trackers follow a run within the block, from `seen` images on.

    Whatever happens to them costs the training a line, and at its end a limited time.
    """
    followers = [_Follower(name, run, seen, reporter) for name in names]
    state, limit = "failed", _TO_CLOSE_IN_HASTE
    try:
        yield
        state, limit = "finished", _TO_CLOSE
    except (PreemptedError, StoppedByUserError):
        state = "stopped"
        raise
    finally:
        end = time.monotonic() + limit
        try:
            for follower in followers:
                follower.finish(state)
            for follower in followers:
                follower.wait(end)
        finally:
            for follower in followers:
                follower.kill()


class _Follower:
    """One tracker's process, and the thread that reports what it says."""

    def __init__(self, name: str, run: RunDirectory, seen: int, reporter: Reporter) -> None:
        self._name, self._reporter = name, reporter
        self._process: subprocess.Popen[str] | None = None
        self._failed = self._behind = False
        self._next_line = 0.0  # on being behind, by the monotonic clock
        self._output = run.tracker(name).with_suffix(".txt")
        try:
            self._output.parent.mkdir(exist_ok=True)
            with self._output.open("ab") as file:
                self._process = _start(name, str(run.path), str(seen), stderr=file)
        except OSError as error:
            self._fail(first_line(error))
            return
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def finish(self, state: str) -> None:
        """Ask it to end its record, by which the training is in this state."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it is gone
                self._process.stdin.write(f"{state}\n")
                self._process.stdin.close()

    def wait(self, end: float) -> None:
        """Wait for its end, at most until then by the monotonic clock."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
            self._listener.join(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._fail("it was not ready in time when the training ended")

    def kill(self) -> None:
        """End it, if it has not."""
        self._failed = True  # nothing more is said
        if self._process is not None:
            _kill(self._process)
            self._listener.join(1)
            _close(self._process)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            kind, text = json.loads(line)
            if kind == "failed" and not self._behind:
                self._fail(text)
            elif kind == "behind":
                self._delay(text)
            elif kind == "where":
                self._reporter.say(f"Followed by {self._name}: {text}")
            elif self._behind:
                self._behind = False
                self._reporter.say(Warned(f"{self._name} follows the training again, up to now"))
        if process.wait():
            self._fail(f"its process ended with exit code {process.returncode}")

    def _fail(self, reason: str) -> None:
        """Say the first failure; the others are in its output file."""
        if not self._failed:
            self._failed = True
            self._warn(f"does not follow it: {reason}")

    def _delay(self, reason: str) -> None:
        """Say that it is behind, once until it has caught up, and not often."""
        now = time.monotonic()
        if not self._failed and not self._behind and now >= self._next_line:
            self._behind, self._next_line = True, now + _NOT_AGAIN
            self._warn(f"is behind, and tries again: {reason}")

    def _warn(self, what: str) -> None:
        text = f"Training goes on, but {self._name} {what} (more in {self._output})"
        self._reporter.say(Warned(text))


def _start(name: str, *arguments: str, stderr: int | IO[bytes]) -> subprocess.Popen[str]:
    """Start a tracker's process, out of reach of the signals of this terminal or job step."""
    return subprocess.Popen(
        [sys.executable, *start_up.program(_MODULE), name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)  # its session's
            else:
                process.kill()
    process.wait()


def _close(process: subprocess.Popen[str]) -> None:
    """Close what leads to a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
