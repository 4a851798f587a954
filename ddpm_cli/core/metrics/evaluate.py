"""Judging from end to end: pictures -> features -> statistics -> a score with its protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.extraction import Extractor
from ddpm_cli.core.metrics.inception import Features
from ddpm_cli.core.metrics.pictures import Pictures
from ddpm_cli.core.metrics.scores import frechet_distance, inception_score
from ddpm_cli.core.metrics.statistics import Moments, Statistics
from ddpm_cli.core.runtime.reporting import Reporter

Side = Pictures | Statistics


@dataclass(frozen=True)
class FidResult:
    """A Frechet Inception distance and all that it depends on."""

    fid: float
    n_real: int | None  # None: the statistics file does not say
    n_fake: int | None
    protocol: str | None
    weights_sha256: str | None
    real: str  # what the pictures were: "png 32x32"
    fake: str

    def line(self) -> str:
        """The score and its protocol in one line."""
        counts = f"n_real={self.n_real or 'unknown'} n_fake={self.n_fake or 'unknown'}"
        pictures = f"real {self.real}, fake {self.fake}"
        return f"FID {self.fid:.4f}  [{_protocol_of(self)} | {counts} | {pictures}]"

    def document(self) -> dict[str, object]:
        """The same for --json."""
        return asdict(self)


@dataclass(frozen=True)
class InceptionScoreResult:
    """An Inception Score and all that it depends on."""

    mean: float
    std: float  # population deviation over the splits
    n: int
    splits: int
    protocol: str
    weights_sha256: str
    images: str

    def line(self) -> str:
        """The score and its protocol in one line."""
        how = f"n={self.n} splits={self.splits} shuffled"
        score = f"Inception Score {self.mean:.4f} +/- {self.std:.4f}"
        return f"{score}  [{_protocol_of(self)} | {how} | {self.images}]"

    def document(self) -> dict[str, object]:
        """The same for --json."""
        return asdict(self)


def judge_fid(
    real: Side, fake: Side, extractor: Extractor | None, reporter: Reporter
) -> tuple[FidResult, Statistics]:
    """Compute FID (Heusel et al. 2017), and the real side's statistics for use another time.

    The extractor may be None where both sides are statistics. Raises DdpmError for sides that hold
    fewer than 2 pictures or that cannot be compared.
    """
    for side in (real, fake):
        _check_enough(side, extractor)
    _check_comparable(real, fake, extractor, reporter)
    real_statistics, real_is = _statistics_of(real, extractor, "real", reporter)
    fake_statistics, fake_is = _statistics_of(fake, extractor, "fake", reporter)
    distance = frechet_distance(
        real_statistics.mean,
        real_statistics.covariance,
        fake_statistics.mean,
        fake_statistics.covariance,
    )
    result = FidResult(
        distance,
        real_statistics.n,
        fake_statistics.n,
        real_statistics.protocol or fake_statistics.protocol,
        real_statistics.weights_sha256 or fake_statistics.weights_sha256,
        real_is,
        fake_is,
    )
    _note_few(result, len(real_statistics.mean), reporter)
    return result, real_statistics


def judge_inception_score(
    images: Pictures, extractor: Extractor, splits: int, reporter: Reporter
) -> InceptionScoreResult:
    """Compute the Inception Score (Salimans et al. 2016) over splits of shuffled pictures.

    Raises DdpmError for fewer pictures than splits, before any network runs.
    """
    if len(images) < splits:
        raise DdpmError(
            f"{images.label} holds {len(images)} images, too few for {splits} splits; "
            "give more, or fewer --splits"
        )
    logits: list[torch.Tensor] = []
    _walk(images, extractor, lambda found: logits.append(found.logits.cpu()), "images", reporter)
    n = images.tally.count
    if n < splits:
        raise DdpmError(f"only {n} images of {images.label} are readable, for {splits} splits")
    mean, std = inception_score(torch.cat(logits).numpy(), splits)
    protocol, sha256 = extractor.protocol.name, extractor.weights_sha256
    return InceptionScoreResult(mean, std, n, splits, protocol, sha256, images.tally.summary())


def _statistics_of(
    side: Side, extractor: Extractor | None, what: str, reporter: Reporter
) -> tuple[Statistics, str]:
    if isinstance(side, Statistics):
        return side, "statistics"
    assert extractor is not None, "pictures need an extractor"
    moments = Moments()
    _walk(side, extractor, lambda found: moments.update(found.pool), what, reporter)
    if moments.count < 2:
        raise DdpmError(f"only {moments.count} images of {side.label} are readable; FID needs 2")
    name, sha256 = extractor.protocol.name, extractor.weights_sha256
    statistics = Statistics(moments.mean, moments.covariance, moments.count, name, sha256)
    return statistics, side.tally.summary()


def _walk(
    pictures: Pictures,
    extractor: Extractor,
    take: Callable[[Features], None],
    what: str,
    reporter: Reporter,
) -> None:
    done = 0
    with reporter.bar(f"{what} features", len(pictures), "images") as bar:
        for features in extractor.features(pictures):
            take(features)
            done += len(features.pool)
            bar.update(done)
    pictures.tally.report(reporter, pictures.label)


def _check_enough(side: Side, extractor: Extractor | None) -> None:
    """Find out now what would stop the score after an hour of features."""
    if isinstance(side, Statistics):
        if extractor is not None and len(side.mean) != extractor.network.width:
            here = extractor.network.width
            raise DdpmError(f"the statistics have {len(side.mean)} features, this network {here}")
    elif len(side) < 2:
        raise DdpmError(f"{side.label} holds 1 image; FID needs a covariance, so at least 2")


def _check_comparable(
    real: Side, fake: Side, extractor: Extractor | None, reporter: Reporter
) -> None:
    for one, other, what in zip(
        _origin(real, extractor), _origin(fake, extractor), ("--protocol", "--weights"), strict=True
    ):
        if one and other and one != other:
            raise DdpmError(
                f"not comparable: {what} of REAL is {one}, of FAKE {other}; make both with the same"
            )
    for side, name in ((real, "REAL"), (fake, "FAKE")):
        if isinstance(side, Statistics) and side.protocol is None:
            reporter.say(
                f"the statistics given as {name} do not say which protocol and weights made them; "
                "they must be the other side's"
            )


def _origin(side: Side, extractor: Extractor | None) -> tuple[str | None, str | None]:
    if isinstance(side, Statistics):
        return side.protocol, side.weights_sha256
    assert extractor is not None, "pictures need an extractor"
    return extractor.protocol.name, extractor.weights_sha256


def _note_few(result: FidResult, features: int, reporter: Reporter) -> None:
    for what, n in (("n_real", result.n_real), ("n_fake", result.n_fake)):
        if n is not None and n < features:
            reporter.say(
                f"{what}={n} is below {features}: the covariance is rank-deficient and FID is "
                "biased upward; compare it only with FID at the same n"
            )


def _protocol_of(result: FidResult | InceptionScoreResult) -> str:
    weights = f"{result.weights_sha256[:8]}…" if result.weights_sha256 else "unknown"
    return f"{result.protocol or 'unknown protocol'} | weights sha256:{weights}"
