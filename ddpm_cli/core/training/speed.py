"""How fast a training is, and how much of its time it waits for images."""

from __future__ import annotations


class Speed:
    """Images per second of the steps of one call.

    A step lasts from its batch until its weights are updated: validation, saves, previews and
    scores are not in it. Nor is the first step of the call, which is slower (start-up), where
    others follow.
    """

    def __init__(self, batch: int) -> None:
        """`batch`: images per step, of all processes together."""
        self._batch = batch
        self._start_up: float | None = None  # seconds of the first step
        self._steps, self._seconds = 0, 0.0
        self._row = (0, 0.0)  # steps and seconds when the last row was written
        self._waits = [0.0, 0.0]  # seconds in which steps waited, and in all
        self._row_waits = [0.0, 0.0]  # the same, since the last row

    def add(self, seconds: float, waited: float = 0.0) -> None:
        """Count a step that lasted so long, of which it `waited` for its images."""
        if self._start_up is None:
            self._start_up = seconds
            self._waits = self._row_waits = [waited, seconds]
            return
        if self._steps == 0:  # the first step aside, as others follow
            self._waits, self._row_waits = [0.0, 0.0], [0.0, 0.0]
        self._steps += 1
        self._seconds += seconds
        self._waits = [self._waits[0] + waited, self._waits[1] + seconds]
        self._row_waits = [self._row_waits[0] + waited, self._row_waits[1] + seconds]

    @property
    def mean(self) -> float | None:
        """Over the call so far; None before the first step."""
        return self._since(0, 0.0)

    @property
    def data_wait(self) -> float:
        """The share of the call's time that its steps waited for images, 0 to 1."""
        return _share(self._waits)

    def data_wait_of_row(self) -> float:
        """The same since this was last called."""
        share, self._row_waits = _share(self._row_waits), [0.0, 0.0]
        return share

    def of_row(self) -> float | None:
        """Since this was last called."""
        speed = self._since(*self._row)
        self._row = (self._steps, self._seconds)
        return speed

    def _since(self, steps: int, seconds: float) -> float | None:
        steps, seconds = self._steps - steps, self._seconds - seconds
        if steps:
            return steps * self._batch / max(seconds, 1e-9)
        return self._start_up and self._batch / self._start_up


def _share(waits: list[float]) -> float:
    waited, seconds = waits
    return waited / seconds if seconds else 0.0
