"""Statistics of distances to training images, of fakes against held-out images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ddpm_cli.core.errors import DdpmError

CONFIDENCE = 0.99  # a model is not said to copy by chance: 1 in 200 times at most
COUNTS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)  # of images

Distances = NDArray[np.float64]
"""(n,), of each image to its nearest training image."""


class Share(NamedTuple):
    """A share between 0 and 1 with its 99 % confidence interval."""

    value: float
    low: float
    high: float


def share(count: int, n: int) -> Share:
    """A share of n images with its Clopper-Pearson interval, which is exact."""
    tail = (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, count, n - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, n - count) if count < n else 1.0
    return Share(count / n, float(low), float(high))


def excess(fakes: Share, held_out: Share) -> Share:
    """The share of fakes beyond that of new images, (p - q) / (1 - q), from 0 to 1.

    p is what a model has that copies a share of its images and makes the others as new as held-out
    ones. The interval is that of a difference of two independent shares from the limits of both
    (Newcombe 1998, method 10, with Clopper-Pearson limits, so that it is no shorter).
    """
    p, q = fakes.value, held_out.value
    if q == 1:
        return Share(0.0, 0.0, 1.0)
    difference = p - q
    low = difference - math.hypot(p - fakes.low, held_out.high - q)
    high = difference + math.hypot(fakes.high - p, q - held_out.low)
    value, low, high = (min(1.0, max(0.0, limit / (1 - q))) for limit in (difference, low, high))
    return Share(value, low, high)


def images_needed(rate: float, width: float) -> int:
    """Fakes, and as many held-out images, that tell a copied share to `width` above 0.

    rate: the share of held-out images that look like copies.
    """
    for n in COUNTS:
        found = share(round(rate * n), n)
        if excess(found, found).high <= width:
            return n
    return COUNTS[-1]


def auth_pct(nearest: Distances, own: Distances) -> float:
    """AuthPct (Alaa et al. 2022, "How faithful is your synthetic data?", section 3.3), 0 to 100.

    The percentage of images that are farther from their nearest training image than that one is
    from its own nearest other training image. As dgm-eval's; for new images about 50.

    Args:
        nearest: Distance of each image to its nearest training image, (n,).
        own: That training image's distance to its nearest other training image, (n,).
    """
    return 100 * float(np.mean(nearest > own))


def c_t(fakes: Distances, held_out: Distances) -> float:
    """C_T (Meehan et al. 2020, "A non-parametric test to detect data-copying", eq. 1), of one cell.

    The Mann-Whitney U of the fakes' distances to the training images against the held-out images',
    less its mean mn/2, in its standard deviations sqrt(mn (m + n + 1) / 12). Below 0 fakes are
    nearer; below -3 hardly by chance. Raises DdpmError for no distances.
    """
    m, n = len(fakes), len(held_out)
    if not (m and n):
        raise DdpmError("C_T needs fakes and held-out images")
    u = float(stats.mannwhitneyu(fakes, held_out, method="asymptotic").statistic)
    return (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
