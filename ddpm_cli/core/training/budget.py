"""When a training ends: how much of its budget is used."""

from __future__ import annotations

import time

from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.training.state import Progress


class BudgetTracker:
    """Measures how much of the budget is used: the largest fraction of any limit, from 0 to 1."""

    def __init__(self, config: RunConfig, images: int, progress: Progress) -> None:
        """`images`: of one epoch."""
        batch = config.optimiser.batch
        limit = config.budget.in_images(batch, images)
        self.images = None if limit is None else -(-limit // batch) * batch  # whole steps
        self.seconds = None if config.budget.minutes is None else 60 * config.budget.minutes
        self._last = time.monotonic()
        self.used = self._fraction(progress)

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.used >= 1

    def update(self, progress: Progress, *values: float) -> list[float]:
        """Count the time since the last update; the maximum of each value over all ranks."""
        now = time.monotonic()
        seconds = progress.seconds + now - self._last
        self._last = now
        progress.seconds, *largest = distributed.all_reduce_max(seconds, *values)
        self.used = self._fraction(progress)
        return largest

    def seconds_left(self, progress: Progress, images_per_second: float) -> float | None:
        """Seconds until the limit in images is reached; None where the one in time ends it."""
        if self.images is None:
            return None
        left = (self.images - progress.images) / images_per_second
        ends_before = self.seconds is None or progress.seconds + left < self.seconds
        return left if ends_before else None

    def images_at_end(self, progress: Progress, images_per_second: float) -> int | None:
        """Images that will have been seen, where the limit in time ends the training."""
        if self.seconds is None or self.seconds_left(progress, images_per_second) is not None:
            return None
        return progress.images + int((self.seconds - progress.seconds) * images_per_second)

    def used_up(self, budget: Budget, progress: Progress) -> str:
        """How much was asked for and trained, and what goes on: in words."""
        if self.seconds is not None and progress.seconds >= self.seconds:
            trained = progress.seconds / 60
            more = max(int(trained) + 2, round(1.5 * trained))
            asked = f"{budget.minutes or 0:g} minutes asked, {trained:.3g} trained"
            return f"{asked}; --minutes {more} goes on"
        asked = f"{self.images or 0:,} images asked, {progress.images:,} trained"
        return f"{asked}; --images {2 * progress.images} goes on"

    def _fraction(self, progress: Progress) -> float:
        by_images = progress.images / self.images if self.images else 0.0
        by_time = progress.seconds / self.seconds if self.seconds else 0.0
        return max(by_images, by_time)
