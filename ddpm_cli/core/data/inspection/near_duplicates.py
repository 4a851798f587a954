"""Images that show the same picture: equal files, and copies re-encoded or resized.

A 64-bit perceptual hash (the signs of the lowest frequencies of the grey image, Zauner 2010) finds
candidates without comparing all pairs; a small colour thumbnail then decides: copies differ less
than different images of the same set do, which is little for handwriting and much for photos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform

EXAMINED = Transform(3, (32, 32), fit="stretch")  # what `Print.of` takes
_FREQUENCIES, _POOL = 8, 2  # kept a side; side of the blocks that a thumbnail's pixels average
_DISTANCE = 8  # bits of the hash in which two copies differ at most
_NEIGHBOURS = 256  # images compared with, at most, among those that share a part of the hash
_CHUNK = 8192  # pairs whose thumbnails are compared at a time
_ABSOLUTE = 2.0  # grey levels in which two copies differ at most, besides a share of the contrast
_LEAST, _MOST = 0.12, 0.25  # that share: what JPEG and resizing do; crops by a pixel
_OF_NEIGHBOURS = 0.5  # the share, of the difference between an image and the one that is nearest
_SAMPLED, _AMONG = 256, 4096  # images of which the nearest is sought, and among which
_NONE = np.empty((0, 2), np.int64)
_GREY = np.array([0.299, 0.587, 0.114])

_POSITIONS = (np.arange(32) + 0.5) * np.pi / 32
_COSINES = np.cos(np.outer(np.arange(_FREQUENCIES), _POSITIONS))  # the DCT-II, unnormalised
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class Print:
    """What is kept of an image to find its copies by."""

    digest: bytes  # of the file, or the pixels
    hash: NDArray[np.uint8]  # (8,), 64 bits by frequency
    thumbnail: NDArray[np.uint8]  # (768,), 16x16 RGB

    @classmethod
    def of(cls, content: bytes, image: ImageArray) -> Print:
        """content: identifies an equal file; image: transformed by EXAMINED, (3, 32, 32)."""
        frequencies = _COSINES @ np.tensordot(_GREY, image, 1) @ _COSINES.T
        bits = frequencies > np.median(frequencies)
        blocks = image.reshape(3, 16, _POOL, 16, _POOL).mean(axis=(2, 4))
        digest = blake2b(content, digest_size=16).digest()
        return cls(digest, np.packbits(bits, axis=1)[:, 0], blocks.round().astype(np.uint8).ravel())


Pairs = NDArray[np.int64]
"""(M, 2), indices of two images each, the smaller first."""


def equal_pairs(prints: list[Print]) -> Pairs:
    """Equal files: each of the later ones with the first."""
    first: dict[bytes, int] = {}
    pairs = ((first.setdefault(p.digest, i), i) for i, p in enumerate(prints))
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def similar_pairs(prints: list[Print]) -> Pairs:
    """Images that look the same, equal files among them.

    Copies share one of eight 16-bit parts of the hash where it differs in up to three bits, and
    nearly always up to eight. Of very many with one part in common, not all pairs are found, but
    each image with others.
    """
    if len(prints) < 2:
        return _NONE
    hashes = np.stack([p.hash for p in prints])  # (N, 8)
    thumbnails = np.stack([p.thumbnail for p in prints])
    share = _tolerance(thumbnails)
    found = [_NONE, *(_alike(pairs, thumbnails, share) for pairs in _candidates(hashes))]
    return np.unique(np.concatenate(found), axis=0)


def groups(pairs: Pairs, count: int) -> list[list[int]]:
    """Sets of images that are linked by pairs, of `count` images: the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    members: dict[int, list[int]] = {}
    labels = connected_components(links, directed=False)[1]
    for index in np.unique(pairs):
        members.setdefault(int(labels[index]), []).append(int(index))
    return sorted(members.values(), key=lambda group: (-len(group), group[0]))


def _candidates(hashes: NDArray[np.uint8]) -> Iterator[Pairs]:
    """Pairs whose hashes (N, 8) differ in few bits."""
    by_column = np.packbits(np.unpackbits(hashes, axis=1).reshape(-1, 8, 8).transpose(0, 2, 1), 2)
    for part in range(4):
        for rows in (hashes, by_column[:, :, 0]):
            ordered = np.roll(rows, -2 * part, axis=1)
            order = np.lexsort(ordered.T[::-1])  # by this part, then by the others
            keys = ordered[order, :2].copy().view(np.uint16)[:, 0]
            for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
                (places,) = np.nonzero(keys[step:] == keys[:-step])
                if len(places) == 0:
                    break
                pairs = np.stack([order[places], order[places + step]], axis=1)
                bits = _ONES[hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]].sum(axis=1)
                yield np.sort(pairs[bits <= _DISTANCE], axis=1)


def _tolerance(thumbnails: NDArray[np.uint8]) -> float:
    """The share of their contrast in which copies differ, from what different images do.

    Of a sample: half the difference to the nearest other image, of those that are nearest to one.
    """
    among = thumbnails[_evenly(len(thumbnails), _AMONG)].astype(np.float32)
    chosen = _evenly(len(among), _SAMPLED)
    squares = (among**2).sum(axis=1)
    products = among[chosen] @ among.T
    distances = squares[chosen, None] + squares[None] - 2 * products
    distances[np.arange(len(chosen)), chosen] = np.inf
    nearest = np.sqrt(distances.min(axis=1).clip(min=0) / among.shape[1])
    near = np.quantile(nearest / np.maximum(among[chosen].std(axis=1), 1), 0.1)
    return float(np.clip(_OF_NEIGHBOURS * near, _LEAST, _MOST))


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` indices below `count`, evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _alike(pairs: Pairs, thumbnails: NDArray[np.uint8], share: float) -> Pairs:
    """Those of the pairs whose thumbnails differ by that share of their contrast at most."""
    kept = [pairs[:0]]
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        one, other = (thumbnails[chunk[:, side]].astype(np.float32) for side in (0, 1))
        contrast = np.minimum(one.std(axis=1), other.std(axis=1))
        difference = np.sqrt(((one - other) ** 2).mean(axis=1))
        kept.append(chunk[difference <= _ABSOLUTE + share * contrast])
    return np.concatenate(kept)
