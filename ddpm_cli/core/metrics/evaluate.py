"""Judging from end to end: pictures -> features -> statistics -> scores with their protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics import prdc as balls
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect, collect_cached
from ddpm_cli.core.metrics.extraction import Extractor
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.images import ImageSet
from ddpm_cli.core.metrics.inputs import ScoreInput
from ddpm_cli.core.metrics.kid import kid
from ddpm_cli.core.metrics.protocols import LOCAL
from ddpm_cli.core.metrics.report import InceptionScoreReport, Report
from ddpm_cli.core.metrics.scores import Gaussian, inception_score
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics
from ddpm_cli.core.metrics.uncertainty import fid_floor, fid_spread
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.reporting import Reporter

METRICS = ("fid", "kid", "prdc", "is")
SPLITS = 10  # of the Inception Score


@dataclass(frozen=True)
class RequestedMetrics:
    """Which scores are computed from the one pass."""

    metrics: frozenset[str] = frozenset({"fid", "kid", "prdc"})
    spread: bool = True  # of FID
    floor: bool = False
    cache: bool = True  # keep and find the real side's features

    @classmethod
    def parse(
        cls, metrics: str | None, real: ScoreInput, fake: ScoreInput, **settings: bool
    ) -> RequestedMetrics:
        """Read "fid,kid,prdc,is"; None: FID, and KID and PRDC where both sides are pictures."""
        pictures = [name for name, side in (("REAL", real), ("FAKE", fake)) if not _known(side)]
        if metrics is None:
            every = {"fid", "kid", "prdc"} if len(pictures) == 2 else {"fid"}
            return cls(frozenset(every), **settings)
        names = frozenset(name.strip() for name in metrics.split(",") if name.strip())
        if not names or names - set(METRICS):
            raise UsageError(f"--metrics {metrics}: choose from {','.join(METRICS)}")
        if names == {"is"}:
            raise UsageError("--metrics is needs no REAL: use ddpm inception-score FAKE")
        needs = {"kid": ("REAL", "FAKE"), "prdc": ("REAL", "FAKE"), "is": ("FAKE",), "fid": ()}
        for name in sorted(names):
            for side in needs[name]:
                if side not in pictures:
                    raise UsageError(
                        f"--metrics {name} needs the pictures of {side}, not their statistics"
                    )
        if settings.get("floor") and "fid" not in names:
            raise UsageError("--floor is of FID: leave fid among the --metrics")
        counts = [len(side) for side in (real, fake) if not isinstance(side, Statistics)]
        if "prdc" in names and min(counts) < balls.LEAST:
            raise DdpmError(f"--metrics prdc needs {balls.LEAST} pictures on each side")
        return cls(names, **settings)


def evaluate(
    real: ScoreInput,
    fake: ScoreInput,
    extractor: Extractor | None,
    wanted: RequestedMetrics,
    reporter: Reporter,
) -> tuple[Report, Statistics | None]:
    """Score FAKE against REAL in one pass; the real side's statistics for use another time.

    The extractor may be None where both sides are statistics. With several processes all take
    their share, the first one scores, and the statistics are there alone. Raises DdpmError for
    sides that hold fewer than 2 pictures or that cannot be compared, before any network runs.
    """
    for side, name in ((real, "REAL"), (fake, "FAKE")):
        _check_enough(side, name, extractor)
    if wanted.floor and _known(real):
        raise UsageError("--floor needs the pictures of REAL, not their statistics")
    _check_comparable(real, fake, extractor, reporter)
    both = bool(wanted.metrics & {"kid", "prdc"})
    keep_real = Keep(features=both or wanted.floor)
    spread = wanted.spread and "fid" in wanted.metrics
    keep_fake = Keep(features=both or spread, logits="is" in wanted.metrics)
    first = _gathered(real, extractor, keep_real, "real", reporter, cached=wanted.cache)
    second = _gathered(fake, extractor, keep_fake, "fake", reporter, cached=False)
    local = extractor is not None and extractor.protocol.local
    report = distributed.broadcast_from_rank0(
        lambda: _scored(first, second, extractor, wanted, reporter, local=local)
    )
    _note_few(report, len(first.statistics.mean), reporter)
    _note_unlike(report, reporter)
    return report, first.statistics if distributed.is_main() else None


def evaluate_inception_score(
    images: ImageSet, extractor: Extractor, splits: int, reporter: Reporter
) -> InceptionScoreReport:
    """Compute the Inception Score (Salimans et al. 2016) over splits of shuffled pictures.

    Raises DdpmError for fewer pictures than splits, before any network runs.
    """
    if len(images) < splits:
        raise DdpmError(
            f"{images.label} holds {len(images)} images, too few for {splits} splits; "
            "give more, or fewer --splits"
        )
    found = collect(images, extractor, Keep(logits=True), "images", reporter)
    n, logits = found.statistics.n or 0, found.logits
    if n < splits:
        raise DdpmError(f"only {n} images of {images.label} are readable, for {splits} splits")
    assert logits is not None
    mean, std = distributed.broadcast_from_rank0(lambda: _inception_score(logits, splits))
    return InceptionScoreReport(
        mean,
        std,
        n,
        splits,
        extractor.origin,
        extractor.protocol.local,
        found.statistics.images,
    )


def _gathered(
    side: ScoreInput,
    extractor: Extractor | None,
    keep: Keep,
    what: str,
    reporter: Reporter,
    *,
    cached: bool,
) -> InputFeatures:
    if isinstance(side, Statistics):
        return InputFeatures(side)
    assert extractor is not None, "pictures need an extractor"
    how = collect_cached if cached else collect
    return how(side, extractor, keep, what, reporter)


def _scored(
    real: InputFeatures,
    fake: InputFeatures,
    extractor: Extractor | None,
    wanted: RequestedMetrics,
    reporter: Reporter,
    *,
    local: bool,
) -> Report:
    """Compute what is wanted from what was gathered."""
    one, other = real.statistics, fake.statistics
    scores: dict[str, Any] = {}
    if "fid" in wanted.metrics:
        gaussian = Gaussian(one.mean, one.covariance)
        scores["fid"] = gaussian.distance(other.mean, other.covariance)
        if wanted.spread and fake.features is not None:
            scores["fid_std"] = fid_spread(gaussian, fake.features, reporter)
    if wanted.floor and real.features is not None:
        floor = fid_floor(real.features, other.n or len(real.features))
        scores["fid_floor"], scores["fid_floor_n"] = floor
    device = extractor.device if extractor else None
    if real.features is not None and fake.features is not None:
        if "kid" in wanted.metrics:
            found = kid(real.features, fake.features, reporter, device)
            scores |= {"kid": found.mean, "kid_std": found.std, "kid_subset": found.size}
        enough = min(len(real.features), len(fake.features)) >= balls.LEAST
        if "prdc" in wanted.metrics and (enough or len(wanted.metrics) == 1):
            scores |= balls.neighbours(real.features, fake.features, reporter, device)._asdict()
    if fake.logits is not None:
        splits = min(SPLITS, len(fake.logits))
        mean, std = _inception_score(fake.logits, splits)
        scores |= {"inception_score": mean, "inception_score_std": std, "splits": splits}
    origin = one.origin if one.origin.protocol else other.origin
    local = local or origin.protocol == LOCAL
    return Report(origin, local, one.n, other.n, one.images, other.images, **scores)


def _inception_score(logits: FeatureStore, splits: int) -> tuple[float, float]:
    return inception_score(lambda indices: logits.take(indices).numpy(), len(logits), splits)


def _known(side: ScoreInput) -> bool:
    return isinstance(side, Statistics)


def _check_enough(side: ScoreInput, name: str, extractor: Extractor | None) -> None:
    """Find out now what would stop the score after an hour of features."""
    if isinstance(side, Statistics):
        if extractor is not None and len(side.mean) != extractor.network.width:
            here = extractor.network.width
            raise DdpmError(
                f"the statistics given as {name} have {len(side.mean)} features, "
                f"this network {here}"
            )
    elif len(side) < 2:
        raise DdpmError(f"{side.label} holds 1 image; FID needs a covariance, so at least 2")


def _check_comparable(
    real: ScoreInput, fake: ScoreInput, extractor: Extractor | None, reporter: Reporter
) -> None:
    conflict = _origin(real, extractor).conflict(_origin(fake, extractor))
    if conflict:
        what, one, other = conflict
        raise DdpmError(
            f"not comparable: {what} of REAL is {one}, of FAKE {other}; make both with the same"
        )
    for side, name in ((real, "REAL"), (fake, "FAKE")):
        if isinstance(side, Statistics) and side.origin.protocol is None:
            reporter.say(
                f"the statistics given as {name} do not say which protocol and weights made them; "
                "they must be the other side's"
            )


def _origin(side: ScoreInput, extractor: Extractor | None) -> FeatureOrigin:
    if isinstance(side, Statistics):
        return side.origin
    assert extractor is not None, "pictures need an extractor"
    return extractor.origin


def _note_few(report: Report, features: int, reporter: Reporter) -> None:
    sides = (("n_real", report.n_real), ("n_fake", report.n_fake))
    few = [f"{what}={n}" for what, n in sides if n is not None and n < features]
    if report.fid is not None and few:
        reporter.say(
            f"{' and '.join(few)} {'is' if len(few) == 1 else 'are'} below {features}: the "
            "covariance is rank-deficient and FID is biased upward; compare it with FID at the "
            "same n alone" + ("" if report.kid is None else ", or look at KID, which is not")
        )


def _note_unlike(report: Report, reporter: Reporter) -> None:
    """Say what moves scores though it is no merit of the pictures."""
    sides = {"REAL": report.real, "FAKE": report.fake}
    kinds = {name: words.partition(" ")[0] for name, words in sides.items()}
    sizes = {name: words.partition(" ")[2] for name, words in sides.items()}
    lossy = [name for name, kind in kinds.items() if "jp" in kind]
    if "statistics" in kinds.values():
        return
    if len(lossy) == 1:
        reporter.say(f"only {lossy[0]} is JPEG, whose artefacts alone move the scores")
    if sizes["REAL"].split()[-1:] != sizes["FAKE"].split()[-1:]:
        reporter.say(
            f"REAL is {sizes['REAL']}, FAKE {sizes['FAKE']}: each picture is resized straight to "
            "the network's size"
        )
