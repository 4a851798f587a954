"""ImageSet -> what scores need of one side: statistics, and features where they are asked for.

All processes take their share of the pictures; what they found is joined in the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.extraction import Extractor
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.images import ImageSet, Tally
from ddpm_cli.core.metrics.statistics import Moments, Statistics, read_statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.reporting import Reporter

_LAYOUT = "1"  # of the cache's entries


@dataclass(frozen=True)
class InputFeatures:
    """One side, ready to be scored."""

    statistics: Statistics
    features: FeatureStore | None = None  # in the pictures' order
    logits: FeatureStore | None = None


@dataclass(frozen=True)
class Keep:
    """What to keep of every picture, beside the moments: 8 KB of features, 4 KB of logits."""

    features: bool = False
    logits: bool = False


def collect(
    pictures: ImageSet, extractor: Extractor, keep: Keep, what: str, reporter: Reporter
) -> InputFeatures:
    """Walk through the pictures once, with all processes. The result is whole in the first one.

    Raises DdpmError where fewer than 2 pictures can be read.
    """
    moments = Moments()
    features = FeatureStore(extractor.network.width) if keep.features else None
    logits = FeatureStore(extractor.network.classes) if keep.logits else None
    part = distributed.shard(len(pictures))
    with _counting(len(pictures), part.stop - part.start, what, reporter) as count:
        for found in extractor.features(pictures.walk(part)):
            moments.update(found.pool)
            if features is not None:
                features.append(found.pool)
            if logits is not None:
                logits.append(found.logits)
            count(len(found.pool))
    tally = Tally()
    for one in distributed.all_gather(pictures.tally):
        tally.merge(one)
    pictures.tally = tally
    tally.report(reporter, pictures.label, grey=extractor.protocol.channels == 1)
    if tally.count < 2:
        raise DdpmError(
            f"only {tally.count} images of {pictures.label} are readable; a score needs at least 2"
        )
    if tally.traits["grey"] == tally.count and not extractor.protocol.local:
        reporter.say(
            f"{pictures.label}: all pictures are grey, and Inception knows photographs in colour; "
            "train features on such pictures with ddpm train-classifier, for --features"
        )
    whole = moments.across(extractor.network.width)
    statistics = Statistics(
        whole.mean, whole.covariance, whole.count, extractor.origin, tally.summary()
    )
    return InputFeatures(
        statistics,
        features.collected() if features is not None else None,
        logits.collected() if logits is not None else None,
    )


def collect_cached(
    pictures: ImageSet, extractor: Extractor, keep: Keep, what: str, reporter: Reporter
) -> InputFeatures:
    """Gather the moments and features of a side, or find them where an earlier call left them.

    The cache knows pictures by their bytes, and the network by its file, protocol and precision.
    Sides with unreadable files are not kept: mended, they would be another side.
    """
    place = distributed.broadcast_from_rank0(lambda: _place(pictures, extractor))
    if place is None or keep.logits:
        return collect(pictures, extractor, keep, what, reporter)
    files = place / "statistics.npz", place / "features.f32"
    wanted = files if keep.features else files[:1]
    if distributed.broadcast_from_rank0(lambda: all(file.is_file() for file in wanted)):
        reporter.say(f"{what}: {pictures.label} is in the cache ({place})")
        statistics = distributed.broadcast_from_rank0(lambda: read_statistics(files[0]))
        opened = keep.features and distributed.is_main()
        return InputFeatures(
            statistics, FeatureStore.open(files[1], extractor.network.width) if opened else None
        )
    found = collect(pictures, extractor, keep, what, reporter)
    if distributed.is_main() and not pictures.tally.unreadable:
        try:
            if found.features is not None:
                found.features.save(files[1])
            found.statistics.write(files[0])
        except DdpmError as error:
            reporter.say(f"not kept for the next call: {error}")
    return found


def _place(pictures: ImageSet, extractor: Extractor) -> Path | None:
    content = pictures.content()
    if content is None:
        return None
    origin = extractor.origin
    parts = (_LAYOUT, content, origin.protocol, origin.weights_sha256, origin.arithmetic)
    return cache_root() / "features" / sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


@contextmanager
def _counting(
    total: int, mine: int, what: str, reporter: Reporter
) -> Iterator[Callable[[int], None]]:
    """Count this process's pictures; the bar shows all, as if the others were as far."""
    done, started = 0, time.monotonic()
    with reporter.bar(f"{what} features", total, "images") as bar:

        def count(more: int) -> None:
            nonlocal done
            done += more
            whole = total * done / max(mine, 1)
            seconds = max(time.monotonic() - started, 1e-9)
            bar.update(whole, f"{whole / seconds:,.1f} images/s")

        yield count
