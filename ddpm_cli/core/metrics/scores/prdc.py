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
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.runtime.reporting import Reporter

K_MANIFOLD = 3  # neighbours, for precision and recall (Kynkaanniemi et al. 2019)
K_DENSITY = 5  # neighbours, for density and coverage (Naeem et al. 2020)
MIN_IMAGES = K_DENSITY + 1  # in each input
COPY = 1e-4  # of a squared radius: a fake that near to a real image is a copy of it
PAIRS = 64  # whose differences are held at a time: they fit a cache, at 2048 features
CLOSE = {  # by type: of two squared norms, what products leave less than about 5 digits of
    torch.float32: 1e-2,
    torch.float64: 1e-9,
}
MAX_IMAGES = 50_000  # as in Kynkaanniemi et al.: the work grows with the product of both counts


class Prdc(NamedTuple):
    """The four scores, and how many fakes are copies."""

    precision: float  # share of fakes inside the real manifold
    recall: float  # share of real images inside the fake manifold
    density: float  # real hyperspheres around a fake, over k; 1 for equal distributions, unbounded
    coverage: float  # share of real hyperspheres that contain a fake
    copies: int  # fakes 100 times nearer to a real image than its 3rd neighbour, or equal to it

    def line(self, label: Label) -> str:
        """The four scores."""
        names = ("precision", "recall", "density", "coverage")
        return label(", ".join(f"{name} {getattr(self, name):.4f}" for name in names))

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        return self._asdict()


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
    real_radii, fake_radii = (_radii(store, reporter, device) for store in (real, fake))
    inside_real, copied = (torch.zeros(len(fake), dtype=torch.bool) for _ in range(2))
    inside_fake, covered = (torch.zeros(len(real), dtype=torch.bool) for _ in range(2))
    hyperspheres = 0
    centre = real.block(0, 1).to(device)
    with reporter.bar("precision and recall", len(fake), "images") as bar:
        for j, x in _blocks(fake, device):
            for i, y in _blocks(real, device):
                d = _squared_distances(x, y, centre)  # (fakes, real images)
                inside_real[j] |= (d <= real_radii[i, 0].to(d.device)).any(dim=1).cpu()
                copied[j] |= (d <= COPY * real_radii[i, 0].to(d.device)).any(dim=1).cpu()
                inside_fake[i] |= (d <= fake_radii[j, 0].to(d.device)[:, None]).any(dim=0).cpu()
                inside = d < real_radii[i, 1].to(d.device)
                hyperspheres += int(inside.sum())
                covered[i] |= inside.any(dim=0).cpu()
            bar.update(j.stop)
    return Prdc(
        precision=float(inside_real.double().mean()),
        recall=float(inside_fake.double().mean()),
        density=hyperspheres / (K_DENSITY * len(fake)),
        coverage=float(covered.double().mean()),
        copies=int(copied.sum()),
    )


def _radii(store: FeatureStore, reporter: Reporter, device: torch.device | None) -> Tensor:
    """Squared distances (n, 2) to the 3rd and 5th nearest other image of the same input."""
    n, centre = len(store), store.block(0, 1).to(device)
    nearest = torch.full((n, K_DENSITY + 1), torch.inf, device=device)  # the first is the image
    with reporter.bar("nearest neighbours", n, "images") as bar:
        for i, x in _blocks(store, device):
            for j, y in _blocks(store, device, i.start):
                d = _squared_distances(x, y, centre)
                nearest[i] = _nearest(nearest[i], d)
                if i != j:
                    nearest[j] = _nearest(nearest[j], d.T)
            bar.update(n - (n - i.stop) ** 2 / n)  # of all pairs, each computed once
    return nearest[:, [K_MANIFOLD, K_DENSITY]].cpu()


def _nearest(known: Tensor, distances: Tensor) -> Tensor:
    """The smallest of the known (n, k) and of further squared distances (n, m)."""
    candidates = torch.cat([known, distances], dim=1)
    return candidates.topk(known.shape[1], dim=1, largest=False).values


def _blocks(
    store: FeatureStore, device: torch.device | None, start: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    for block in store.blocks(start=start):
        yield slice(start, start + len(block)), block.to(device)
        start += len(block)


def _squared_distances(x: Tensor, y: Tensor, centre: Tensor) -> Tensor:
    """Squared distances (n, m) of x (n, d) and y (m, d): products of float32 where these suffice.

    About the centre, an image: the nearer the images are to it, the more digits are kept, and of
    images that equal it all are. Rows with small distances are computed again in float64, which
    takes twice as long, and in these the smallest from differences.
    """
    distances, close = _from_products(x - centre, y - centre)
    rows = close.any(dim=1).nonzero()[:, 0]
    if len(rows):
        left, right = x[rows].double() - centre, y.double() - centre
        precise, close = _from_products(left, right)
        for pairs in torch.split(close.nonzero(), PAIRS):
            i, j = pairs.unbind(dim=1)
            precise[i, j] = (left[i] - right[j]).square_().sum(dim=1)
        distances[rows] = precise.float()
    return distances


def _from_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """|x|^2 + |y|^2 - 2 x.y (n, m), and where its rounding errors are not small against it."""
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    distances = torch.addmm(norms, x, y.T, alpha=-2)
    return distances, distances < CLOSE[x.dtype] * norms
