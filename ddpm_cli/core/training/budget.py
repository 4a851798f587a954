"""When a training ends: how much of the budget is used."""

from __future__ import annotations

import time

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.training.state import Progress


class Clock:
    """Measures how much of the budget is used: the largest share of any limit, from 0 to 1."""

    def __init__(self, config: RunConfig, pictures: int, progress: Progress) -> None:
        batch = config.optimiser.batch
        limit = config.budget.in_images(batch, pictures)
        self.images = None if limit is None else -(-limit // batch) * batch  # whole steps
        self.seconds = None if config.budget.minutes is None else 60 * config.budget.minutes
        self._last = time.monotonic()
        self.used = self._share(progress)

    def tick(self, progress: Progress, *news: float) -> list[float]:
        """Count the time since the last tick; the largest of each of the news of all processes."""
        now = time.monotonic()
        seconds = progress.seconds + now - self._last
        self._last = now
        progress.seconds, *heard = distributed.all_reduce_max(seconds, *news)
        self.used = self._share(progress)
        return heard

    def _share(self, progress: Progress) -> float:
        by_images = progress.images / self.images if self.images else 0.0
        by_time = progress.seconds / self.seconds if self.seconds else 0.0
        return max(by_images, by_time)
