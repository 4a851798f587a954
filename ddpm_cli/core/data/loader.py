"""DecodedImages ready to train on, and the order in which training sees them.

Every source is decoded once, at the network's size, into one array of bytes in the cache. It is
memory-mapped, so that all processes of a machine share it and the next start costs nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.tokens import TokenisedText
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.files import ImageArray, UnreadableError
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.devices import cores
from ddpm_cli.core.runtime.files import atomic_write, check_free_space
from ddpm_cli.core.runtime.reporting import Reporter, track

_NAMED = 10  # unreadable files listed in a message
_AHEAD = 1024  # pictures submitted at a time, which bounds the memory of decoding


@dataclass(frozen=True)
class DecodedImages:
    """Decoded pictures with labels and captions, and which of them are in use."""

    bytes: NDArray[np.uint8]  # (rows, C, H, W), memory-mapped
    labels: NDArray[np.int64]  # (rows,), -1 without classes
    rows: NDArray[np.int64]  # (N,), the rows that these pictures are
    captions: Captions | None = None  # of all rows
    texts: TokenisedText | None = None  # their sentences, as the network reads them
    key: str = ""  # of all rows in the cache: another one where a file was written anew

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """DecodedImages (B, C, H, W) uint8 and labels (B,) int64."""
        rows = self.rows[indices]
        return torch.from_numpy(self.bytes[rows]), torch.from_numpy(self.labels[rows])

    def told(self, indices: NDArray[np.int64], draws: NDArray[np.float64]) -> Tensor | None:
        """A caption of each picture, (B, L) or (B, L, D); `draws`, (B,) in [0, 1), say which."""
        if self.captions is None or self.texts is None:
            return None
        return self.texts.take(self.captions.choose(self.rows[indices], draws))

    def split(self, holdout: int, seed: int) -> tuple[DecodedImages, DecodedImages]:
        """Part these pictures at random into (training, held out)."""
        if holdout >= len(self):
            raise DdpmError(
                f"--holdout {holdout} leaves nothing to train on: there are {len(self)} images"
            )
        order = np.random.default_rng(seeds.derive(seed, "holdout")).permutation(self.rows)
        parts = np.sort(order[holdout:]), np.sort(order[:holdout])
        training, held_out = (replace(self, rows=rows) for rows in parts)
        return training, held_out


class SampleOrder:
    """Which picture is seen as the g-th: a fresh permutation an epoch, a function of (seed, g)."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def indices(self, seen: int, count: int) -> NDArray[np.int64]:
        """The `count` pictures that follow after `seen` have been seen."""
        positions = range(seen, seen + count)
        return np.array([self._permuted(g // self._count)[g % self._count] for g in positions])

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            rng = np.random.default_rng(seeds.derive(self._seed, "order", epoch))
            self._permutation, self._epoch = rng.permutation(self._count), epoch
        return self._permutation


def prepare(
    source: Source,
    channels: int,
    size: tuple[int, int],
    reporter: Reporter,
    *,
    skip_bad: bool = False,
) -> DecodedImages:
    """Decode every picture of the source at `size` (height, width), or find it done before.

    Files that cannot be read are an error that names them; with `skip_bad` they are named and left
    out.
    """
    shape = (len(source), channels, *size)
    key = sha256(f"{source.stamp} {shape}".encode()).hexdigest()[:16]
    place = cache_root() / "pictures" / f"{source.name}-{size[0]}x{size[1]}x{channels}-{key}.npy"
    readable = place.with_suffix(".readable.npy")
    if not (place.is_file() and readable.is_file()):
        check_free_space(
            place.parent,
            int(np.prod(shape)),
            "the decoded pictures",
            "set DDPM_CACHE to a larger place, or use a smaller --size",
        )
        with atomic_write(place) as partial, atomic_write(readable) as list_partial:
            rows, failures = _decode_all(source, shape, partial, reporter)
            _report(failures, len(source), reporter, skip_bad=skip_bad)
            with list_partial.open("wb") as file:
                np.save(file, rows)
    rows = np.load(readable, allow_pickle=False)
    if len(rows) < len(source) and not skip_bad:
        bad = len(source) - len(rows)
        raise DdpmError(
            f"{bad} of {len(source)} images cannot be read; mend them, or add --skip-bad"
        )
    array = np.load(place, mmap_mode="r", allow_pickle=False)
    return DecodedImages(array, source.labels, rows, key=key)


def _decode_all(
    source: Source, shape: tuple[int, ...], place: Path, reporter: Reporter
) -> tuple[NDArray[np.int64], list[str]]:
    """Write all pictures to `place`; the rows that could be read, and what ails the others."""

    def decode(index: int) -> ImageArray | UnreadableError:
        try:
            return source.image(index, shape[1], (shape[2], shape[3]))
        except UnreadableError as error:
            return error

    array = np.lib.format.open_memmap(place, mode="w+", dtype=np.uint8, shape=shape)
    rows, failures = [], []
    indices = range(len(source))
    with ThreadPoolExecutor(cores()) as pool:
        chunks = (indices[start : start + _AHEAD] for start in indices[::_AHEAD])
        decoded = (item for chunk in chunks for item in pool.map(decode, chunk))
        for i, item in enumerate(
            track(decoded, reporter, "reading pictures", len(source), "images")
        ):
            if isinstance(item, UnreadableError):
                failures.append(str(item))
            else:
                array[i] = item
                rows.append(i)
    array.flush()
    return np.array(rows, dtype=np.int64), failures


def _report(failures: list[str], total: int, reporter: Reporter, *, skip_bad: bool) -> None:
    if not failures:
        return
    shown = "; ".join(failures[:_NAMED]) + ("; …" if len(failures) > _NAMED else "")
    seen = f"{len(failures)} of {total} images cannot be read: {shown}"
    if not skip_bad or len(failures) == total:
        raise DdpmError(f"{seen}. Mend or remove them, or add --skip-bad to leave them out")
    reporter.say(f"Left out {seen}")
