"""Evaluation from end to end: images -> features -> statistics -> scores with their protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect
from ddpm_cli.core.metrics.feature_cache import collect_cached
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, ScoreInput, open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import InceptionScoreReport, Report
from ddpm_cli.core.metrics.requested import RequestedMetrics, check_fake, check_real, counted
from ddpm_cli.core.metrics.scores.inception_score import score_logits
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.devices import choose_device
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

T = TypeVar("T")


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

    With several processes each extracts its shard of every input, and rank 0 scores.
    """

    def __init__(
        self,
        real: ScoreInput,
        fakes: Sequence[Fake],
        extractor: Extractor | None,
        requested: RequestedMetrics,
        reporter: Reporter,
    ) -> None:
        """Check options and inputs before any network runs.

        Of several fakes those that cannot be read have an Outcome that says why. Raises DdpmError
        where REAL cannot be used or no fake can, and UsageError for options that do not suit an
        input. The extractor may be None where all inputs are statistics.
        """
        self._real, self._extractor, self._reporter = real, extractor, reporter
        self._cache, self._alone = requested.cache, len(fakes) == 1
        check_real(real, extractor, requested)
        self._checked = {
            fake.name: self._attempt(partial(self._check, fake, requested)) for fake in fakes
        }
        if len(self.failures) == len(fakes):
            raise next(iter(self.failures.values()))

    @property
    def failures(self) -> dict[str, DdpmError]:
        """Why some fakes cannot be scored, by name, as far as is known before any network runs."""
        return {name: e for name, e in self._checked.items() if isinstance(e, DdpmError)}

    @property
    def real_statistics(self) -> Statistics | None:
        """Statistics of the real images, for reuse, on rank 0; the first call extracts features."""
        return self._real_side.collected.statistics if distributed.is_main() else None

    def outcomes(self) -> Iterator[Outcome]:
        """Score the fakes in their order, each when it is asked for.

        Of several, one that fails does not stop the others; the error of a single one is raised.
        """
        assert self._real_side, "collected before the first fake"
        for place, (name, checked) in enumerate(self._checked.items(), 1):
            if isinstance(checked, DdpmError):
                yield Outcome(name, checked)
                continue
            what = "fake" if self._alone else f"fake {place} of {len(self._checked)}:"
            yield Outcome(name, self._attempt(partial(self._score, checked, what)))

    def _check(self, fake: Fake, requested: RequestedMetrics) -> _Checked:
        opened = fake.open(self._reporter if self._alone else SILENT)
        check_fake(self._real, opened, self._extractor, requested)
        again = isinstance(opened, GeneratedImages) and not self._alone
        return _Checked(fake, requested.of(self._real, opened), None if again else opened)

    def _attempt(self, work: Callable[[], T]) -> T | DdpmError:
        """Do what may fail for one of several fakes, of which the others are then scored."""
        if self._alone:
            return work()
        result = distributed.attempt(work)
        if isinstance(result, DdpmError) and result.exit_code != DdpmError.exit_code:
            raise result  # an option's fault, or a request to stop
        return result

    @cached_property
    def _real_side(self) -> RealSide:
        checked = [c for c in self._checked.values() if isinstance(c, _Checked)]
        kept = [c.requested.keep_real for c in checked]
        keep = Keep(
            features=any(each.features for each in kept), spatial=any(each.spatial for each in kept)
        )
        collected = self._collected(self._real, keep, "real")
        return RealSide(collected, self._extractor)

    def _score(self, checked: _Checked, what: str) -> Report:
        fake, requested = checked.opened, checked.requested
        if fake is None:
            fake = checked.fake.open(self._reporter)
        together = not self._alone
        features = self._collected(fake, requested.keep_fake, what, together=together)
        report = distributed.broadcast_from_rank0(
            lambda: self._real_side.score(features, requested, self._reporter)
        )
        sampled = fake.sampled if isinstance(fake, GeneratedImages) else None
        return replace(report, sampled=sampled)

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
    one = Evaluation(real, [Fake("FAKE", lambda _: fake)], extractor, requested, reporter)
    (outcome,) = one.outcomes()
    assert isinstance(outcome.result, Report), "the error of a single fake is raised"
    return outcome.result, one.real_statistics


def evaluate_inputs(
    real: str | Path | NDArray[np.uint8],
    fake: str | Path | NDArray[np.uint8],
    settings: ExtractorSettings,
    *,
    metrics: Sequence[str] | None,
    device: str,
    reporter: Reporter,
) -> Report:
    """Score FAKE against REAL, each named as `open_input` takes it, in this process."""
    requested = RequestedMetrics.parse(None if metrics is None else ",".join(metrics))
    inputs = open_input(real, reporter=reporter), open_input(fake, reporter=reporter)
    known = all(isinstance(value, Statistics) for value in inputs)
    extractor = None if known else settings.load(choose_device(device), reporter)
    return evaluate(*inputs, extractor, requested, reporter)[0]


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
