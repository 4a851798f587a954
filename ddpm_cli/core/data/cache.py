"""Decoded images on disk: written chunk by chunk, resumed after a kill, listed and cleared.

An entry is an .npy array and, beside it, the rows that could be read. While it is decoded it is
called .partial, with a .progress file that names the chunks written so far.

What is relied on: a chunk's line in .progress, with the CRC-32 of its pixels, is written after the
pixels, and a chunk is taken over only where they have that CRC. So neither a kill at any moment nor
a power cut, after which the system may have kept the line and not the pixels, lets wrong pixels in.
The array is synced to disk before it is renamed to its final name, which stands for "complete".
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.runtime import locks
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import cannot_write, is_written, reserve, write_bytes

_FOLDER = "pictures"  # below the cache's root
_ARRAY, _READABLE = ".npy", ".readable.npy"
_PARTIAL, _PROGRESS = ".partial", ".progress"
_CHUNK_BYTES = 2**25  # of pixels, at most, that a kill costs
_CHUNK = 1024  # images in a chunk at most

Shape = tuple[int, ...]


def array_path(name: str) -> Path:
    """Where the decoded images of this name are, or will be."""
    return cache_root() / _FOLDER / f"{name}{_ARRAY}"


def chunks_of(shape: Shape) -> list[range]:
    """The rows of an array of images (N, C, H, W), in the parts that are written at once."""
    count = min(_CHUNK, max(1, _CHUNK_BYTES // int(np.prod(shape[1:]))))
    return [range(i, min(i + count, shape[0])) for i in range(0, shape[0], count)]


def open_array(path: Path, shape: Shape) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """The decoded images (N, C, H, W), memory-mapped, and the rows that could be read.

    None where they are not there, or not whole. The entry is in use while the array exists.
    """
    header, readable = _header(shape), path.with_suffix(_READABLE)
    try:
        with path.open("rb") as file:
            locks.mark_in_use(file)
            size = os.fstat(file.fileno()).st_size
            if size != len(header) + np.prod(shape) or file.read(len(header)) != header:
                return None
            rows = np.load(readable, allow_pickle=False)
            return np.memmap(file, np.uint8, "r", len(header), shape), rows
    except (OSError, ValueError, EOFError):  # also of a .readable.npy that was cut short
        return None


def missing_bytes(path: Path, shape: Shape) -> int:
    """Bytes that the disk must have free to decode, less those that an earlier process took."""
    taken = 0
    with suppress(OSError):
        status = path.with_suffix(_PARTIAL).stat()
        taken = 512 * getattr(status, "st_blocks", 0)  # none on Windows
    return max(0, int(np.prod(shape)) - taken)


class PartialArray:
    """Decoded images being written, in chunks; those that an earlier process wrote are kept.

    Two processes at once, on a file system without locks, would write the same bytes.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        """`path`: of the complete array. Raises DdpmError where it cannot be written."""
        self.path, self._shape, self._chunks = path, shape, chunks_of(shape)
        self._partial, self._progress = path.with_suffix(_PARTIAL), path.with_suffix(_PROGRESS)
        self._header = _header(shape)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.touch()  # and no truncation: it may hold what was decoded before
            self._file = self._partial.open("r+b", buffering=0)
            self._file.truncate(len(self._header) + int(np.prod(shape)))
            reserve(self._partial)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.written = self._verified()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, chunk: int, pixels: NDArray[np.uint8], *, is_complete: bool) -> None:
        """Write one chunk; an incomplete one is decoded again by the next process."""
        rows = self._chunks[chunk]
        data = memoryview(pixels.tobytes())
        try:
            self._write(data, self._offset(rows))
            if is_complete:
                with self._progress.open("a", encoding="ascii") as file:
                    file.write(f"{chunk} {zlib.crc32(data):08x}\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if is_complete:
            self.written.add(chunk)

    def finish(self, rows: NDArray[np.int64]) -> None:
        """Give the array its final name; `rows`: those that could be read."""
        content = io.BytesIO()
        np.save(content, rows)
        write_bytes(self.path.with_suffix(_READABLE), content.getvalue(), durable=False)
        try:
            self._write(memoryview(self._header), 0)
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            self._progress.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _write(self, data: memoryview, offset: int) -> None:
        self._file.seek(offset)
        while data:
            data = data[self._file.write(data) :]

    def _offset(self, rows: range) -> int:
        return len(self._header) + rows.start * int(np.prod(self._shape[1:]))

    def _verified(self) -> set[int]:
        """The chunks that are marked as written and have the CRC of their mark."""
        marks: dict[int, str] = {}
        with suppress(OSError):
            lines = self._progress.read_text(encoding="ascii", errors="replace").splitlines()
            words = (line.split(" ") for line in lines)
            marks = {int(w[0]): w[1] for w in words if len(w) == 2 and w[0].isdecimal()}
        return {chunk for chunk, crc in marks.items() if self._has_crc(chunk, crc)}

    def _has_crc(self, chunk: int, crc: str) -> bool:
        if not 0 <= chunk < len(self._chunks):
            return False
        rows = self._chunks[chunk]
        size = len(rows) * int(np.prod(self._shape[1:]))
        self._file.seek(self._offset(rows))
        data = self._file.read(size)
        return len(data) == size and f"{zlib.crc32(data):08x}" == crc


def _header(shape: Shape) -> bytes:
    """The first bytes of an .npy file of uint8."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


@dataclass(frozen=True)
class Entry:
    """Decoded images in the cache."""

    path: Path  # of the array, once it is complete
    bytes: int
    modified: datetime  # UTC
    is_complete: bool
    in_use: bool  # by a process that decodes it or reads from it

    @property
    def name(self) -> str:
        """Data, size and channels, and a hash: "photos-64x64x3-0123456789abcdef"."""
        return self.path.stem


def entries() -> list[Entry]:
    """All decoded images in the cache, complete or not, the largest first."""
    found = {_entry_path(file) for file in _files()}
    listed = (_entry(path) for path in found)
    return sorted((e for e in listed if e is not None), key=lambda e: (-e.bytes, e.name))


def clear() -> tuple[list[Entry], list[Entry]]:
    """Delete all decoded images but those in use: (those deleted, those kept)."""
    deleted: list[Entry] = []
    kept: list[Entry] = []
    for entry in entries():
        with _unused(entry.path) as unused:
            if unused:
                for file in _files():
                    if _entry_path(file) == entry.path:
                        file.unlink(missing_ok=True)
                locks.lock_path(entry.path).unlink(missing_ok=True)
            (deleted if unused else kept).append(entry)
    return deleted, kept


def _files() -> list[Path]:
    """The files of all entries, without their locks."""
    try:
        files = sorted((cache_root() / _FOLDER).iterdir())
    except OSError:
        return []
    return [f for f in files if f.name[0] != "." and f.suffix in (_ARRAY, _PARTIAL, _PROGRESS)]


def _entry_path(file: Path) -> Path:
    """The array that a file belongs to."""
    return file.with_name(file.stem.removesuffix(".readable") + _ARRAY)


def _entry(path: Path) -> Entry | None:
    size, modified = 0, 0.0
    for suffix in (_ARRAY, _READABLE, _PARTIAL, _PROGRESS):
        with suppress(OSError):
            status = path.with_suffix(suffix).stat()
            size, modified = size + status.st_size, max(modified, status.st_mtime)
    with _unused(path) as unused:
        when = datetime.fromtimestamp(modified, UTC)
        return Entry(path, size, when, is_written(path), not unused) if size else None


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether no process decodes or reads an entry; if so none begins to within the block."""
    with locks.held_by_nobody(locks.lock_path(path)) as idle, locks.held_by_nobody(path) as unread:
        yield idle and unread
