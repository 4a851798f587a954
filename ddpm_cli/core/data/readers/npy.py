"""Arrays of .npy files, and of the members of .npz files, by row; nothing is unpickled."""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.readers.mapped import Member, Window, map_file, members_of
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import describe

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000  # characters of a header
_CHUNK_BYTES = 2**25  # of a compressed array that are held in memory; twice as many at most
_SAMPLED = 512  # rows, at most, that are looked at to learn what an array holds


class Header(NamedTuple):
    """What the first bytes of a .npy say."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class MappedArray:
    """An array that lies in a file as it is, and is mapped into memory."""

    def __init__(self, view: memoryview, where: str, member: Member | None = None) -> None:
        self.where = where
        self.member = self._unchecked = member
        self._lock = threading.Lock()
        file = Window(view)
        self.header = read_header(file, where)
        start, there = file.tell(), len(view) - file.tell()
        if there != self.header.size:
            short = there < self.header.size
            raise DdpmError(
                f"{where}: its header says {self.header}, which is {self.header.size:,} bytes; "
                f"there are {there:,}"
                + (": it is cut short, copy it again" if short else ": more than one array?")
            )
        count = math.prod(self.header.shape)
        flat = np.frombuffer(view, self.header.dtype, count, start) if count else np.empty(0)
        order: Any = "F" if self.header.fortran_order else "C"
        self.array = flat.reshape(self.header.shape, order=order)

    def __getitem__(self, index: int) -> NDArray[Any]:
        self._check()
        return np.asarray(self.array[index])

    def sample(self) -> Sequence[int]:
        """Rows from all over the array."""
        rows = self.header.shape[0]
        indices: list[int] = np.linspace(0, rows - 1, min(rows, _SAMPLED)).astype(int).tolist()
        return indices

    def _check(self) -> None:
        """Before the first row is given: the CRC of the whole, where it lies in an archive."""
        with self._lock:
            if self._unchecked is not None:
                self._unchecked.check()
                self._unchecked = None


class CompressedArray:
    """An array that is decompressed as it is read, which is quick in the order of the rows.

    Two chunks of it are in memory. A row before them costs decompressing from the start.
    """

    def __init__(self, member: Member) -> None:
        self.where, self.member = member.where, member
        with _explained(self.where), member.open() as file:
            self.header = read_header(file, self.where)
            there = member.info.file_size - file.tell()
        if there != self.header.size:
            raise DdpmError(
                f"{self.where}: its header says {self.header}, which is {self.header.size:,} "
                f"bytes; there are {there:,}"
            )
        if self.header.fortran_order:
            raise DdpmError(
                f"{self.where} is compressed and in Fortran's order; save it again, from "
                "np.ascontiguousarray"
            )
        row = self.header.size // max(1, self.header.shape[0]) if self.header.shape else 0
        self._rows = max(1, _CHUNK_BYTES // max(1, row))
        self._chunks: dict[int, NDArray[Any]] = {}
        self._file: IO[bytes] | None = None
        self._next, self._lock = 0, threading.Lock()

    def __getitem__(self, index: int) -> NDArray[Any]:
        chunk, row = divmod(index, self._rows)
        with self._lock:
            if chunk not in self._chunks:
                self._read_up_to(chunk)
            return np.asarray(self._chunks[chunk][row])

    def sample(self) -> Sequence[int]:
        """Rows of the first chunk."""
        return range(min(self.header.shape[0], self._rows, _SAMPLED))

    def _read_up_to(self, chunk: int) -> None:
        with _explained(self.where):
            if self._file is None or chunk < self._next:
                self._file, self._next, self._chunks = self.member.open(), 0, {}
                read_header(self._file, self.where)
            while self._next <= chunk:
                for old in [number for number in self._chunks if number < self._next - 1]:
                    del self._chunks[old]
                self._chunks[self._next] = self._read_chunk(self._file)
                self._next += 1

    def _read_chunk(self, file: IO[bytes]) -> NDArray[Any]:
        rows = min(self._rows, self.header.shape[0] - self._next * self._rows)
        shape = (rows, *self.header.shape[1:])
        size = math.prod(shape) * self.header.dtype.itemsize
        data = file.read(size)
        if len(data) < size:
            raise DdpmError(f"{self.where} is cut short; copy it again")
        return np.frombuffer(data, self.header.dtype).reshape(shape)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn whatever reading damaged data raises into a DdpmError that names the array."""
    try:
        yield
    except DdpmError:
        raise
    except (OSError, *DAMAGED_FILE) as error:
        raise DdpmError(f"{where} is damaged: {first_line(error)}") from error


def open_npy(path: Path) -> MappedArray:
    """The array of a .npy file. Raises DdpmError for objects, and headers that lie."""
    return MappedArray(map_file(path), str(path))


def npz_members(path: Path) -> dict[str, Member]:
    """The arrays of an .npz by name, not opened. Raises DdpmError for what is no .npz."""
    found = members_of(map_file(path), str(path))
    return {n.removesuffix(".npy"): member for n, member in found.items() if n.endswith(".npy")}


def open_member(member: Member) -> MappedArray | CompressedArray:
    """An array of an .npz. Raises DdpmError for objects, and headers that lie."""
    if member.mapped:
        return MappedArray(member.view(), member.where, member)
    return CompressedArray(member)


def read_member(member: Member, limit: int) -> NDArray[Any]:
    """The whole of a small array of an .npz, of at most `limit` bytes."""
    if member.mapped:
        member.check()
    return MappedArray(member.read(limit), member.where).array


def read_header(file: IO[bytes] | Window, where: str) -> Header:
    """Read the header of a .npy and leave the file at the first value.

    Raises DdpmError for what is no array, for objects (which are pickled) and records.
    """
    start = file.read(8) or b""
    if start[:6] != _MAGIC:
        what = describe(start)
        raise DdpmError(f"{where} is not a NumPy array{f' but {what}' if what else ''}")
    length = file.read(2 if start[6:7] == b"\1" else 4) or b""  # by its version
    count = int.from_bytes(length, "little")
    if count > _HEADER_LIMIT:
        raise DdpmError(f"{where}: its header has {count:,} characters, which none needs")
    buffer = io.BytesIO(start + length + (file.read(count) or b""))
    formats = np.lib.format
    try:
        with warnings.catch_warnings(action="ignore"):  # on headers written by Python 2
            first_version = formats.read_magic(buffer) == (1, 0)
            read = formats.read_array_header_1_0 if first_version else formats.read_array_header_2_0
            shape, fortran_order, dtype = read(buffer)
    except (OSError, *DAMAGED_FILE) as error:
        raise DdpmError(f"{where}: its header is damaged; copy it again") from error
    header = Header(shape, dtype, fortran_order)
    if header.dtype.hasobject:
        raise DdpmError(
            f"{where} is {header}: objects are pickled, and nothing is unpickled; save an array "
            "of numbers"
        )
    strange = header.dtype.itemsize == 0 or max(header.shape, default=0) > 2**62
    if header.dtype.fields is not None or min(header.shape, default=0) < 0 or strange:
        raise DdpmError(f"{where} is {header}; an array of numbers is needed")
    return header
