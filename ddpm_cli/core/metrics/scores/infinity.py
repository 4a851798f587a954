"""FID of infinitely many fakes, by a line in 1/N (Chong and Forsyth 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.fid import fid_spread, moments
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.score import Label, digits
from ddpm_cli.core.metrics.statistics import Moments
from ddpm_cli.core.runtime.reporting import Reporter, track

POINTS = 15
LARGEST_FIRST = 5000  # images of the smallest subset, at most
MIN_IMAGES = 50  # so that the smallest subset has 5 images, and all 15 sizes differ
SEED = 2020


@dataclass(frozen=True)
class FidInfinity:
    """The line's value at 1/N = 0, and the points that it is fitted to."""

    value: float
    std: float  # of the fit and of the choice of fakes together
    fit_std: float  # standard error of the intercept, the fakes held fixed
    sizes: tuple[int, ...]
    fids: tuple[float, ...]
    feature_dim: int

    def line(self, label: Label) -> str:
        """The extrapolated distance with its error."""
        sizes = f"{len(self.sizes)} sizes from {self.sizes[0]} to {self.sizes[-1]}"
        value = f"{digits(self.value)} +/- {digits(self.std)}"
        return f"{label('FID')}-infinity {value} (a line in 1/N of {sizes})"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        return {
            "fid_infinity": self.value,
            "fid_infinity_std": self.std,
            "fid_infinity_fit_std": self.fit_std,
            "fid_infinity_sizes": list(self.sizes),
            "fid_infinity_fids": list(self.fids),
        }

    def notices(self, label: Label) -> list[str]:
        """That the line is fitted where FID is none."""
        name, first = label("FID"), self.sizes[0]
        if first >= self.feature_dim:
            return []
        return [
            f"{name}-infinity is fitted from {first} fakes on, and {name} of fewer than "
            f"{self.feature_dim} bends away from the line: from {10 * self.feature_dim:,} fakes on "
            "all points are on it"
        ]


def subset_sizes(n: int) -> NDArray[np.intp]:
    """15 sizes from a tenth of n, but at most 5000, to n, evenly spaced (as dgm-eval has them)."""
    first = min(LARGEST_FIRST, max(n // 10, 2))
    return np.linspace(first, n, POINTS).astype(np.intp)


def fid_infinity(
    real: Gaussian, fake: FeatureStore, reporter: Reporter, spread: float | None = None
) -> FidInfinity:
    """Fit a line in 1/N to FID of random subsets of N fakes; its value at 0, with its error.

    Each subset is drawn anew from all n fakes, without replacement; the real input stays fixed, so
    its own bias remains. The residuals know only of the choice of subsets from these n fakes, so
    the fit's error alone is too small: `spread`, the standard error of FID over the choice of fakes
    (None: computed here), is added in squares. Needs at least MIN_IMAGES fakes.
    """
    n = len(fake)
    total, everything = moments(fake, np.arange(n)), np.arange(n)
    rng, sizes, fids = np.random.RandomState(SEED), subset_sizes(n), []
    for size in track(sizes, reporter, "FID by the number of fakes", len(sizes), "sizes"):
        chosen = np.sort(rng.choice(n, size, replace=False))
        subset = _moments_of(fake, chosen, np.setdiff1d(everything, chosen), total)
        fids.append(real.distance(subset.mean, subset.covariance))
    (_, intercept), covariance = np.polyfit(1 / sizes, fids, 1, cov=True)
    if spread is None:
        spread = fid_spread(real, fake, reporter) or 0.0
    fit_std = float(np.sqrt(covariance[1, 1]))
    return FidInfinity(
        float(intercept),
        math.hypot(fit_std, spread),
        fit_std,
        tuple(map(int, sizes)),
        tuple(fids),
        fake.width,
    )


def _moments_of(
    store: FeatureStore, chosen: NDArray[np.intp], others: NDArray[np.intp], total: Moments
) -> Moments:
    """Moments of the rows chosen: from those of the fewer rows, which are the work."""
    if not len(others):
        return total
    if len(chosen) <= len(others):
        return moments(store, chosen)
    return total.without(moments(store, others))
