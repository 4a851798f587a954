"""Precision, recall, density and coverage: which pictures lie among the other side's neighbours.

Precision falls when fakes look like no real picture, recall when real pictures have no fake like
them: a collapsed generator has high precision and low recall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.runtime.reporting import Reporter

K_MANIFOLD = 3  # neighbours, for precision and recall (Kynkaanniemi et al. 2019)
K_DENSITY = 5  # neighbours, for density and coverage (Naeem et al. 2020)
LEAST = K_DENSITY + 1  # pictures on a side
MOST = 50_000  # as in Kynkaanniemi et al.: the work grows with the product of both sides


class Neighbours(NamedTuple):
    """The four scores."""

    precision: float  # share of fakes inside the real manifold
    recall: float  # share of real pictures inside the fake manifold
    density: float  # real balls that a fake lies in, over k; 1 for equal distributions, no maximum
    coverage: float  # share of real balls that hold a fake


def neighbours(
    real: FeatureStore, fake: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> Neighbours:
    """Score fakes against real pictures, by balls to the k-th neighbour in feature space.

    A ball reaches from a picture to the k-th nearest other one of its side. Precision and recall
    count what lies on its surface, density and coverage do not, as in their papers' code. Memory
    does not grow with the number of pictures; of more than 50,000 on a side, so many are chosen at
    random. Raises DdpmError for fewer than 6 on a side.
    """
    if min(len(real), len(fake)) < LEAST:
        raise DdpmError(f"precision and recall need at least {LEAST} pictures on each side")
    real, fake = (side.some(MOST) for side in (real, fake))
    centre = next(real.blocks()).mean(dim=0).to(device)  # near 0, float32 keeps more digits
    real_radii, fake_radii = (_radii(side, centre, reporter) for side in (real, fake))
    inside_real = torch.zeros(len(fake), dtype=torch.bool)
    inside_fake, covered = (torch.zeros(len(real), dtype=torch.bool) for _ in range(2))
    balls = 0
    for j, x in _tracked(fake, centre, "precision and recall", reporter):
        for i, y in _blocks(real, centre):
            d = _squared_distances(x, y)  # (fakes, real pictures)
            inside_real[j] |= (d <= real_radii[i, 0].to(d.device)).any(dim=1).cpu()
            inside_fake[i] |= (d <= fake_radii[j, 0].to(d.device)[:, None]).any(dim=0).cpu()
            dense = d < real_radii[i, 1].to(d.device)
            balls += int(dense.sum())
            covered[i] |= dense.any(dim=0).cpu()
    return Neighbours(
        precision=float(inside_real.double().mean()),
        recall=float(inside_fake.double().mean()),
        density=balls / (K_DENSITY * len(fake)),
        coverage=float(covered.double().mean()),
    )


def _radii(side: FeatureStore, centre: Tensor, reporter: Reporter) -> Tensor:
    """Squared distances (n, 2) to the 3rd and 5th nearest other picture of the same side."""
    radii = []
    for _, x in _tracked(side, centre, "nearest neighbours", reporter):
        nearest = x.new_full((len(x), K_DENSITY + 1), torch.inf)  # itself is the first of them
        for _, y in _blocks(side, centre):
            both = torch.cat([nearest, _squared_distances(x, y)], dim=1)
            nearest = both.topk(K_DENSITY + 1, dim=1, largest=False).values
        radii.append(nearest[:, [K_MANIFOLD, K_DENSITY]].cpu())
    return torch.cat(radii)


def _tracked(
    side: FeatureStore, centre: Tensor, what: str, reporter: Reporter
) -> Iterator[tuple[slice, Tensor]]:
    with reporter.bar(what, len(side), "images") as bar:
        for part, block in _blocks(side, centre):
            yield part, block
            bar.update(part.stop)


def _blocks(side: FeatureStore, centre: Tensor) -> Iterator[tuple[slice, Tensor]]:
    start = 0
    for block in side.blocks():
        yield slice(start, start + len(block)), block.to(centre.device) - centre
        start += len(block)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x|^2 - 2 x.y + |y|^2 as one product: separate sums would cost three times as long."""
    ones = x.new_ones(max(len(x), len(y)), 1)
    left = torch.cat([-2 * x, x.square().sum(dim=1, keepdim=True), ones[: len(x)]], dim=1)
    right = torch.cat([y, ones[: len(y)], y.square().sum(dim=1, keepdim=True)], dim=1)
    return (left @ right.T).clamp_(min=0)
