"""Loading what the next step needs while the one before it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """What `load` returns for a number of images seen; the next is loaded in a thread meanwhile.

    All calls of `load` are made in that one thread, one after the other. Its errors are raised by
    the `get` that asks for what failed, and by no other.
    """

    def __init__(self, load: Callable[[int], T], step: int) -> None:
        """`step`: from one number to the next."""
        self._load, self._step = load, step
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[T]] | None = None
        self.waited = 0.0  # seconds that `get` waited, in all

    def get(self, seen: int) -> T:
        """Load for this number of images, unless that was done ahead, and begin on the next."""
        started = time.monotonic()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "prefetch")
        if self._next is None or self._next[0] != seen:
            self._forget()
            self._next = seen, self._pool.submit(self._load, seen)
        loaded = self._next[1].result()
        self.waited += time.monotonic() - started
        following = seen + self._step
        self._next = following, self._pool.submit(self._load, following)
        return loaded

    def close(self) -> None:
        """End the thread, after what it is loading."""
        self._forget()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _forget(self) -> None:
        if self._next is not None:
            self._next[1].cancel()
            self._next = None
