"""Notices and progress bars: the Reporter protocol, which the terminal implements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

from ddpm_cli.core.errors import first_line

T = TypeVar("T")


class Warned(str):
    """A notice that something is wrong or worse than asked for, which --quiet shows, too."""

    __slots__ = ()


@dataclass(frozen=True)
class TrainingStatus:
    """Where a training is, when a row of its metrics is written."""

    run: Path
    images: int  # seen
    budget: int | None  # of images; None: only of time
    images_per_second: float | None
    loss: float  # smoothed
    lr: float
    memory: int | None  # bytes of a process at its peak
    skipped: int = 0  # steps that were not finite


class Bar(Protocol):
    """The progress bar of one task."""

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        """Set the progress, in the bar's unit, with a short note such as the loss.

        status: what the note says of a training, in numbers.
        """


class Reporter(Protocol):
    """Receives notices and progress."""

    def say(self, message: str) -> None:
        """Print one line; a `Warned` one even where others are left out."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Start a progress bar, titled `what`, of `total` units ("images", "minutes")."""


class Silent:
    """A Reporter without output, for ranks other than 0 and for use as a library."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        """Do nothing."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Do nothing."""
        return nullcontext(self)


SILENT = Silent()


class PartOfBar(Silent):
    """A Reporter of a part of some work: its progress is added to that of all, its notices said."""

    def __init__(self, reporter: Reporter, bar: Bar, before: float, each: float = 1.0) -> None:
        """before: what was done of all before. each: units of the whole for one of the part's."""
        self._reporter, self._bar, self._before, self._each = reporter, bar, before, each

    def say(self, message: str) -> None:
        """Print one line."""
        self._reporter.say(message)

    def update(self, done: float, note: str = "", status: TrainingStatus | None = None) -> None:
        """Set the progress of the part."""
        self._bar.update(self._before + self._each * done, note)


class Quiet(Silent):
    """A Reporter of warnings alone."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def say(self, message: str) -> None:
        """Print a warning; leave out anything else."""
        if isinstance(message, Warned):
            self._reporter.say(message)


class Log:
    """A Reporter that also appends what is said to a file, each line with its time (UTC).

    What is said before `open` waits for it. A file that cannot be written is no error: what is said
    is reported all the same. Threads may say something, too.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._lock = reporter, Lock()
        self._path: Path | None = None
        self._waiting: list[str] = []

    def open(self, path: Path) -> None:
        """Append to this file from now on."""
        with self._lock:
            self._path = path
            self._write()

    def say(self, message: str) -> None:
        """Print one line, and append it."""
        self._reporter.say(message)
        self.note(message)

    def note(self, message: str) -> None:
        """Append to the file alone."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            self._waiting.extend(f"{time} {line}\n" for line in message.splitlines())
            self._write()

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Start a progress bar, which is not in the file."""
        return self._reporter.bar(what, total, unit)

    def _write(self) -> None:
        if self._path is None:
            return
        lines, self._waiting = self._waiting, []
        text = "".join(lines)  # names of files may be no UTF-8
        with suppress(OSError), self._path.open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))


class Dispensable:
    """Work that training can do without, such as figures: where it fails, a notice says so once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._failed: set[str] = set()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Run the block; its first error is a notice that `what` is missing."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._reporter.say(Warned(f"training goes on without {what}: {first_line(error)}"))
            self._failed.add(what)


def track(items: Iterable[T], reporter: Reporter, what: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items with a progress bar."""
    with reporter.bar(what, total, unit) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(done)
