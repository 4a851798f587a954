"""Features of any number of pictures, kept on disk: memory does not grow with their number."""

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
from ddpm_cli.core.metrics.scores import shuffled
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import atomic_write

BLOCK = 1024  # rows read at a time: 8 MiB of 2048 features


class FeatureStore:
    """Float32 vectors of one width, in a file without a name that goes when the process ends.

    They are read by seeking, not through a memory map, whose pages would count as memory.
    """

    def __init__(self, width: int, file: IO[bytes] | None = None) -> None:
        self.width = width
        self._file = file or tempfile.TemporaryFile(prefix="ddpm-features-")  # noqa: SIM115
        self._count = self._file.seek(0, 2) // self._bytes
        weakref.finalize(self, self._file.close)

    @classmethod
    def open(cls, path: Path, width: int) -> FeatureStore:
        """Read rows that `save` wrote. Raises DdpmError where the file cannot be read."""
        try:
            return cls(width, path.open("rb"))
        except OSError as error:
            raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error

    @property
    def _bytes(self) -> int:
        return 4 * self.width

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Add rows (n, width) at the end. Raises DdpmError where the disk is full."""
        try:
            self._file.seek(0, 2)
            self._file.write(rows.float().cpu().contiguous().numpy().tobytes())
        except OSError as error:
            raise DdpmError(
                f"cannot keep features in {tempfile.gettempdir()}: {error.strerror or error}; "
                "set TMPDIR to another place, or ask for --metrics fid, which keeps none"
            ) from error
        self._count += len(rows)

    def block(self, start: int, stop: int) -> Tensor:
        """Read rows start to stop, float32 (stop - start, width)."""
        stop = min(stop, self._count)
        self._file.seek(start * self._bytes)
        data = bytearray(self._file.read(max(0, stop - start) * self._bytes))
        return torch.frombuffer(data, dtype=torch.float32).reshape(-1, self.width)

    def blocks(self, size: int = BLOCK) -> Iterator[Tensor]:
        """Read all rows in order, `size` at a time."""
        for start in range(0, self._count, size):
            yield self.block(start, start + size)

    def take(self, indices: NDArray[np.intp]) -> Tensor:
        """Read the rows of these indices, in their order, float32 (n, width)."""
        taken = torch.empty(len(indices), self.width)
        bytes_of = taken.numpy().data.cast("B")
        for place in map(int, np.argsort(indices)):  # in the file's order: the disk reads ahead
            self._file.seek(int(indices[place]) * self._bytes)
            self._file.readinto(bytes_of[place * self._bytes : (place + 1) * self._bytes])  # type: ignore[attr-defined]
        return taken

    def some(self, count: int) -> FeatureStore:
        """At most so many of the rows, chosen at random but always alike."""
        if len(self) <= count:
            return self
        chosen, few = np.sort(shuffled(len(self))[:count]), FeatureStore(self.width)
        for start in range(0, count, BLOCK):
            few.append(self.take(chosen[start : start + BLOCK]))
        return few

    def collected(self) -> FeatureStore:
        """Join the rows of all processes, in the order of their ranks, in the first one."""
        counts = distributed.all_gather(len(self))
        if len(counts) == 1:
            return self
        whole = FeatureStore(self.width)
        before = sum(counts[: distributed.rank()])
        for start in range(0, sum(counts), BLOCK):
            block = torch.zeros(min(BLOCK, sum(counts) - start), self.width)
            low, high = max(start, before), min(start + len(block), before + len(self))
            if low < high:
                block[low - start : high - start] = self.block(low - before, high - before)
            block = distributed.all_reduce_sum(block)  # exact: all but one add zero
            if distributed.is_main():
                whole.append(block)
        return whole

    def save(self, path: Path) -> None:
        """Copy the rows to a file."""
        with atomic_write(path) as partial, partial.open("wb") as file:
            for block in self.blocks():
                file.write(block.numpy().tobytes())
