"""Images at the network's size, by index: decoded beforehand, or as they are asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.tokens import TokenisedText
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.files import ImageArray, UnreadableError
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.threads import cores

_LISTED = 10  # unreadable files named in a message


@dataclass(frozen=True)
class DecodedImages:
    """N images at the network's size with labels and captions: some of the rows of a source."""

    pixels: NDArray[np.uint8] | StreamedPixels  # (rows, C, H, W)
    labels: NDArray[np.int64]  # as the source's: (rows,) or (rows, K)
    rows: NDArray[np.int64]  # (N,), the rows that are in use, in ascending order
    captions: Captions | None = None  # of all rows
    texts: TokenisedText | None = None  # the captions' sentences, tokenised
    key: str = ""  # of all rows in the cache; changes when a source file is rewritten
    blocks: tuple[range, ...] = ()  # rows that lie together in the source, if not each by itself
    pairs: Pairs | None = None  # the images given with them

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) or (B, K) int64.

        Raises DdpmError where images that are streamed cannot be read.
        """
        return self.pixels_of(indices), self.labels_of(indices)

    def pixels_of(self, indices: NDArray[np.int64]) -> Tensor:
        """Images (B, C, H, W) uint8. Raises DdpmError as `take`."""
        rows = self.rows[indices]
        if isinstance(self.pixels, StreamedPixels):
            return torch.from_numpy(self.pixels.read(rows, self.rows))
        return torch.from_numpy(self.pixels[rows])

    def labels_of(self, indices: NDArray[np.int64]) -> Tensor:
        """Labels (B,) or (B, K) int64: of images that are streamed, those of what was shown."""
        return torch.from_numpy(self.labels[self._shown(self.rows[indices])])

    def caption_tokens(
        self, indices: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> Tensor | None:
        """One caption of each image taken, (B, L) or (B, L, D), by uniform `draws`, (B,)."""
        if self.captions is None or self.texts is None:
            return None
        return self.texts.take(self.captions.choose(self._shown(self.rows[indices]), draws))

    def pairs_of(self, indices: NDArray[np.int64]) -> Tensor | None:
        """The images paired with those taken, (B, C', H, W) uint8; None without pairs."""
        if self.pairs is None:
            return None
        return self.pairs.images.pixels_of(self.pairs.rows[self._shown(self.rows[indices])])

    def split(self, holdout: int, seed: int) -> tuple[DecodedImages, DecodedImages]:
        """Split at random into (training, held out). Raises DdpmError without training images."""
        if holdout >= len(self):
            raise DdpmError(
                f"--holdout {holdout} leaves nothing to train on: there are {len(self)} images"
            )
        order = np.random.default_rng(seeds.derive(seed, "holdout")).permutation(self.rows)
        parts = np.sort(order[holdout:]), np.sort(order[:holdout])
        training, held_out = (replace(self, rows=rows) for rows in parts)
        return training, held_out

    def _shown(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows whose images `take` returned for these."""
        return self.pixels.shown(rows) if isinstance(self.pixels, StreamedPixels) else rows


class Pairs(NamedTuple):
    """Images that go with others."""

    images: DecodedImages
    rows: NDArray[np.int64]  # (rows,): which of them goes with each row of the others


class StreamedPixels:
    """The pixels of a source, each image decoded in a thread when it is asked for."""

    def __init__(
        self, source: Source, transform: Transform, reporter: Reporter, *, skip_bad: bool
    ) -> None:
        """`skip_bad`: show the next readable image in the place of one that cannot be read."""
        assert transform.size is not None
        self.shape = (len(source), transform.channels, *transform.size)
        self._source, self._transform = source, transform
        self._reporter, self._skip_bad = reporter, skip_bad
        self._instead: dict[int, int] = {}  # by row that cannot be read: the one shown for it
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def read(self, rows: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode these rows, (B, C, H, W).

        With `skip_bad` an image that cannot be read is reported once, and the next readable one of
        `among`, which wraps around, is shown instead, with its own class and caption: training
        stays a function of the images. Raises DdpmError that names it otherwise.
        """
        decoded = list(self._threads().map(self._decode, self.shown(rows).tolist()))
        failures = [str(item) for item in decoded if isinstance(item, UnreadableError)]
        if failures and not self._skip_bad:
            named = listed([*dict.fromkeys(failures)], _LISTED, "; ")
            raise DdpmError(
                f"some images cannot be read: {named}. Fix or remove them, or add --skip-bad to "
                "show the next image instead of each"
            )
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, (row, item) in enumerate(zip(rows.tolist(), decoded, strict=True)):
            if isinstance(item, UnreadableError):
                pixels[place] = self._next(row, item, among)
            else:
                pixels[place] = item
        return pixels

    def shown(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that `read` decoded for these."""
        if not self._instead:
            return rows
        return np.array([self._instead.get(row, row) for row in rows.tolist()], np.int64)

    def _next(self, row: int, error: UnreadableError, among: NDArray[np.int64]) -> ImageArray:
        """The next image that can be read, remembered as the one shown for this row."""
        if row not in self._instead:
            self._reporter.say(f"left out, the next image is shown instead: {error}")
        start = int(np.searchsorted(among, row))
        for step in range(1, len(among)):
            other = int(among[(start + step) % len(among)])
            item = self._decode(other)
            if not isinstance(item, UnreadableError):
                self._instead[row] = other
                return item
        raise DdpmError(f"none of the {len(among)} images can be read: {error}")

    def _decode(self, row: int) -> ImageArray | UnreadableError:
        return image_or_error(self._source, row, self._transform)

    def _threads(self) -> ThreadPoolExecutor:
        """The threads of this process: a fork has none of its parent's."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(cores(), "decode")
        return self._pool[1]


def image_or_error(source: Source, row: int, transform: Transform) -> ImageArray | UnreadableError:
    """One image, transformed, or why it cannot be read."""
    try:
        return source.image(row, transform)
    except UnreadableError as error:
        return error
