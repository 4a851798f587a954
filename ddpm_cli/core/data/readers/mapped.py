"""Bytes of files, and of members of zip archives, without a copy where they are stored as they are.

Files are mapped into memory: the operating system reads what is touched, and may drop it again.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import describe_file

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # before each member: its last fields are two lengths
_ENCRYPTED = 1  # the flag of a member
_CHECKED = 2**24  # bytes whose CRC is computed at a time


def map_file(path: Path) -> memoryview:
    """The bytes of a file. Raises DdpmError for what is no file, is empty or cannot be read."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise DdpmError(f"{path} is not a file")
        if path.stat().st_size == 0:
            raise DdpmError(f"{path} is {describe_file(path)}")
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DdpmError(f"cannot open {path}: {reason}") from error


class Window(io.RawIOBase):
    """Bytes in memory as a file to read, without a copy of them."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position. Raises ValueError before the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Copy bytes from the position on into a buffer; returns how many."""
        found = self._view[self._at : self._at + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


class Member(NamedTuple):
    """A member of a zip archive. where: for messages, "images.npz:arr_0.npy"."""

    archive: memoryview
    info: zipfile.ZipInfo
    where: str

    @property
    def mapped(self) -> bool:
        """Whether its bytes lie in the archive as they are."""
        return self.info.compress_type == zipfile.ZIP_STORED

    def view(self) -> memoryview:
        """Its bytes, where it is mapped. Raises DdpmError where the archive is cut short."""
        start = self.info.header_offset
        header = self.archive[start : start + _LOCAL_HEADER.size].tobytes()
        if len(header) == _LOCAL_HEADER.size and header[:4] == b"PK\x03\x04":
            start += _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header)[-2:])
            found = self.archive[start : start + self.info.file_size]
            if len(found) == self.info.file_size == self.info.compress_size:
                return found
        raise DdpmError(f"{self.where} is damaged: its size is not what the archive says")

    def open(self) -> IO[bytes]:
        """It as a file, decompressed as it is read; what is wrong is raised as by zipfile."""
        return zipfile.ZipFile(Window(self.archive)).open(self.info)

    def read(self, limit: int) -> memoryview:
        """Its bytes, decompressed in memory where they have to be. Raises DdpmError.

        limit: bytes, at most, that it may decompress to.
        """
        if self.mapped:
            return self.view()
        if self.info.file_size > limit:
            raise DdpmError(
                f"{self.where} has {self.info.file_size:,} bytes; {limit:,} at most are read"
            )
        try:
            with self.open() as file:
                return memoryview(file.read())
        except (OSError, *DAMAGED_FILE) as error:
            raise DdpmError(f"{self.where} is damaged: {first_line(error)}") from error

    def check(self) -> None:
        """Raise DdpmError where the bytes of a mapped member are not those that were packed."""
        crc, view = 0, self.view()
        for start in range(0, len(view), _CHECKED):
            crc = zlib.crc32(view[start : start + _CHECKED], crc)
        if crc != self.info.CRC:
            raise DdpmError(f"{self.where} is damaged: Bad CRC-32; copy the file again")


def members_of(archive: memoryview, where: str) -> dict[str, Member]:
    """The files in a zip archive by name. Raises DdpmError for what is none, or is encrypted."""
    try:
        with zipfile.ZipFile(Window(archive)) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (OSError, *DAMAGED_FILE) as error:
        raise DdpmError(f"{where}: damaged or cut short ({first_line(error)})") from error
    found: dict[str, Member] = {}
    for info in infos:
        name = info.filename.replace("\\", "/")  # some Windows tools write backslashes
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DdpmError(
                f"{where}:{name} is compressed otherwise than NumPy does; save it again"
            )
        if info.flag_bits & _ENCRYPTED:
            raise DdpmError(f"{where}:{name} is encrypted; unpack the archive")
        if name in found:
            raise DdpmError(f"{where} holds {name} twice; pack it again")
        found[name] = Member(archive, info, f"{where}:{name}")
    return found
