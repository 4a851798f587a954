"""How fast a training is: one measure for the progress bar, the metrics and the summary."""

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

    def add(self, seconds: float) -> None:
        """Count a step that lasted so long."""
        if self._start_up is None:
            self._start_up = seconds
        else:
            self._steps += 1
            self._seconds += seconds

    @property
    def mean(self) -> float | None:
        """Over the call so far; None before the first step."""
        return self._since(0, 0.0)

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
