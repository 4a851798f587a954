"""Features of both inputs -> the fakes farthest from any real image, the reals far from any fake.

Distances count in radii: a real image's is the distance to its k-th nearest other real image, so
that images which lie far apart, as unusual ones do, do not take all places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.metrics.feature_store import FeatureStore, chosen
from ddpm_cli.core.metrics.scores.neighbours import nearest, squared_distances
from ddpm_cli.core.metrics.scores.prdc import K_DENSITY, K_MANIFOLD, MAX_IMAGES
from ddpm_cli.core.runtime.reporting import Reporter

NEIGHBOURS = 3  # shown beside each
_LEAST = 1e-3  # of the median radius: a radius at least, as that of equal images is 0


class Found(NamedTuple):
    """An image that is far from all of the other input, and the nearest of these."""

    row: int  # of its features
    radii: float  # how far it is from the other input, in radii
    neighbours: tuple[int, ...]  # rows, the nearest first
    distances: tuple[float, ...]  # to them, in feature space


class Worst(NamedTuple):
    """The images of both inputs that are far from the other one, the farthest first."""

    fakes: tuple[Found, ...]
    reals: tuple[Found, ...]  # that no fake covers
    uncovered: int  # real images that no fake covers, listed or not
    looked_at: tuple[int, int]  # images of REAL and of FAKE


def find_worst(
    real: FeatureStore,
    fake: FeatureStore,
    radii: Tensor,
    count: int,
    reporter: Reporter,
    device: torch.device | None = None,
) -> Worst:
    """Find at most `count` fakes and as many real images.

    A fake's distance is the least of those to real images, each in that image's radius (k = 3):
    1 / realism of Kynkaanniemi et al. 2019 (eq. 3), which leaves out the half of the real images
    with the larger radii. A real image's is that to the nearest fake in its own radius (k = 5):
    from 1 on no fake covers it, as in the score coverage, but for a fake that equals it, which
    always does. Of more than 50,000 images of an input as many are looked at. radii:
    `prdc.squared_radii` of the real images.
    """
    rows = [torch.from_numpy(chosen(len(store), MAX_IMAGES)) for store in (real, fake)]
    real, fake = (store.subsample(MAX_IMAGES) for store in (real, fake))
    third, fifth = (_at_least(radii[:, k - 1]).to(device) for k in (K_MANIFOLD, K_DENSITY))
    third = torch.where(third <= third.median(), third, torch.finfo(third.dtype).tiny)
    of_fakes, of_reals = (torch.full((len(s),), torch.inf, device=device) for s in (fake, real))
    with reporter.bar("the worst images", len(fake), "images") as bar:
        for j, i, d in squared_distances(fake, real, device):  # (fakes, real images)
            of_fakes[j] = torch.minimum(of_fakes[j], (d / third[i]).amin(dim=1))
            of_reals[i] = torch.minimum(of_reals[i], d.amin(dim=0))
            bar.update(j.stop)
    own = radii[:, K_DENSITY - 1].to(of_reals.device)
    # of equal real images the radius is 0, and the distance of equal fakes 0 but for rounding
    uncovered = (of_reals >= own) & (of_reals > _LEAST**2 * own.mean())
    of_reals = torch.where(uncovered, of_reals / fifth, -1)
    reals, fakes = _Side(real, rows[0]), _Side(fake, rows[1])
    return Worst(
        tuple(_first(count, of_fakes.cpu(), fakes, reals, reporter)),
        tuple(_first(count, of_reals.cpu(), reals, fakes, reporter)),
        int(uncovered.sum()),
        (len(real), len(fake)),
    )


def _at_least(squared: Tensor) -> Tensor:
    """Squared radii that may be divided by."""
    # 0 where most images equal others: then distances are themselves
    return squared.clamp(min=_LEAST**2 * float(squared.median()) or 1.0)


class _Side(NamedTuple):
    """The images of an input that are looked at."""

    features: FeatureStore
    rows: Tensor  # theirs among all


def _first(
    count: int, squared: Tensor, own: _Side, others: _Side, reporter: Reporter
) -> Iterator[Found]:
    """The images of the largest squared distances, none negative, with their nearest others."""
    order = squared.sort(descending=True, stable=True).indices[:count]
    order = order[squared[order] >= 0]
    queries = FeatureStore(own.features.width)
    queries.append(own.features.take(order.numpy()))
    k = min(NEIGHBOURS, len(others.features))
    near = nearest(queries, others.features, k, reporter)
    for row, rows, distances in zip(order, near.rows, near.squared.sqrt(), strict=True):
        yield Found(
            int(own.rows[row]),
            float(squared[row].sqrt()),
            tuple(others.rows[rows].tolist()),
            tuple(distances.tolist()),
        )
