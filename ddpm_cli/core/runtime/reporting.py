"""Notices and progress bars: the Reporter protocol, which the terminal implements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """The progress bar of one task."""

    def update(self, done: float, note: str = "") -> None:
        """Set the progress, in the bar's unit, with a short note such as the loss."""


class Reporter(Protocol):
    """Receives notices and progress."""

    def say(self, message: str) -> None:
        """Print one line."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Start a progress bar, titled `what`, of `total` units ("images", "minutes")."""


class Silent:
    """A Reporter without output, for ranks other than 0 and for use as a library."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def update(self, done: float, note: str = "") -> None:
        """Do nothing."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Do nothing."""
        return nullcontext(self)


SILENT = Silent()


def track(items: Iterable[T], reporter: Reporter, what: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items with a progress bar."""
    with reporter.bar(what, total, unit) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(done)
