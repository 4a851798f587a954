"""The terminal, the only place that knows rich: notices to stderr, results to stdout."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from rich.bar import Bar as Block
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ddpm_cli.cli.panel import TrainingPanel
from ddpm_cli.core.config import environment
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import cache, quantities
from ddpm_cli.core.runtime.elastic import worker
from ddpm_cli.core.runtime.files import dumps, finite
from ddpm_cli.core.runtime.reporting import Bar, Quiet, Reporter, Silent, TrainingStatus, Warned

_PLAIN_EVERY = 30.0  # seconds between progress lines where there is no terminal


class Terminal:
    """A Reporter on stderr: a live bar on a terminal, now and then a plain line elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._panel: TrainingPanel | None = None  # while one is shown

    def say(self, message: str) -> None:
        """Print one line, above the panel where there is one."""
        panel = self._panel  # another thread may close it meanwhile
        if panel is not None:
            panel.note(message)
        self._console.print(message, markup=False)

    @contextmanager
    def bar(self, what: str, total: float, unit: str) -> Iterator[Bar]:
        """Show progress until the block ends."""
        if self._panel is not None:
            yield _BarInPanel(self._panel, what, total, unit)
            self._panel.doing("")
            return
        if not self._is_live:
            plain = _PlainBar(self, what, total, unit)
            yield plain
            plain.close()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total, amount="", note="")
            bar = _LiveBar(self, progress, task, total, unit)
            try:
                yield bar
            finally:
                self._close_panel()

    @property
    def _is_live(self) -> bool:
        """Whether lines can be drawn anew: a terminal that is none in name only."""
        return self._console.is_interactive and self._console.file.isatty()

    def _close_panel(self) -> None:
        if self._panel is not None:
            self._panel.stop()
            self._panel = None

    def show(self, progress: Progress, done: float, status: TrainingStatus) -> None:
        """Show a training in a panel, which takes the place of its bar."""
        if self._panel is None:
            title = progress.tasks[0].description
            progress.live.transient = True  # the bar vanishes
            progress.stop()
            self._panel = TrainingPanel(self._console, title, status)
            self._panel.start()
        self._panel.show(done, status)


class _BarInPanel:
    """What is done while a training waits for it, as a line of the panel."""

    def __init__(self, panel: TrainingPanel, what: str, total: float, unit: str) -> None:
        self._panel, self._what, self._total, self._unit = panel, what, total, unit

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        parts = (f"{self._what} {_amount(done, self._total, self._unit)}", note)
        self._panel.doing(", ".join(filter(None, parts)))


class _LiveBar:
    def __init__(
        self, terminal: Terminal, progress: Progress, task: TaskID, total: float, unit: str
    ) -> None:
        self._terminal, self._progress, self._task = terminal, progress, task
        self._total, self._unit = total, unit

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        if status is not None:
            self._terminal.show(self._progress, done, status)
            return
        amount = _amount(done, self._total, self._unit)
        self._progress.update(self._task, completed=done, amount=amount, note=note)


class _PlainBar:
    def __init__(self, terminal: Terminal, what: str, total: float, unit: str) -> None:
        self._terminal, self._what = terminal, what
        self._total, self._unit = total, unit
        self._started = self._shown = time.monotonic()
        self._first: float | None = None  # amount at the first update: not 0 after a resume
        self._latest: tuple[float, str] | None = None

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        if self._first is None:
            self._first = done
        self._latest = (done, note)
        if time.monotonic() - self._shown >= _PLAIN_EVERY:
            self._show()

    def close(self) -> None:
        if self._latest is not None:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        done, note = self._latest or (0.0, "")
        gained = done - (self._first or 0.0)
        parts = [_amount(done, self._total, self._unit), note]
        if gained > 0 and done < self._total:
            left = (self._total - done) * (self._shown - self._started) / gained
            parts.append(f"about {quantities.duration(left)} left")
        self._terminal.say(f"{self._what}: {', '.join(part for part in parts if part)}")


_quiet = False  # whether warnings and results alone are shown


def be_quiet(wanted: bool) -> None:
    """From now on show warnings and results alone, or everything."""
    global _quiet
    _quiet = wanted


def reporter() -> Reporter:
    """The terminal; nowhere if this process is a worker other than the first."""
    if os.environ.get("RANK", "0") != "0":
        return Silent()
    return Quiet(Terminal()) if _quiet else Terminal()


def announce_environment() -> None:
    """Say once, before workers start, which variables are mistyped, and where the cache is.

    The latter if it is no usual place.
    """
    if not worker.is_worker():
        for notice in environment.mistyped(os.environ):
            reporter().say(Warned(notice))
    if message := cache.notice():
        reporter().say(message)
        os.environ["DDPM_CACHE"] = str(cache.cache_root())


def result(text: str, document: dict[str, Any], as_json: bool) -> None:
    """Print a command's result on stdout: its text, or one JSON document."""
    if os.environ.get("RANK", "0") == "0":
        whole = dumps(finite(document)) if as_json else text
        print(whole, flush=True)


def bars(values: Mapping[str, float], width: int = 40) -> list[str]:
    """A line a value: its name, a bar of at most `width` columns, and the value."""
    largest, longest = max(values.values()), min(32, max(map(cell_len, values)))
    return [
        f"{set_cell_size(name, longest)}  {block(value, largest, width)} {value:,}"
        for name, value in values.items()
    ]


def block(value: float, largest: float, width: int) -> str:
    """A bar for one value: of `width` columns for the largest."""
    drawn = Console(width=width, color_system=None, file=io.StringIO())
    with drawn.capture() as drawing:
        drawn.print(Block(largest or 1, 0, value, width=width), end="")
    return drawing.get().rstrip()


def fail(message: str) -> None:
    """Print the line that explains a failure."""
    print(f"ddpm: {message}", file=sys.stderr)


@contextmanager
def tolerate_closed_streams() -> Iterator[None]:
    """Continue the work where nobody reads its output: a closed terminal, a broken pipe.

    Other errors of writing to stderr are ignored, too; those of stdout are a DdpmError.
    """
    out, err = _TolerantStream(sys.stdout), _TolerantStream(sys.stderr, is_stderr=True)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            out.close_quietly()
            err.close_quietly()


class _TolerantStream:
    """A stream, or None where it is closed, redirected to /dev/null once its reader is gone."""

    def __init__(self, stream: TextIO | None, *, is_stderr: bool = False) -> None:
        self._stream, self._is_stderr = stream, is_stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._stream is not None:
            with self._tolerating():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with self._tolerating():
                self._stream.flush()

    def close_quietly(self) -> None:
        """Flush; what cannot be written is dropped, so that Python does not fail at exit."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError:
            self._redirect_to_null()

    @contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            gone = error.errno in (errno.EPIPE, errno.EIO)
            if gone or not self._is_stderr:
                self._redirect_to_null()
            if not (gone or self._is_stderr):
                raise DdpmError(f"cannot write the result: {error.strerror}") from error

    def _redirect_to_null(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _amount(done: float, total: float, unit: str) -> str:
    if unit == "%":
        return f"{done:.0f} %"
    return f"{done:,.0f}/{total:,.0f} {unit}"
