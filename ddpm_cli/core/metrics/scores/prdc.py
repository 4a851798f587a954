"""Precision and recall, density and coverage, by k-nearest-neighbour hyperspheres of features.

Precision falls when fakes resemble no real image, recall when real images have no fake that
resembles them: a collapsed generator has high precision and low recall.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.neighbours import nearest, squared_distances
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.runtime.reporting import Reporter

K_MANIFOLD = 3  # neighbours, for precision and recall (Kynkaanniemi et al. 2019)
K_DENSITY = 5  # neighbours, for density and coverage (Naeem et al. 2020)
MIN_IMAGES = K_DENSITY + 1  # in each input
COPY = 1e-4  # of a squared radius: a fake that near to a real image is a copy of it
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


def squared_radii(
    store: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> Tensor:
    """Squared distances (n, 5) to the nearest other images, the nearest first.

    Of the images that are taken into account: at most 50,000.
    """
    images = store.subsample(MAX_IMAGES)
    return nearest(images, images, K_DENSITY, reporter, device, itself=True).squared


def prdc(
    real: FeatureStore,
    fake: FeatureStore,
    reporter: Reporter,
    device: torch.device | None = None,
    real_radii: Tensor | None = None,
) -> Prdc:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A hypersphere is centred at an image and reaches to its k-th nearest other image of the same
    input. Its surface counts for precision and recall and not for density and coverage, as in the
    papers' code. Memory is constant in the number of images; more than 50,000 of an input are
    subsampled to as many. real_radii: `squared_radii` of the real images, where they are known.
    Raises DdpmError for fewer than 6 images in an input.
    """
    if min(len(real), len(fake)) < MIN_IMAGES:
        raise DdpmError(f"precision and recall need at least {MIN_IMAGES} images in each input")
    if real_radii is None:
        real_radii = squared_radii(real, reporter, device)
    fake_radii = squared_radii(fake, reporter, device).to(device)
    real_radii = real_radii.to(device)
    real, fake = (store.subsample(MAX_IMAGES) for store in (real, fake))
    third, fifth = real_radii[:, K_MANIFOLD - 1], real_radii[:, K_DENSITY - 1]
    fake_third = fake_radii[:, K_MANIFOLD - 1, None]
    inside_real, copied = (_none(fake_radii) for _ in range(2))
    inside_fake, covered = (_none(real_radii) for _ in range(2))
    hyperspheres = 0
    with reporter.bar("precision and recall", len(fake), "images") as bar:
        for j, i, d in squared_distances(fake, real, device):  # (fakes, real images)
            # a difference's sign is exact, and its minimum faster than any() of a comparison
            inside_real[j] |= (d - third[i]).amin(dim=1) <= 0
            copied[j] |= (d - COPY * third[i]).amin(dim=1) <= 0
            inside_fake[i] |= (d - fake_third[j]).amin(dim=0) <= 0
            covered[i] |= (d - fifth[i]).amin(dim=0) < 0
            hyperspheres += int(torch.count_nonzero(d < fifth[i]))
            bar.update(j.start + (j.stop - j.start) * i.stop / len(real))
    return Prdc(
        precision=float(inside_real.double().mean()),
        recall=float(inside_fake.double().mean()),
        density=hyperspheres / (K_DENSITY * len(fake)),
        coverage=float(covered.double().mean()),
        copies=int(copied.sum()),
    )


def _none(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.bool, device=images.device)
