"""A sweep: every setting sampled from the same seeds and scored, as coarse to fine finds them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.run_images import RunImages, generated_images
from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import Bar, PartOfBar, Reporter, Warned
from ddpm_cli.core.runtime.run_directory import is_run_or_weights
from ddpm_cli.core.sweep import forecast, points, scoring
from ddpm_cli.core.sweep.axes import Axis, Values
from ddpm_cli.core.sweep.forecast import Cost, Rates
from ddpm_cli.core.sweep.points import Point, PointsFile
from ddpm_cli.core.sweep.scoring import Scorer
from ddpm_cli.core.sweep.search import explore, remaining
from ddpm_cli.core.sweep.settings import SweptSettings, not_taken
from ddpm_cli.core.sweep.swept_model import SweptModel, real_images


@dataclass(frozen=True)
class SweepRequest:
    """What is varied, of which images of a run, and how they are scored.

    refine: values along each range, beside those of its grid. real: as `ddpm fid` takes REAL;
    None: the run's training images. out: the folder of points.jsonl; None: in the run. at: the
    images after which averages are rebuilt; None: all.
    """

    axes: Sequence[Axis]
    refine: int
    images: RunImages
    real: str | None
    score: str
    extractor: ExtractorSettings
    batch: Batch
    out: Path | None = None
    at: int | None = None

    def prepare(self, device: torch.device, reporter: Reporter) -> Sweep:
        """Check what is asked for, then load all that is needed.

        Raises UsageError or DdpmError for what cannot be done.
        """
        settings = self._checked_settings()
        requested = scoring.requested(self.score, self.extractor.network)
        if self.real is not None and is_run_or_weights(self.real):
            raise UsageError(f"--real {self.real} is a run; real images are wanted")
        names = [axis.name for axis in self.axes]
        default = default_sampling.of_run(self.images.run)
        left = not_taken(default, {**self.images.settings, **dict.fromkeys(names)})
        rebuilds = "sigma_rel" in names
        swept = SweptModel.load(
            self.images, settings, device, reporter, rebuilds=rebuilds, at=self.at
        )
        if left is not None:
            reporter.say(left)
        real = real_images(self.real, self.images.run, reporter)
        scorer = Scorer.load(real, self.extractor, requested, self.score, device, reporter)
        folder = swept.run.sweeps if self.out is None else paths.expanded(self.out)
        file = PointsFile(folder / points.NAME)
        return Sweep(self.axes, self.refine, self.images, swept, scorer, file, self.batch, reporter)

    def _checked_settings(self) -> SweptSettings:
        """The settings to try. Raises UsageError where they contradict each other."""
        own = default_sampling.of_weights(self.images.run)
        settings = SweptSettings(own, self.images.settings)
        settings.check(self.axes, remaining(self.axes, self.refine, lambda _: None))
        return settings


@dataclass
class Sweep:
    """What is varied, of what, and where it is written.

    Raises UsageError or DdpmError, before anything is sampled, for what the model cannot do.
    """

    axes: Sequence[Axis]
    refine: int
    images: RunImages
    swept: SweptModel
    scorer: Scorer
    file: PointsFile
    batch: Batch
    reporter: Reporter
    points: list[Point] = field(default_factory=list)  # in the order of the search
    calls: int = 0  # of the network, for all images of what was measured by this call
    seconds: float = 0.0  # that it took

    def __post_init__(self) -> None:
        every = remaining(self.axes, self.refine, lambda _: None)
        odd = [self.swept.check(values) for values in every]
        for notice in dict.fromkeys(filter(None, odd)):
            self.reporter.say(Warned(notice))

    def cost(self) -> Cost:
        """What remains to be done, in network calls, and in seconds by a trial of the model."""
        every = remaining(self.axes, self.refine, lambda _: None, self.swept.meant)
        missing = remaining(self.axes, self.refine, self._known_value, self.swept.meant)
        rates = Rates(0.0, 0.0, 0.0)
        if missing:
            self.reporter.say("Measuring a few steps …")
            rates = forecast.measured_rates(
                self.swept, self.scorer, missing, self.batch, self.reporter
            )
        known = len(every) - len(missing)
        return forecast.cost(self.swept, self.scorer, missing, known, rates)

    def run(self, cost: Cost) -> None:
        """Measure what remains, which costs that. Raises DdpmError."""
        side = self.scorer.collect(self.reporter)
        with self.reporter.bar("sweep", cost.calls, "network calls") as bar:

            def score(values: Values) -> float:
                return self._value(values, side, bar, cost)

            explore(self.axes, self.refine, score, self.swept.meant)

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
        started, nfe = time.monotonic(), self.swept.nfe(values)
        request, model = self.swept.requested(values), self.swept.with_weights(values)
        part = PartOfBar(self.reporter, bar, self.calls, nfe)
        images = generated_images("the setting", model, request, self.batch, part)
        score = self.scorer.score(side, images)
        seconds = time.monotonic() - started
        self.calls += nfe * request.count
        self.seconds += seconds
        return Point(values, score.value, score.std, nfe, seconds, score.resamples)

    def _refine_forecast(self, point: Point, cost: Cost) -> None:
        """After the first setting: say what remains as that one took."""
        count = self.swept.request.count
        if self.calls != point.nfe * count or cost.calls == self.calls:
            return
        expected = cost.rates.of(count, point.nfe)
        rest = (cost.seconds - expected) * point.seconds / expected
        self.reporter.say(
            f"the first setting took {point.seconds:.3g} s, where {expected:.3g} s were forecast: "
            f"about {roughly(rest)} remain"
        )

    def _known_value(self, values: Values) -> float | None:
        point = self.file.find(self._identity(values), values)
        return None if point is None else point.value

    def _identity(self, values: Values) -> dict[str, Any]:
        return self.scorer.identity | self.swept.identity(values)
