"""Evaluation from end to end: images -> features -> statistics -> scores with their protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.choices import NEEDS_IMAGES
from ddpm_cli.core.config.fields import did_you_mean
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect, collect_cached
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, ScoreInput, open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import InceptionScoreReport, Report
from ddpm_cli.core.metrics.scores.fid import Fid, fid_floor, fid_spread
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.inception_score import SPLITS, score_logits
from ddpm_cli.core.metrics.scores.kid import kid
from ddpm_cli.core.metrics.scores.prdc import MIN_IMAGES, prdc
from ddpm_cli.core.metrics.scores.score import Score
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.devices import choose_device
from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class RequestedMetrics:
    """Which scores to compute from the one pass over the images."""

    metrics: frozenset[str] = frozenset({"fid", "kid", "prdc"})
    spread: bool = True  # the standard error of FID
    floor: bool = False  # FID of real images against other real images
    cache: bool = True  # read and write the real input's features in the cache

    @classmethod
    def parse(
        cls, metrics: str | None, real: ScoreInput, fake: ScoreInput, **settings: bool
    ) -> RequestedMetrics:
        """Read "fid,kid,prdc,is"; None: FID, and KID and PRDC where both inputs are images."""
        inputs = {"REAL": real, "FAKE": fake}
        image_inputs = [name for name, value in inputs.items() if not isinstance(value, Statistics)]
        if metrics is None:
            default = {"fid", "kid", "prdc"} if len(image_inputs) == 2 else {"fid"}
            return cls(frozenset(default), **settings)
        names = frozenset(name.strip() for name in metrics.split(",") if name.strip())
        if not names or names - set(NEEDS_IMAGES):
            unknown = next(iter(sorted(names - set(NEEDS_IMAGES))), "")
            raise UsageError(
                f"--metrics {metrics}: choose from {','.join(NEEDS_IMAGES)}"
                f"{did_you_mean(unknown, NEEDS_IMAGES)}"
            )
        if names == {"is"}:
            raise UsageError("--metrics is needs no REAL: use ddpm inception-score FAKE")
        for name in sorted(names):
            for required in NEEDS_IMAGES[name]:
                if required not in image_inputs:
                    raise UsageError(
                        f"--metrics {name} needs the images of {required}, not their statistics"
                    )
        if settings.get("floor") and "fid" not in names:
            raise UsageError("--floor is of FID: leave fid among the --metrics")
        counts = [len(value) for value in (real, fake) if not isinstance(value, Statistics)]
        if "prdc" in names and min(counts) < MIN_IMAGES:
            raise DdpmError(f"--metrics prdc needs {MIN_IMAGES} images in each input")
        return cls(names, **settings)


def evaluate(
    real: ScoreInput,
    fake: ScoreInput,
    extractor: Extractor | None,
    requested: RequestedMetrics,
    reporter: Reporter,
) -> tuple[Report, Statistics | None]:
    """Score FAKE against REAL in one pass; also returns the real input's statistics, for reuse.

    The extractor may be None where both inputs are statistics. With several processes each extracts
    its shard and rank 0 scores; only there are the statistics returned. Raises DdpmError for inputs
    of fewer than 2 images or that are not comparable, before any network runs.
    """
    for value, name in ((real, "REAL"), (fake, "FAKE")):
        _check_enough(value, name, extractor)
    if requested.floor:
        if isinstance(real, Statistics):
            raise UsageError("--floor needs the images of REAL, not their statistics")
        if len(real) < 4:
            raise DdpmError(f"--floor needs at least 4 images in REAL, which holds {len(real)}")
    _check_comparable(real, fake, extractor)
    both = any("REAL" in NEEDS_IMAGES[name] for name in requested.metrics)
    keep_real = Keep(features=both or requested.floor)
    spread = requested.spread and "fid" in requested.metrics
    keep_fake = Keep(features=both or spread, logits="is" in requested.metrics)
    reals = _collected(real, extractor, keep_real, "real", reporter, cached=requested.cache)
    fakes = _collected(fake, extractor, keep_fake, "fake", reporter, cached=False)
    report = distributed.broadcast_from_rank0(
        lambda: _scored(reals, fakes, extractor, requested, reporter)
    )
    if isinstance(fake, GeneratedImages):
        report = replace(report, sampled=fake.sampled)
    return report, reals.statistics if distributed.is_main() else None


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
    inputs = open_input(real, reporter=reporter), open_input(fake, reporter=reporter)
    names = None if metrics is None else ",".join(metrics)
    requested = RequestedMetrics.parse(names, *inputs)
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
            f"{images.label} holds {_counted(len(images))}, too few for {splits} splits: a split "
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


def _collected(
    score_input: ScoreInput,
    extractor: Extractor | None,
    keep: Keep,
    what: str,
    reporter: Reporter,
    *,
    cached: bool,
) -> InputFeatures:
    if isinstance(score_input, Statistics):
        return InputFeatures(score_input)
    assert extractor is not None, "images need an extractor"
    function = collect_cached if cached else collect
    return function(score_input, extractor, keep, what, reporter)


def _scored(
    real: InputFeatures,
    fake: InputFeatures,
    extractor: Extractor | None,
    requested: RequestedMetrics,
    reporter: Reporter,
) -> Report:
    """Compute the requested scores from the collected features."""
    reals, fakes = real.statistics, fake.statistics
    device = extractor.device if extractor and extractor.device.type != "mps" else None
    scores: list[Score] = []
    if "fid" in requested.metrics:
        scores.append(_fid(real, fake, requested, reporter))
    if real.features is not None and fake.features is not None:
        if "kid" in requested.metrics:
            scores.append(kid(real.features, fake.features, reporter, device))
        enough = min(len(real.features), len(fake.features)) >= MIN_IMAGES
        if "prdc" in requested.metrics and (enough or len(requested.metrics) == 1):
            scores.append(prdc(real.features, fake.features, reporter, device))
        elif "prdc" in requested.metrics:
            reporter.say(f"precision and recall need {MIN_IMAGES} images in each input: left out")
    if fake.logits is not None:
        splits = min(SPLITS, len(fake.logits) // 2)
        scores.append(score_logits(fake.logits, splits, reporter))
    named = (("REAL", reals), ("FAKE", fakes))
    return Report(
        reals.origin if reals.origin.protocol else fakes.origin,
        reals.n,
        fakes.n,
        reals.images,
        fakes.images,
        tuple(scores),
        feature_dim=len(reals.mean),
        unknown_origin=tuple(name for name, value in named if value.origin.protocol is None),
    )


def _fid(
    real: InputFeatures, fake: InputFeatures, requested: RequestedMetrics, reporter: Reporter
) -> Fid:
    gaussian = Gaussian(real.statistics.mean, real.statistics.covariance)
    value = gaussian.distance(fake.statistics.mean, fake.statistics.covariance)
    std = floor = n = None
    if requested.spread and fake.features is not None:
        std = fid_spread(gaussian, fake.features, reporter)
    if requested.floor and real.features is not None:
        floor, n = fid_floor(real.features, fake.statistics.n or len(real.features))
    return Fid(value, std, floor, n)


def _check_enough(score_input: ScoreInput, name: str, extractor: Extractor | None) -> None:
    """Raise now what would stop the score after hours of feature extraction."""
    if isinstance(score_input, Statistics):
        if extractor is not None and len(score_input.mean) != extractor.network.width:
            raise DdpmError(
                f"the statistics given as {name} have {len(score_input.mean)} features, "
                f"this network {extractor.network.width}"
            )
    elif len(score_input) < 2:
        count = _counted(len(score_input))
        raise DdpmError(f"{score_input.label} holds {count}; FID needs a covariance, so at least 2")


def _counted(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"


def _check_comparable(real: ScoreInput, fake: ScoreInput, extractor: Extractor | None) -> None:
    conflict = _origin(real, extractor).conflict(_origin(fake, extractor))
    if conflict:
        option, of_real, of_fake = conflict
        raise DdpmError(
            f"not comparable: {option} of REAL is {of_real}, of FAKE {of_fake}; "
            "make both with the same"
        )


def _origin(score_input: ScoreInput, extractor: Extractor | None) -> FeatureOrigin:
    if isinstance(score_input, Statistics):
        return score_input.origin
    assert extractor is not None, "images need an extractor"
    return extractor.origin
