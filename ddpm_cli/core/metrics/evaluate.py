"""Evaluation from end to end: images -> features -> statistics -> scores with their protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect
from ddpm_cli.core.metrics.feature_cache import collect_cached, mark_used
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, ScoreInput, open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import InceptionScoreReport, Report
from ddpm_cli.core.metrics.requested import (
    RequestedMetrics,
    check_before_loading,
    check_comparable,
    check_enough,
    check_real,
    check_width,
    counted,
)
from ddpm_cli.core.metrics.scores.inception_score import score_logits
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.metrics.worst.pictures import write_worst
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.devices import choose_device
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, Warned

T = TypeVar("T")
Named = str | Path | NDArray[np.uint8]  # an input, as `open_input` takes it


@dataclass(frozen=True)
class Fake:
    """An input to score. It is opened to be checked and again to be scored: models take memory."""

    name: str
    open: Callable[[Reporter], ScoreInput]


@dataclass(frozen=True)
class Outcome:
    """The scores of a fake, or why it has none."""

    name: str
    result: Report | DdpmError


@dataclass(frozen=True)
class _Checked:
    fake: Fake
    requested: RequestedMetrics  # of this fake
    opened: ScoreInput | None  # None: to be opened again


class Evaluation:
    """Fakes against one real input, whose features are extracted once.

    With several processes each extracts its shard of every input, and rank 0 scores. Of several
    fakes one that fails does not stop the others: its Outcome says why. The error of a single one
    is raised, and that of the first where none can be scored.
    """

    def __init__(
        self,
        real: ScoreInput,
        fakes: Sequence[Fake],
        requested: RequestedMetrics,
        reporter: Reporter,
    ) -> None:
        """Open and check all inputs, before any network is loaded.

        Raises DdpmError where REAL cannot be used, and UsageError for options that do not suit an
        input.
        """
        self._real, self._reporter = real, reporter
        self._cache, self._alone = requested.cache, len(fakes) == 1
        check_real(real, requested)
        self._fakes: dict[str, _Checked | DdpmError] = {
            fake.name: self._attempt(fake.name, partial(self._open, fake, requested))
            for fake in fakes
        }
        self._raise_if_none_is_left()

    @property
    def needs_network(self) -> bool:
        """Whether any input is of images: of statistics the scores are computed without."""
        inputs = [self._real, *(checked.opened for checked in self._usable)]
        return not all(isinstance(value, Statistics) for value in inputs)

    def load(self, settings: ExtractorSettings, device: torch.device) -> Extractor | None:
        """Load the network; None where all inputs are statistics.

        Raises UsageError for settings that then have no meaning, and DdpmError where those of the
        statistics given are others.
        """
        if self.needs_network:
            for checked in self._usable:
                inputs = self._real, checked.opened, settings
                name = checked.fake.name
                failure = self._attempt(name, partial(check_before_loading, *inputs))
                self._fakes[name] = failure or checked
            self._raise_if_none_is_left()
            return settings.load(device, self._reporter)
        if settings != ExtractorSettings(batch=settings.batch):
            raise UsageError(
                "both inputs are statistics, so no network runs: --weights, --features, --protocol "
                "and --precision have no meaning"
            )
        return None

    def collect_real(self, extractor: Extractor | None) -> Statistics | None:
        """Collect the real side; its statistics, for reuse, on rank 0.

        The extractor may be None where none is needed. Raises DdpmError, before it runs, where the
        inputs are not comparable.
        """
        check_width(self._real, "REAL", extractor)
        for checked in self._usable:
            name = checked.fake.name
            inputs = self._real, checked.opened, checked.requested, extractor
            failure = self._attempt(name, partial(check_comparable, *inputs))
            self._fakes[name] = failure or checked
        self._raise_if_none_is_left()
        kept = [checked.requested.keep_real for checked in self._usable]
        keep = Keep(
            features=any(each.features for each in kept), spatial=any(each.spatial for each in kept)
        )
        self._extractor = extractor
        collected = self._collected(self._real, keep, "real")
        self._real_side = RealSide(collected, extractor)
        return collected.statistics if distributed.is_main() else None

    def outcomes(self) -> Iterator[Outcome]:
        """Score the fakes in their order, each when it is asked for, after `collect_real`."""
        for place, (name, checked) in enumerate(self._fakes.items(), 1):
            if isinstance(checked, DdpmError):
                yield Outcome(name, checked)
                continue
            what = "fake" if self._alone else f"fake {place} of {len(self._fakes)}"
            yield Outcome(name, self._attempt(name, partial(self._score, checked, what)))

    @property
    def _usable(self) -> list[_Checked]:
        return [value for value in self._fakes.values() if isinstance(value, _Checked)]

    def _raise_if_none_is_left(self) -> None:
        if not self._usable:
            raise next(error for error in self._fakes.values() if isinstance(error, DdpmError))

    def _open(self, fake: Fake, requested: RequestedMetrics) -> _Checked:
        opened = fake.open(self._reporter if self._alone else SILENT)
        check_enough(opened)
        own = requested.of(self._real, opened)
        again = isinstance(opened, GeneratedImages) and not self._alone
        return _Checked(fake, own, None if again else opened)

    def _attempt(self, name: str, work: Callable[[], T]) -> T | DdpmError:
        """Do what may fail for one of several fakes, of which the others are then scored."""
        if self._alone:
            return work()
        result = distributed.attempt(work)
        if isinstance(result, DdpmError) and result.exit_code != DdpmError.exit_code:
            raise result  # an option's fault, or a request to stop
        if isinstance(result, DdpmError):
            self._reporter.say(Warned(f"{name} is left out: {result}"))
        return result

    def _score(self, checked: _Checked, what: str) -> Report:
        fake, requested = checked.opened, checked.requested
        if fake is None:
            opened = distributed.attempt(partial(checked.fake.open, self._reporter))
            if isinstance(opened, DdpmError):
                raise opened
            fake = opened
        together = not self._alone
        features = self._collected(fake, requested.keep_fake, what, together=together)
        mark_used(self._real_side.collected)  # lest the fakes push it out of the cache
        report = distributed.broadcast_from_rank0(lambda: self._report(fake, features, requested))
        sampled = fake.sampled if isinstance(fake, GeneratedImages) else None
        return replace(report, sampled=sampled)

    def _report(
        self, fake: ScoreInput, features: InputFeatures, requested: RequestedMetrics
    ) -> Report:
        report = self._real_side.score(features, requested, self._reporter)
        if requested.worst is None:
            return report
        count, folder = requested.worst.count, requested.worst.folder
        worst = self._real_side.worst(features, count, self._reporter)
        real = self._real
        assert not isinstance(real, Statistics) and not isinstance(fake, Statistics), "refused"
        shown = write_worst(folder, worst, real, fake)
        return replace(report, scores=(*report.scores, shown))

    def _collected(
        self,
        score_input: ScoreInput,
        keep: Keep,
        what: str,
        *,
        together: bool = False,
    ) -> InputFeatures:
        if isinstance(score_input, Statistics):
            return InputFeatures(score_input)
        assert self._extractor is not None, "images need an extractor"
        function = collect_cached if self._cache else collect
        return function(score_input, self._extractor, keep, what, self._reporter, together=together)


def evaluate(
    real: ScoreInput,
    fake: ScoreInput,
    extractor: Extractor | None,
    requested: RequestedMetrics,
    reporter: Reporter,
) -> tuple[Report, Statistics | None]:
    """Score one FAKE against REAL, as `Evaluation`; also returns the real input's statistics."""
    one = Evaluation(real, [Fake("FAKE", lambda _: fake)], requested, reporter)
    statistics = one.collect_real(extractor)
    (outcome,) = one.outcomes()
    assert isinstance(outcome.result, Report), "the error of a single fake is raised"
    return outcome.result, statistics


def evaluate_inputs(
    real: Named,
    fakes: Sequence[Named],
    settings: ExtractorSettings,
    *,
    metrics: Sequence[str] | None,
    device: str,
    reporter: Reporter,
) -> list[Report]:
    """Score fakes against REAL, each named as `open_input` takes it, in this process.

    Raises DdpmError where any of them cannot be scored.
    """
    names = None if metrics is None else ",".join(metrics)
    requested = RequestedMetrics.parse(names, network=settings.network)
    opened = [open_input(value, reporter=reporter) for value in (real, *fakes)]
    named = [Fake(str(i), partial(lambda x, _: x, x)) for i, x in enumerate(opened[1:], 1)]
    evaluation = Evaluation(opened[0], named, requested, reporter)
    evaluation.collect_real(evaluation.load(settings, choose_device(device)))
    reports = []
    for outcome in evaluation.outcomes():
        if isinstance(outcome.result, DdpmError):
            raise outcome.result
        reports.append(outcome.result)
    return reports


def evaluate_inception_score(
    images: ImageSet, extractor: Extractor, splits: int, reporter: Reporter
) -> InceptionScoreReport:
    """Inception Score (Salimans et al. 2016) over splits of the shuffled images.

    Raises DdpmError for fewer than 2 images a split, before any network runs.
    """
    if len(images) < 2 * splits:
        raise DdpmError(
            f"{images.label} holds {counted(len(images))}, too few for {splits} splits: a split "
            f"of 1 scores 1 whatever it shows; give at least {2 * splits} images, or fewer --splits"
        )
    collected = collect(images, extractor, Keep(logits=True), "images", reporter)
    n, logits = collected.statistics.n or 0, collected.logits
    if n < 2 * splits:
        raise DdpmError(f"only {n} images of {images.label} are readable, for {splits} splits")
    assert logits is not None
    score = distributed.broadcast_from_rank0(lambda: score_logits(logits, splits, reporter))
    return InceptionScoreReport(
        score.mean,
        score.std,
        n,
        splits,
        extractor.origin,
        collected.statistics.images,
        images.sampled if isinstance(images, GeneratedImages) else None,
    )
