"""Precision and recall, density and coverage, by k-nearest-neighbour hyperspheres of features.

Precision falls when fakes resemble no real image, recall when real images have no fake that
resembles them: a collapsed generator has high precision and low recall.
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
MIN_IMAGES = K_DENSITY + 1  # in each input
MAX_IMAGES = 50_000  # as in Kynkaanniemi et al.: the work grows with the product of both counts


class Prdc(NamedTuple):
    """The four scores."""

    precision: float  # share of fakes inside the real manifold
    recall: float  # share of real images inside the fake manifold
    density: float  # real hyperspheres around a fake, over k; 1 for equal distributions, unbounded
    coverage: float  # share of real hyperspheres that contain a fake


def prdc(
    real: FeatureStore, fake: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> Prdc:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A hypersphere is centred at an image and reaches to its k-th nearest other image of the same
    input. Its surface counts for precision and recall and not for density and coverage, as in the
    papers' code. Memory is constant in the number of images; more than 50,000 of an input are
    subsampled to as many. Raises DdpmError for fewer than 6 images in an input.
    """
    if min(len(real), len(fake)) < MIN_IMAGES:
        raise DdpmError(f"precision and recall need at least {MIN_IMAGES} images in each input")
    real, fake = (store.subsample(MAX_IMAGES) for store in (real, fake))
    centre = next(real.blocks()).mean(dim=0).to(device)  # near 0, float32 keeps more digits
    real_radii, fake_radii = (_radii(store, centre, reporter) for store in (real, fake))
    inside_real = torch.zeros(len(fake), dtype=torch.bool)
    inside_fake, covered = (torch.zeros(len(real), dtype=torch.bool) for _ in range(2))
    hyperspheres = 0
    for j, x in _tracked(fake, centre, "precision and recall", reporter):
        for i, y in _blocks(real, centre):
            d = _squared_distances(x, y)  # (fakes, real images)
            inside_real[j] |= (d <= real_radii[i, 0].to(d.device)).any(dim=1).cpu()
            inside_fake[i] |= (d <= fake_radii[j, 0].to(d.device)[:, None]).any(dim=0).cpu()
            inside = d < real_radii[i, 1].to(d.device)
            hyperspheres += int(inside.sum())
            covered[i] |= inside.any(dim=0).cpu()
    return Prdc(
        precision=float(inside_real.double().mean()),
        recall=float(inside_fake.double().mean()),
        density=hyperspheres / (K_DENSITY * len(fake)),
        coverage=float(covered.double().mean()),
    )


def _radii(store: FeatureStore, centre: Tensor, reporter: Reporter) -> Tensor:
    """Squared distances (n, 2) to the 3rd and 5th nearest other image of the same input."""
    radii = []
    for _, x in _tracked(store, centre, "nearest neighbours", reporter):
        nearest = x.new_full((len(x), K_DENSITY + 1), torch.inf)  # the first is the image itself
        for _, y in _blocks(store, centre):
            candidates = torch.cat([nearest, _squared_distances(x, y)], dim=1)
            nearest = candidates.topk(K_DENSITY + 1, dim=1, largest=False).values
        radii.append(nearest[:, [K_MANIFOLD, K_DENSITY]].cpu())
    return torch.cat(radii)


def _tracked(
    store: FeatureStore, centre: Tensor, what: str, reporter: Reporter
) -> Iterator[tuple[slice, Tensor]]:
    with reporter.bar(what, len(store), "images") as bar:
        for rows, block in _blocks(store, centre):
            yield rows, block
            bar.update(rows.stop)


def _blocks(store: FeatureStore, centre: Tensor) -> Iterator[tuple[slice, Tensor]]:
    start = 0
    for block in store.blocks():
        yield slice(start, start + len(block)), block.to(centre.device) - centre
        start += len(block)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x|^2 - 2 x.y + |y|^2 as one product: separate sums would cost three times as long."""
    ones = x.new_ones(max(len(x), len(y)), 1)
    left = torch.cat([-2 * x, x.square().sum(dim=1, keepdim=True), ones[: len(x)]], dim=1)
    right = torch.cat([y, ones[: len(y)], y.square().sum(dim=1, keepdim=True)], dim=1)
    return (left @ right.T).clamp_(min=0)
