"""Distances between all pairs of images' features, and the nearest of each: exact, in blocks.

Memory is constant in the number of images: about 160 MB at 2048 features, and
about 2 GB on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.runtime.devices import without_tf32
from ddpm_cli.core.runtime.reporting import Reporter

BLOCKS = {  # by device: queries and points whose distances are held at a time
    "cpu": (2048, 1024),
    "cuda": (32_768, 4096),  # that few queries for each reading of the points
}
PAIRS = 64  # whose differences are held at a time: they fit a cache, at 2048 features
CLOSE = {  # by type: of two squared norms, what products leave less than about 5 digits of
    torch.float32: 1e-2,
    torch.float64: 1e-9,
}


class Neighbours(NamedTuple):
    """The k nearest points of each of n queries, the nearest first."""

    squared: Tensor  # (n, k) squared distances, float32
    rows: Tensor  # (n, k) rows of the points, int64; of equally near points the lower row is first


def nearest(
    queries: FeatureStore,
    points: FeatureStore,
    k: int,
    reporter: Reporter,
    device: torch.device | None = None,
    *,
    itself: bool = False,
    what: str = "nearest neighbours",
) -> Neighbours:
    """Find the k nearest points of every query.

    With `itself` the queries are the points, and no row is its own neighbour; an equal image in
    another row is. what: for the progress bar. Raises ValueError where there are fewer than k
    points to be neighbours.
    """
    n = len(queries)
    if k > len(points) - itself:
        raise ValueError(f"{k} neighbours of {len(points) - itself} points")
    best = _Best(n, k, device or torch.device("cpu"))
    with reporter.bar(what, n, "images") as bar:
        for i, j, d in squared_distances(queries, points, device, itself=itself):
            best.update(i, j, d)
            if itself:  # what comes later is the other way round in no block
                later = slice(max(j.start, i.stop), max(j.stop, i.stop))
                best.update(later, i, d[:, later.start - j.start :].T)
            if j.stop == len(points):
                bar.update(n - (n - i.stop) ** 2 / n if itself else i.stop)
    return _exact(queries, points, best.rows())


class _Best:
    """The best so far of every query, as integers that sort by distance, then by row.

    A squared distance is not negative, so its bits sort as it does; they are the upper half.
    """

    def __init__(self, n: int, k: int, device: torch.device) -> None:
        infinity = torch.full((n, k), torch.inf, device=device)
        self._keys = _keys(infinity, torch.zeros(k, dtype=torch.int64, device=device))

    def update(self, queries: slice, points: slice, distances: Tensor) -> None:
        """Take distances (queries, points) into account; the points come in ascending order."""
        known = self._keys[queries]
        # of an equally near one the row is lower, as it came earlier
        better = (distances.amin(dim=1) < _squared(known[:, -1])).nonzero()[:, 0]
        if len(better):
            rows = torch.arange(points.start, points.stop, device=distances.device)
            candidates = torch.cat([known[better], _keys(distances[better], rows)], dim=1)
            known[better] = candidates.topk(known.shape[1], dim=1, largest=False).values

    def rows(self) -> Tensor:
        """The points of every query (n, k), in no order."""
        return self._keys.cpu() & 0xFFFF_FFFF


def _exact(queries: FeatureStore, points: FeatureStore, rows: Tensor) -> Neighbours:
    """Distances to these points (n, k) from differences in float64, and their order by them."""
    n, k = rows.shape
    squared = torch.empty(n, k)
    for start in range(0, n, PAIRS):
        x, chosen = queries.block(start, min(n, start + PAIRS)), rows[start : start + PAIRS]
        y = points.take(chosen.flatten().numpy()).reshape(len(x), k, -1)
        squared[start : start + PAIRS] = (x[:, None].double() - y).square_().sum(dim=2)
    keys = _keys(squared, rows).sort(dim=1).values
    return Neighbours(_squared(keys), keys & 0xFFFF_FFFF)


def _keys(squared: Tensor, rows: Tensor) -> Tensor:
    return (squared.contiguous().view(torch.int32).long() << 32) + rows


def _squared(keys: Tensor) -> Tensor:
    return (keys >> 32).int().view(torch.float32)


def squared_distances(
    queries: FeatureStore,
    points: FeatureStore,
    device: torch.device | None = None,
    *,
    itself: bool = False,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances of all pairs, block by block: (rows of queries, of points, distances).

    With `itself` the queries are the points: blocks of pairs that came before, the other way
    round, are left out, and the distance of an image to itself is infinite.
    """
    centre = points.block(0, 1).to(device)
    rows, columns = BLOCKS["cuda" if centre.is_cuda else "cpu"]
    for x in _blocks(queries, centre, rows):
        for y in _blocks(points, centre, columns, x.rows.start if itself else 0):
            with without_tf32():
                distances = _distances(x, y, centre, itself=itself)
            yield x.rows, y.rows, distances


class _Block(NamedTuple):
    """Rows of a store on the device, and what their products need: computed once."""

    rows: slice
    features: Tensor  # (n, d)
    centred: Tensor  # (n, d)
    norms: Tensor  # (n,) squared, of the centred features


def _blocks(store: FeatureStore, centre: Tensor, size: int, start: int = 0) -> Iterator[_Block]:
    for block in store.blocks(size, start=start):
        features = block.to(centre.device)
        centred = features - centre
        rows = slice(start, start + len(block))
        yield _Block(rows, features, centred, centred.square().sum(dim=1))
        start += len(block)


def _distances(x: _Block, y: _Block, centre: Tensor, *, itself: bool) -> Tensor:
    """Squared distances (n, m): products of float32 where these suffice.

    About the centre, an image: the nearer the images are to it, the more digits are kept, and of
    images that equal it all are. Rows with small distances are computed again in float64, which
    takes twice as long, and in these the smallest from differences.
    """
    distances, excess = _from_products(x.centred, y.centred, x.norms, y.norms)
    if itself:
        own = _own(x, y)
        distances[own] = excess[own] = torch.inf
    rows = (excess.amin(dim=1) < 0).nonzero()[:, 0]
    if len(rows):
        left, right = x.features[rows].double() - centre, y.features.double() - centre
        norms = (features.square().sum(dim=1) for features in (left, right))
        precise, excess = _from_products(left, right, *norms)
        for pairs in torch.split((excess < 0).nonzero(), PAIRS):
            i, j = pairs.unbind(dim=1)
            precise[i, j] = (left[i] - right[j]).square_().sum(dim=1)
        distances[rows] = precise.float()
        if itself:
            distances[own] = torch.inf
    return distances


def _from_products(x: Tensor, y: Tensor, x_norms: Tensor, y_norms: Tensor) -> tuple[Tensor, Tensor]:
    """|x|^2 + |y|^2 - 2 x.y (n, m), and by what it exceeds that which is rounding error at most."""
    norms = x_norms[:, None] + y_norms
    distances = torch.addmm(norms, x, y.T, alpha=-2)
    return distances, torch.sub(distances, norms, alpha=CLOSE[x.dtype])


def _own(x: _Block, y: _Block) -> tuple[Tensor, Tensor]:
    """Where x and y are the same row: indices of both."""
    start, stop = max(x.rows.start, y.rows.start), min(x.rows.stop, y.rows.stop)
    own = torch.arange(start, max(start, stop), device=x.features.device)
    return own - x.rows.start, own - y.rows.start
