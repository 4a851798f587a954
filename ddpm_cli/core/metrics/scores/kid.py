"""Kernel Inception distance (Binkowski et al. 2018, "Demystifying MMD GANs")."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.runtime.reporting import Reporter, track

SUBSETS = 100
SUBSET_SIZE = 1000  # images, or all of the smaller input where it has fewer
SEED = 2020  # as in torch-fidelity, so that the subsets are the same


class Kid(NamedTuple):
    """Mean and population deviation over the subsets."""

    mean: float
    std: float
    size: int  # images in a subset

    def line(self, label: Label) -> str:
        """The distance with its deviation."""
        return f"{label('KID')} {self.mean:.6f} +/- {self.std:.6f} (subsets of {self.size})"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        return {"kid": self.mean, "kid_std": self.std, "kid_subset": self.size}


def kid(
    real: FeatureStore, fake: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> Kid:
    """KID: the unbiased squared MMD of 100 random subsets, with the kernel (x.y / d + 1)^3.

    It may be slightly negative where no difference is detected. Raises DdpmError below 2 images.
    """
    size = min(SUBSET_SIZE, len(real), len(fake))
    if size < 2:
        raise DdpmError(f"KID needs at least 2 images in each input, not {size}")
    if size == len(real) == len(fake):  # all subsets are the same
        every = np.arange(size)
        return Kid(squared_mmd(fake.take(every), real.take(every)), 0.0, size)
    rng = np.random.RandomState(SEED)
    values = []
    for _ in track(range(SUBSETS), reporter, "KID", SUBSETS, "subsets"):
        x, y = (store.take(rng.choice(len(store), size, replace=False)) for store in (fake, real))
        values.append(squared_mmd(x.to(device), y.to(device)))
    return Kid(float(np.mean(values)), float(np.std(values)), size)


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of MMD^2 (Gretton et al. 2012, eq. 3) of x (n, d) and y (m, d)."""
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within_x, within_y = xx.sum() - xx.trace(), yy.sum() - yy.trace()
    return float(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * xy.mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    # In float64: MMD is a small difference of means of cubes, which are large far from the origin.
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3
