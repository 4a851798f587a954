"""Features of any number of images, stored on disk: memory is constant in their number."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
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


class FeatureStore:
    """Rows of float32 features (n, width) in an anonymous temporary file, deleted on exit.

    Rows are read by seeking, not through a memory map, whose pages would count as memory.
    """

    def __init__(self, width: int, file: IO[bytes] | None = None) -> None:
        self.width = width
        self._file = file or _temporary_file()
        self._count = self._file.seek(0, 2) // self._row_bytes
        weakref.finalize(self, self._file.close)

    @classmethod
    def open(cls, path: Path, width: int) -> FeatureStore:
        """Read rows that `save` wrote. Raises DdpmError where the file cannot be read."""
        try:
            return cls(width, path.open("rb"))
        except OSError as error:
            raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error

    @property
    def _row_bytes(self) -> int:
        return 4 * self.width

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Append rows (n, width). Raises DdpmError where the disk is full."""
        try:
            self._file.seek(0, 2)
            rest = memoryview(rows.float().cpu().contiguous().numpy().tobytes())
            while rest:  # unbuffered: what does not fit is not tried again by a destructor
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _no_space(error) from error
        self._count += len(rows)

    def block(self, start: int, stop: int) -> Tensor:
        """Read rows start to stop, float32 (stop - start, width)."""
        stop = min(stop, self._count)
        self._file.seek(start * self._row_bytes)
        data = bytearray(self._file.read(max(0, stop - start) * self._row_bytes))
        return torch.frombuffer(data, dtype=torch.float32).reshape(-1, self.width)

    def blocks(self, size: int = BLOCK, *, start: int = 0) -> Iterator[Tensor]:
        """Read all rows in order, or those from `start`, `size` at a time."""
        for first in range(start, self._count, size):
            yield self.block(first, first + size)

    def take(self, indices: NDArray[np.intp]) -> Tensor:
        """Read the rows of these indices, in their order, float32 (n, width)."""
        rows, size = torch.empty(len(indices), self.width), self._row_bytes
        buffer = rows.numpy().data.cast("B")
        for row in map(int, np.argsort(indices)):  # in the file's order: the disk reads ahead
            self._file.seek(int(indices[row]) * size)
            self._file.readinto(buffer[row * size : (row + 1) * size])  # type: ignore[attr-defined]
        return rows

    def subsample(self, count: int) -> FeatureStore:
        """At most `count` of the rows, chosen pseudo-randomly with a fixed seed."""
        if len(self) <= count:
            return self
        indices, subset = chosen(len(self), count), FeatureStore(self.width)
        for start in range(0, count, BLOCK):
            subset.append(self.take(indices[start : start + BLOCK]))
        return subset

    def gather_to_rank0(self) -> FeatureStore:
        """Concatenate the rows of all ranks, in rank order, on rank 0."""
        counts = distributed.all_gather(len(self))
        if len(counts) == 1:
            return self
        gathered = FeatureStore(self.width)
        before = sum(counts[: distributed.rank()])
        for start in range(0, sum(counts), BLOCK):
            block = torch.zeros(min(BLOCK, sum(counts) - start), self.width)
            low, high = max(start, before), min(start + len(block), before + len(self))
            if low < high:
                block[low - start : high - start] = self.block(low - before, high - before)
            block = distributed.all_reduce_sum(block)  # exact: all ranks but one add zero
            if distributed.is_main():
                gathered.append(block)
        return gathered

    def save(self, path: Path) -> None:
        """Copy the rows to a file."""
        with atomic_write(path, durable=False) as partial, partial.open("wb") as file:
            for block in self.blocks():
                file.write(block.numpy().tobytes())


def chosen(n: int, count: int) -> NDArray[np.intp]:
    """Indices that `subsample` takes of n, ascending."""
    return np.sort(shuffled(n)[:count])


def shuffled(n: int) -> NDArray[np.intp]:
    """A fixed permutation of n indices: torch-fidelity's generator and seed."""
    return np.random.RandomState(2020).permutation(n)


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="ddpm-features-", buffering=0)
    except OSError as error:
        raise _no_space(error) from error


def _no_space(error: OSError) -> DdpmError:
    folder = tempfile.tempdir or "a temporary folder"
    return DdpmError(
        f"cannot write features to {folder}: {error.strerror or error}; set TMPDIR to another "
        "folder, or request --metrics fid, which stores none"
    )
