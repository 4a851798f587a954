"""A sweep: every setting sampled from the same seeds and scored, as coarse to fine finds them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.run_images import generated_images
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import Bar, PartOfBar, Reporter
from ddpm_cli.core.sweep import forecast
from ddpm_cli.core.sweep.axes import Axis, Values
from ddpm_cli.core.sweep.forecast import Cost
from ddpm_cli.core.sweep.points import Point, PointsFile
from ddpm_cli.core.sweep.scoring import Scorer
from ddpm_cli.core.sweep.search import explore, remaining
from ddpm_cli.core.sweep.subject import Subject


@dataclass
class Sweep:
    """What is varied, of what, and where it is written.

    Raises UsageError or DdpmError, before anything is sampled, for what the model cannot do.
    """

    axes: Sequence[Axis]
    refine: int  # values along each range, beside those of its grid
    subject: Subject
    scorer: Scorer
    file: PointsFile
    batch: Batch
    reporter: Reporter
    points: list[Point] = field(default_factory=list)  # in the order of the search
    calls: int = 0  # of the network, for all images of what was measured by this call
    seconds: float = 0.0  # that it took

    def __post_init__(self) -> None:
        for values in remaining(self.axes, self.refine, lambda _: None):
            self.subject.check(values)

    def cost(self) -> Cost:
        """What remains to be done, in network calls, and in seconds by a trial of the model."""
        every = len(remaining(self.axes, self.refine, lambda _: None))
        missing = remaining(self.axes, self.refine, self._known_value)
        first = missing[0] if missing else {axis.name: axis.values[0] for axis in self.axes}
        self._rates = forecast.rates(self.subject, self.scorer, first, self.batch, self.reporter)
        known = every - len(missing)
        return forecast.cost(self.subject, self.scorer, missing, known, self._rates)

    def run(self, cost: Cost) -> None:
        """Measure what remains, which costs that. Raises DdpmError."""
        side = self.scorer.collect(self.reporter)
        with self.reporter.bar("sweep", cost.calls, "network calls") as bar:
            explore(self.axes, self.refine, lambda values: self._value(values, side, bar, cost))

    def _value(self, values: Values, side: RealSide, bar: Bar, cost: Cost) -> float:
        """The score of a setting: of the file, or measured and written to it."""
        of = self._identity(values)
        point = self.file.find(of, values)
        if point is None:
            point = self._measured(values, side, bar)
            self.file.add(of, point)
            self._refine_forecast(point, cost)
        self.points.append(point)
        return point.value

    def _measured(self, values: Values, side: RealSide, bar: Bar) -> Point:
        started, nfe = time.monotonic(), self.subject.nfe(values)
        request, model = self.subject.requested(values), self.subject.with_weights(values)
        part = PartOfBar(self.reporter, bar, self.calls, nfe)
        images = generated_images("the setting", model, request, self.batch, part)
        score = self.scorer.score(side, images)
        seconds = time.monotonic() - started
        self.calls += nfe * request.count
        self.seconds += seconds
        return Point(values, score.value, score.std, nfe, seconds, score.resamples)

    def _refine_forecast(self, point: Point, cost: Cost) -> None:
        """After the first setting: say what remains as that one took."""
        count = self.subject.request.count
        if self.calls != point.nfe * count or cost.calls == self.calls:
            return
        expected = self._rates.of(count, point.nfe)
        rest = (cost.seconds - expected) * point.seconds / expected
        self.reporter.say(
            f"the first setting took {point.seconds:.3g} s, where {expected:.3g} s were forecast: "
            f"about {roughly(rest)} remain"
        )

    def _known_value(self, values: Values) -> float | None:
        point = self.file.find(self._identity(values), values)
        return None if point is None else point.value

    def _identity(self, values: Values) -> dict[str, Any]:
        return self.scorer.identity | self.subject.identity(values)
