"""The Monge inception distance (Berthet et al. 2026, "MIND", arXiv:2605.06797)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore
from ddpm_cli.core.metrics.scores.score import Label, digits
from ddpm_cli.core.runtime.reporting import Reporter

PROJECTIONS = 1000
SEED = 2020  # as in torch-fidelity, so that subsets and directions are the same
_VALUES = 2**24  # projected at a time: 128 MiB


class Mind(NamedTuple):
    """The distance, and how many images of each side it compares."""

    value: float
    n: int

    def line(self, label: Label) -> str:
        """The distance with the number of images that it depends on."""
        return f"{label('MIND')} {digits(self.value)} (of {self.n} images a side)"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        return {"mind": self.value, "mind_n": self.n}


def mind(
    real: FeatureStore, fake: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> Mind:
    """MIND: 3 d times the mean squared Wasserstein-2 distance of 1000 random projections.

    3 d / (n M) sum_i sum_j (sort(X u_i)_j - sort(Y u_i)_j)^2 of features X and Y (n, d) and
    directions u_i, uniform on the sphere (sections 3 and 4 of the paper). Of the larger side a
    random subset is taken. It is biased upward as 1/n. Raises DdpmError below 2 images.
    """
    n = min(len(real), len(fake))
    if n < 2:
        raise DdpmError(f"MIND needs at least 2 images in each input, not {n}")
    generator = torch.Generator().manual_seed(SEED)
    chosen = [
        torch.randperm(len(store), generator=generator)[:n] if len(store) > n else torch.arange(n)
        for store in (fake, real)
    ]
    directions = torch.randn(PROJECTIONS, real.width, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    total, columns = 0.0, max(1, _VALUES // n)
    with reporter.bar("MIND", PROJECTIONS, "projections") as bar:
        for start in range(0, PROJECTIONS, columns):
            part = directions[start : start + columns].to(device, torch.float64)
            x, y = (
                _projected(store, rows, part)
                for store, rows in zip((fake, real), chosen, strict=True)
            )
            total += float((x - y).square().mean(dim=0).sum())
            bar.update(start + len(part))
    return Mind(3 * real.width * total / PROJECTIONS, n)


def _projected(store: FeatureStore, rows: Tensor, directions: Tensor) -> Tensor:
    """Sorted projections (n, M) of rows on directions (M, d), float64."""
    result = directions.new_empty(len(rows), len(directions))
    for start in range(0, len(rows), BLOCK):
        block = store.take(rows[start : start + BLOCK].numpy()).to(directions)
        result[start : start + len(block)] = block @ directions.T
    return result.sort(dim=0).values
