"""FID: the Frechet distance of two inputs' features, with its standard error and its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore, shuffled
from ddpm_cli.core.metrics.scores.frechet import Gaussian, frechet_distance
from ddpm_cli.core.metrics.scores.score import Label, digits
from ddpm_cli.core.metrics.statistics import Moments
from ddpm_cli.core.runtime.reporting import Reporter, track

RESAMPLES = 10


@dataclass(frozen=True)
class Fid:
    """FID (Heusel et al. 2017). None: not requested."""

    value: float
    std: float | None = None  # block jackknife over the fakes
    floor: float | None = None  # real against other real, of floor_n images each
    floor_n: int | None = None
    resamples: tuple[float, ...] = ()  # FID without a block of the fakes each

    def line(self, label: Label) -> str:
        """The distance with its standard error and its floor."""
        spread = "" if self.std is None else f" +/- {digits(self.std)}"
        floor = ""
        if self.floor is not None:
            floor = f" (real against real at n={self.floor_n}: {digits(self.floor)})"
        return f"{label('FID')} {digits(self.value)}{spread}{floor}"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        floor = {"fid_floor": self.floor, "fid_floor_n": self.floor_n}
        return {"fid": self.value, "fid_std": self.std, **floor}


def fid_spread(real: Gaussian, fake: FeatureStore, reporter: Reporter) -> float | None:
    """Standard error of FID over the sampling of fakes; None below 4 of them."""
    return standard_error(fid_resamples(real, fake, reporter))


def standard_error(resamples: Sequence[float]) -> float | None:
    """That of `fid_resamples`: sqrt(9/10 sum_b (FID_b - mean)^2) (Efron and Stein 1981).

    Of the differences of two inputs' resamples it is that of their difference, where the blocks are
    of the same images, or seeds. None without any.
    """
    count = len(resamples)
    return float(np.sqrt((count - 1) / count * np.var(resamples) * count)) if count else None


def fid_resamples(real: Gaussian, fake: FeatureStore, reporter: Reporter) -> tuple[float, ...]:
    """FID without each block of the fakes, for the block jackknife; none below 4 fakes.

    The shuffled fakes are split into 10 blocks, always the same of as many images, and FID is
    computed 10 times, each time without one block. The real input stays fixed. Unlike a bootstrap
    it repeats no image, which would raise FID, and each resample has nearly the full n, on which
    FID depends.
    """
    n = len(fake)
    if n < 4:
        return ()
    blocks = np.array_split(shuffled(n), min(RESAMPLES, n))
    total = moments(fake, np.arange(n))
    values = []
    for block in track(blocks, reporter, "FID without a block", len(blocks), "resamples"):
        rest = total.without(moments(fake, block))
        values.append(real.distance(rest.mean, rest.covariance))
    return tuple(values)


def fid_floor(real: FeatureStore, n: int) -> tuple[float, int]:
    """FID of real images against other real images: (FID, images in each subset).

    The subsets are disjoint and random, of n images each, or of half of all where there are fewer
    than 2 n. A generator cannot be expected to score less against n real images; against more of
    them the bias is smaller, so it may.
    """
    n = min(n, len(real) // 2)
    order = shuffled(len(real))
    a, b = moments(real, order[:n]), moments(real, order[n : 2 * n])
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance), n


def moments(store: FeatureStore, indices: NDArray[np.intp]) -> Moments:
    """Moments of the rows at these indices."""
    result = Moments()
    for start in range(0, len(indices), BLOCK):
        result.update(store.take(indices[start : start + BLOCK]))
    return result
