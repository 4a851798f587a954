"""The order in which training takes its images: functions of the seed and of the images seen.

Nothing is remembered from batch to batch, so a resume goes on exactly where it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.run import DataConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.runtime import seeds

_WINDOW = 4  # blocks whose images are mixed: as many are read at a time

Indices = NDArray[np.int64]


class Order(ABC):
    """The g-th image of training: passes of `length` images, each drawn from its own seed."""

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed = length, seed
        self._number, self._indices = -1, np.empty(0, np.int64)  # of the last pass drawn

    def indices(self, images_seen: int, count: int) -> Indices:
        """Indices of the `count` images that follow the first `images_seen`."""
        passes, places = np.divmod(np.arange(images_seen, images_seen + count), self._length)
        parts = [self._pass(int(n))[places[passes == n]] for n in np.unique(passes)]
        return np.concatenate(parts)

    def _pass(self, number: int) -> Indices:
        if number != self._number:
            self._number, self._indices = number, self._draw(number)
        return self._indices

    @abstractmethod
    def _draw(self, number: int) -> Indices:
        """The indices (length,) of a pass."""

    def _random(self, *key: int | str) -> np.random.Generator:
        return np.random.default_rng(seeds.derive(self._seed, *key))


class SampleOrder(Order):
    """A new permutation of all images each epoch."""

    def _draw(self, number: int) -> Indices:
        return self._random("order", number).permutation(self._length)


class BlockOrder(Order):
    """Each epoch the blocks in a new order, the images mixed within a few neighbouring blocks.

    For images that lie in large blocks which are read as a whole: each block is read once an epoch.
    """

    def __init__(self, blocks: Sequence[Indices], seed: int) -> None:
        """`blocks`: the indices of the images in each of them; all indices from 0, each once."""
        super().__init__(sum(map(len, blocks)), seed)
        self._blocks = blocks

    def _draw(self, number: int) -> Indices:
        random = self._random("blocks", number)
        order = random.permutation(len(self._blocks))
        windows = (order[i : i + _WINDOW] for i in range(0, len(order), _WINDOW))
        mixed = [np.concatenate([self._blocks[block] for block in window]) for window in windows]
        return np.concatenate([random.permutation(images) for images in mixed])


class BalancedOrder(Order):
    """All classes equally often: rounds of one image of each class, the classes in random order.

    A pass has as many rounds as come nearest above an epoch. Within a pass each class goes through
    its images again and again, every time in a new order.
    """

    def __init__(self, labels: NDArray[np.int64], seed: int) -> None:
        """`labels`: the class of each image, (N,)."""
        present = np.unique(labels)
        self._members = [np.flatnonzero(labels == label) for label in present]
        self._rounds = -(-len(labels) // len(present))
        super().__init__(self._rounds * len(present), seed)

    def _draw(self, number: int) -> Indices:
        images = np.empty((self._rounds, len(self._members)), np.int64)
        for column, members in enumerate(self._members):
            cycles = np.tile(members, (-(-self._rounds // len(members)), 1))
            shuffled = self._random("class", number, column).permuted(cycles, axis=1)
            images[:, column] = shuffled.reshape(-1)[: self._rounds]
        return self._random("classes", number).permuted(images, axis=1).reshape(-1)


def order_of(data: DataConfig, seed: int, images: DecodedImages) -> Order:
    """The order that a run's settings name, for its training images."""
    if data.balance:
        return BalancedOrder(images.labels[images.rows], seed)
    if data.shuffle == "blocks":
        ends = [(block.start, block.stop) for block in images.blocks]
        bounds = np.searchsorted(images.rows, ends).tolist()
        return BlockOrder([np.arange(*pair) for pair in bounds if pair[0] < pair[1]], seed)
    return SampleOrder(len(images), seed)
