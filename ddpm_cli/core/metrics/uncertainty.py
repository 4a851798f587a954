"""How far FID can be trusted: its spread over resamples, and its floor at this many pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore
from ddpm_cli.core.metrics.scores import Gaussian, frechet_distance, shuffled
from ddpm_cli.core.metrics.statistics import Moments
from ddpm_cli.core.runtime.reporting import Reporter, track

RESAMPLES = 10


def fid_spread(real: Gaussian, fake: FeatureStore, reporter: Reporter) -> float | None:
    """Standard error of FID from the choice of fakes, by the block jackknife; None below 4 fakes.

    The fakes, shuffled, are parted into 10 blocks, and FID is computed 10 times, each time without
    one block: sqrt(9/10 sum_b (FID_b - mean)^2) (Efron and Stein 1981). The real side stays fixed.
    Unlike a bootstrap it repeats no picture, which would raise FID, and each resample has nearly
    the full n, on which FID depends.
    """
    n = len(fake)
    if n < 4:
        return None
    blocks = np.array_split(shuffled(n), min(RESAMPLES, n))
    whole = moments(fake, np.arange(n))
    values = []
    for block in track(blocks, reporter, "FID without a part", len(blocks), "resamples"):
        rest = whole.without(moments(fake, block))
        values.append(real.distance(rest.mean, rest.covariance))
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.var(values) * count))


def fid_floor(real: FeatureStore, n: int) -> tuple[float, int]:
    """FID of real pictures against other real pictures: (value, pictures on each side).

    The sides are disjoint, chosen at random, of n pictures each, or of half of all where there are
    not 2 n. No generator can be expected to score less against as few.
    """
    n = min(n, len(real) // 2)
    order = shuffled(len(real))
    one, other = moments(real, order[:n]), moments(real, order[n : 2 * n])
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance), n


def moments(rows: FeatureStore, indices: NDArray[np.intp]) -> Moments:
    """Gather the moments of some rows."""
    gathered = Moments()
    for start in range(0, len(indices), BLOCK):
        gathered.update(rows.take(indices[start : start + BLOCK]))
    return gathered
