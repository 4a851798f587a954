"""ImageSet -> what the scores need of one input: statistics, and features where requested.

Each process takes its shard of the images; the results are merged on rank 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.choices import INCEPTION
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.images import ImageCounts, ImageSet
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.networks.inception import SPATIAL
from ddpm_cli.core.metrics.statistics import Moments, SpatialStatistics, Statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class InputFeatures:
    """Statistics, features and logits of one input (real or fake)."""

    statistics: Statistics
    features: FeatureStore | None = None  # in the order of the images
    logits: FeatureStore | None = None
    labels: NDArray[np.int64] | None = None  # as those of the ImageSet, in the order of features
    entry: Path | None = None  # in the cache, of images that are cached


@dataclass(frozen=True)
class Keep:
    """What to store for every image, besides the moments: 8 KB of features, 4 KB of logits."""

    features: bool = False
    logits: bool = False
    spatial: bool = False  # their moments alone, for sFID


def collect(
    images: ImageSet,
    extractor: Extractor,
    keep: Keep,
    what: str,
    reporter: Reporter,
    *,
    together: bool = False,
) -> InputFeatures:
    """Extract features in one pass over the images, on all ranks; rank 0 gets the whole result.

    together: where a rank fails, all raise its error, so that they can go on with other images; the
    images' batches must then be read without the other ranks. Raises DdpmError where fewer than 2
    images are readable.
    """
    extract = partial(_extract, images, extractor, keep, what, reporter)
    extracted = distributed.attempt(extract) if together else extract()
    if isinstance(extracted, DdpmError):
        raise extracted
    moments, spatial, features, logits = extracted
    counts = ImageCounts()
    for shard_counts in distributed.all_gather(images.counts):
        counts.merge(shard_counts)
    images.counts = counts
    counts.report(reporter, images.label, grey=extractor.protocol.channels == 1)
    if counts.count < 2:
        raise DdpmError(
            f"only {counts.count} images of {images.label} are readable; a score needs at least 2"
        )
    if counts.traits["grey"] == counts.count and not extractor.origin.local:
        trained = "Inception" if extractor.name == INCEPTION else extractor.name
        reporter.say(
            f"{images.label}: all images are grey, and {trained} was trained on colour "
            "photographs; train features on such images with ddpm train-classifier, for --features"
        )
    merged = moments.all_reduce(extractor.network.width)
    places = spatial.all_reduce(SPATIAL) if keep.spatial else None
    statistics = Statistics(
        merged.mean,
        merged.covariance,
        merged.count,
        extractor.origin,
        counts.summary(),
        None if places is None else SpatialStatistics(places.mean, places.covariance),
    )
    return InputFeatures(
        statistics,
        features.gather_to_rank0() if features is not None else None,
        logits.gather_to_rank0() if logits is not None else None,
        _labels(images),
    )


class _Extracted(NamedTuple):
    """What one rank has of its images."""

    moments: Moments
    spatial: Moments
    features: FeatureStore | None
    logits: FeatureStore | None


def _extract(
    images: ImageSet, extractor: Extractor, keep: Keep, what: str, reporter: Reporter
) -> _Extracted:
    """Extract the features of this rank's images."""
    moments, spatial = Moments(), Moments()
    features = FeatureStore(extractor.network.width) if keep.features else None
    classes = extractor.network.classes
    logits = FeatureStore(classes) if keep.logits and classes is not None else None
    shard = distributed.shard(len(images))
    with _progress(len(images), shard.stop - shard.start, what, reporter) as advance:
        for batch in extractor.features(images.batches(shard), spatial=keep.spatial):
            moments.update(batch.pool)
            if batch.spatial is not None:
                spatial.update(batch.spatial)
            if features is not None:
                features.append(batch.pool)
            if logits is not None and batch.logits is not None:
                logits.append(batch.logits)
            advance(len(batch.pool))
    return _Extracted(moments, spatial, features, logits)


def _labels(images: ImageSet) -> NDArray[np.int64] | None:
    """The labels of those images that were readable, the last time that all were read."""
    labels = images.labels
    return None if labels is None else np.delete(labels, images.counts.left_out, axis=0)


@contextmanager
def _progress(
    total: int, shard: int, what: str, reporter: Reporter
) -> Iterator[Callable[[int], None]]:
    """Count this rank's images; the bar extrapolates to all ranks, assuming equal speed."""
    done, started = 0, time.monotonic()
    with reporter.bar(f"{what} features", total, "images") as bar:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            estimate = total * done / max(shard, 1)
            seconds = max(time.monotonic() - started, 1e-9)
            bar.update(estimate, f"{estimate / seconds:,.1f} images/s")

        yield advance
