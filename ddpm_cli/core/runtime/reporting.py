"""How long work tells of itself: the core speaks to a Reporter, the terminal is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """One piece of long work under way."""

    def update(self, done: float, note: str = "") -> None:
        """Say how far it is, in the bar's unit, with a few words such as the loss."""


class Reporter(Protocol):
    """Where notices and progress go."""

    def say(self, message: str) -> None:
        """One line for the reader."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Start a progress bar of `total` units ("images", "minutes")."""


class Silent:
    """A Reporter that says nothing: ranks other than the first, and use as a library."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def update(self, done: float, note: str = "") -> None:
        """Show nothing."""

    def bar(self, what: str, total: float, unit: str) -> AbstractContextManager[Bar]:
        """Show nothing."""
        return nullcontext(self)


def track(items: Iterable[T], reporter: Reporter, what: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items, counting them on a bar of the reporter."""
    with reporter.bar(what, total, unit) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(done)
