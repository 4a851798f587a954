"""Decoded images, cached on disk, and the order in which training iterates over them.

A source is decoded once, at the network's size, into one uint8 array in the cache. It is
memory-mapped, so all processes of a machine share it and later runs start at once.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.tokens import TokenisedText
from ddpm_cli.core.data import files
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.files import ImageArray, UnreadableError
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.devices import cores
from ddpm_cli.core.runtime.files import atomic_write, check_free_space, is_written, reserve
from ddpm_cli.core.runtime.reporting import Reporter, track

_LAYOUT = 1  # of the cached files; raise it where they are written otherwise
_CHUNK = 1024  # images decoded ahead at most, which bounds the memory


@dataclass(frozen=True)
class DecodedImages:
    """N decoded images with labels and captions: some of the rows of a memory-mapped array."""

    pixels: NDArray[np.uint8]  # (rows, C, H, W), memory-mapped
    labels: NDArray[np.int64]  # as the source's: (rows,) or (rows, K)
    rows: NDArray[np.int64]  # (N,), the rows that are in use
    captions: Captions | None = None  # of all rows
    texts: TokenisedText | None = None  # the captions' sentences, tokenised
    key: str = ""  # of all rows in the cache; changes when a source file is rewritten

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) or (B, K) int64."""
        rows = self.rows[indices]
        return torch.from_numpy(self.pixels[rows]), torch.from_numpy(self.labels[rows])

    def caption_tokens(
        self, indices: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> Tensor | None:
        """One caption of each image, (B, L) or (B, L, D), chosen by uniform `draws`, (B,)."""
        if self.captions is None or self.texts is None:
            return None
        return self.texts.take(self.captions.choose(self.rows[indices], draws))

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


class SampleOrder:
    """The g-th image of training: a new permutation each epoch, a function of (seed, g)."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def indices(self, images_seen: int, count: int) -> NDArray[np.int64]:
        """Indices of the `count` images that follow the first `images_seen`."""
        positions = range(images_seen, images_seen + count)
        return np.array([self._permuted(g // self._count)[g % self._count] for g in positions])

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            rng = np.random.default_rng(seeds.derive(self._seed, "order", epoch))
            self._permutation, self._epoch = rng.permutation(self._count), epoch
        return self._permutation


def prepare(
    source: Source,
    transform: Transform,
    reporter: Reporter,
    *,
    skip_bad: bool = False,
) -> DecodedImages:
    """Decode and transform all images of the source, or open them from the cache.

    The transform has a size. Raises DdpmError that names the files that cannot be read; with
    `skip_bad` they are reported and left out.
    """
    assert transform.size is not None
    size, channels = transform.size, transform.channels
    shape = (len(source), channels, *size)
    if not source.cache_key:  # in memory already: nothing to cache
        images = np.empty(shape, np.uint8)
        rows, failures = _decode_all(source, transform, images, reporter)
        _report(failures, len(source), reporter, skip_bad=skip_bad)
        key = sha256(images.data).hexdigest()  # of every pixel: features are cached under it
        return DecodedImages(images, source.labels, rows, key=key)
    identity = f"{_LAYOUT} {files.DECODER_VERSION} {source.cache_key} {len(source)} {transform.key}"
    if files.max_pixels() != files.USUAL_PIXELS:
        identity += f" {files.max_pixels()}"  # which decides what can be read
    key = sha256(identity.encode()).hexdigest()[:16]
    path = cache_root() / "pictures" / f"{source.name}-{size[0]}x{size[1]}x{channels}-{key}.npy"
    readable = path.with_suffix(".readable.npy")
    if not (is_written(path) and is_written(readable)):
        check_free_space(
            path.parent,
            int(np.prod(shape)),
            "the decoded images",
            "set DDPM_CACHE to a folder on a larger disk, or use a smaller --size",
        )
        with (
            atomic_write(path, durable=False) as partial,
            atomic_write(readable, durable=False) as list_partial,
        ):
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            reserve(partial)
            rows, failures = _decode_all(source, transform, array, reporter)
            array.flush()
            _report(failures, len(source), reporter, skip_bad=skip_bad)
            content = io.BytesIO()
            np.save(content, rows)
            list_partial.write_bytes(content.getvalue())
    else:
        rows = np.load(readable, allow_pickle=False)
        failures = _failures(source, np.setdiff1d(np.arange(len(source)), rows), transform)
        _report(failures, len(source), reporter, skip_bad=skip_bad)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return DecodedImages(array, source.labels, rows, key=key)


def _decode_all(
    source: Source, transform: Transform, out: NDArray[np.uint8], reporter: Reporter
) -> tuple[NDArray[np.int64], list[str]]:
    """Fill `out` (N, C, H, W). Returns the rows that could be read, and the others' errors."""

    def decode(index: int) -> ImageArray | UnreadableError:
        return _decode(source, index, transform)

    rows, failures = [], []
    indices = range(len(source))
    with ThreadPoolExecutor(cores()) as pool:
        chunks = (indices[start : start + _CHUNK] for start in indices[::_CHUNK])
        decoded = (item for chunk in chunks for item in pool.map(decode, chunk))
        for i, item in enumerate(
            track(decoded, reporter, "decoding images", len(source), "images")
        ):
            if isinstance(item, UnreadableError):
                failures.append(str(item))
            else:
                out[i] = item
                rows.append(i)
    return np.array(rows, dtype=np.int64), failures


def _decode(source: Source, index: int, transform: Transform) -> ImageArray | UnreadableError:
    try:
        return source.image(index, transform)
    except UnreadableError as error:
        return error


def _failures(source: Source, rows: NDArray[np.int64], transform: Transform) -> list[str]:
    """Why these rows, which the cache lacks, could not be read."""
    outcomes = (_decode(source, int(row), transform) for row in rows)
    changed = "could not be read when the cache was written"
    return [
        str(outcome) if isinstance(outcome, UnreadableError) else f"image {row} {changed}"
        for row, outcome in zip(rows, outcomes, strict=True)
    ]


def _report(failures: list[str], total: int, reporter: Reporter, *, skip_bad: bool) -> None:
    if not failures:
        return
    message = files.list_unreadable(failures, total)
    if not skip_bad or len(failures) == total:
        raise DdpmError(f"{message}. Fix or remove them, or add --skip-bad to leave them out")
    reporter.say(f"left out: {message}")
