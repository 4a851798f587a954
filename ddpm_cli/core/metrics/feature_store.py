"""Features of any number of images, or these, on disk: memory is constant in their number."""

from __future__ import annotations

import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import atomic_write

BLOCK = 1024  # rows read at a time: 8 MiB of 2048 features
_CHECKSUM = 4  # bytes behind the rows of a file: fewer than those of a row


class RowStore:
    """Rows of one type and shape (n, *shape) in an anonymous temporary file, deleted on exit.

    Rows are read by seeking, not through a memory map, whose pages would count as memory.
    """

    _holds, _instead = "rows", ""  # for the message of a full disk

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, file: IO[bytes] | None = None
    ) -> None:
        self.shape, self._dtype = shape, dtype
        self._row_bytes = prod(shape) * dtype.itemsize
        self._file = file or self._temporary()
        self._count = self._file.seek(0, 2) // self._row_bytes
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Append rows (n, *shape). Raises DdpmError where the disk is full."""
        with self._disk():
            self._file.seek(0, 2)
            rest = memoryview(rows.to("cpu", self._dtype).contiguous().numpy().tobytes())
            while rest:  # unbuffered: what does not fit is not tried again by a destructor
                rest = rest[self._file.write(rest) :]
        self._count += len(rows)

    def block(self, start: int, stop: int) -> Tensor:
        """Read rows start to stop, (stop - start, *shape)."""
        rows, content = self._empty(max(0, min(stop, self._count) - start))
        self._file.seek(start * self._row_bytes)
        self._file.readinto(content)  # type: ignore[attr-defined]
        return rows

    def blocks(self, size: int = BLOCK, *, start: int = 0) -> Iterator[Tensor]:
        """Read all rows in order, or those from `start`, `size` at a time."""
        for first in range(start, self._count, size):
            yield self.block(first, first + size)

    def take(self, indices: NDArray[np.intp]) -> Tensor:
        """Read the rows of these indices, in their order, (n, *shape)."""
        (rows, content), size = self._empty(len(indices)), self._row_bytes
        for row in map(int, np.argsort(indices)):  # in the file's order: the disk reads ahead
            self._file.seek(int(indices[row]) * size)
            self._file.readinto(content[row * size : (row + 1) * size])  # type: ignore[attr-defined]
        return rows

    def _empty(self, n: int) -> tuple[Tensor, NDArray[np.uint8]]:
        """Rows to fill, and their bytes."""
        rows = torch.empty(n, *self.shape, dtype=self._dtype)
        return rows, rows.view(torch.uint8).reshape(-1).numpy()

    def _temporary(self) -> IO[bytes]:
        with self._disk():
            return tempfile.TemporaryFile(prefix="ddpm-", buffering=0)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Raise DdpmError where the block cannot write."""
        try:
            yield
        except OSError as error:
            folder = tempfile.tempdir or "a temporary folder"
            raise DdpmError(
                f"cannot write {self._holds} to {folder}: {error.strerror or error}; set TMPDIR to "
                f"another folder{self._instead}"
            ) from error


class FeatureStore(RowStore):
    """Rows of float32 features (n, width) on disk."""

    _holds, _instead = "features", ", or request --metrics fid, which stores none"

    def __init__(self, width: int, file: IO[bytes] | None = None) -> None:
        super().__init__((width,), torch.float32, file)
        self.width = width

    @classmethod
    def open(cls, path: Path, width: int) -> FeatureStore:
        """Read rows that `save` wrote. Raises DdpmError where they cannot be, or are others."""
        try:
            store = cls(width, path.open("rb"))
            checksum = reduce(_followed_by, store.blocks(), 0)
            store._file.seek(-_CHECKSUM, 2)
            same = store._file.read() == checksum.to_bytes(_CHECKSUM)
        except OSError as error:
            raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error
        if not same:
            raise DdpmError(f"{path} is damaged: its checksum is not that of its bytes")
        return store

    def subsample(self, count: int) -> FeatureStore:
        """At most `count` of the rows, chosen pseudo-randomly with a fixed seed."""
        if len(self) <= count:
            return self
        indices, subset = chosen(len(self), count), FeatureStore(self.width)
        for start in range(0, count, BLOCK):
            subset.append(self.take(indices[start : start + BLOCK]))
        return subset

    def gather_to_rank0(self) -> FeatureStore:
        """Concatenate the rows of all ranks, in rank order, on rank 0.

        Raises DdpmError on every rank where its disk is full.
        """
        counts = distributed.all_gather(len(self))
        if len(counts) == 1:
            return self
        gathered, failure = FeatureStore(self.width), None
        before = sum(counts[: distributed.rank()])
        for start in range(0, sum(counts), BLOCK):
            block = torch.zeros(min(BLOCK, sum(counts) - start), self.width)
            low, high = max(start, before), min(start + len(block), before + len(self))
            if low < high:
                block[low - start : high - start] = self.block(low - before, high - before)
            block = distributed.all_reduce_sum(block)  # exact: all ranks but one add zero
            if not distributed.is_main() or failure is not None:
                continue
            try:
                gathered.append(block)
            except DdpmError as error:  # raised when no rank waits for this one any more
                failure = error
        if failures := list(filter(None, distributed.all_gather(failure))):
            raise failures[0]
        return gathered

    def save(self, path: Path) -> None:
        """Copy the rows to a file, and behind them their CRC-32, as it is not durable."""
        checksum = 0
        with atomic_write(path, durable=False) as partial, partial.open("wb") as file:
            for block in self.blocks():
                file.write(block.numpy().data)
                checksum = _followed_by(checksum, block)
            file.write(checksum.to_bytes(_CHECKSUM))


def _followed_by(checksum: int, rows: Tensor) -> int:
    """The CRC-32 of bytes with those of more rows behind them."""
    return zlib.crc32(rows.numpy().data, checksum)


def chosen(n: int, count: int) -> NDArray[np.intp]:
    """Indices that `subsample` takes of n, ascending."""
    return np.sort(shuffled(n)[:count])


def shuffled(n: int) -> NDArray[np.intp]:
    """A fixed permutation of n indices: torch-fidelity's generator and seed."""
    return np.random.RandomState(2020).permutation(n)
