"""Image files of a .zip, or of a folder in one, listed once and read in place by index.

Nothing is ever unpacked to disk, so a member called `../x.png` is a name like any other.
"""

from __future__ import annotations

import bz2
import lzma
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers.tree import (
    Tree,
    decode_text,
    digest,
    file_limit,
    folders_of,
    no_images,
    read_at,
    too_large,
)
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import ZIP, describe_file

_UTF8 = 0x800  # flag: the name is UTF-8
_METHODS = {9: "Deflate64", 1: "Shrink", 6: "Implode", 93: "Zstandard", 98: "PPMd", 99: "AES"}
_HEADER, _NAME_LENGTH, _EXTRA_LENGTH = 30, 26, 28  # of a file, in bytes; where lengths are in it
_SPARE = 256  # bytes read for the extra fields of that header, which few have


class _Member(NamedTuple):
    """What the archive's directory says of a file, and its own name for it."""

    name: str
    offset: int  # of its header
    packed: int
    size: int
    crc: int
    method: int
    flags: int


class ZipFiles(Tree):
    """The image files in a .zip, or in one of its folders, read in place; hidden ones are skipped.

    inside: that folder; "." for the whole archive.
    """

    def __init__(self, path: Path, inside: str = ".", *, training: bool = False) -> None:
        self._archive = path
        self.path = path / inside
        members, repeated = _list(path)
        if inside != ".":
            prefix = f"{inside}/"
            members = {
                n.removeprefix(prefix): i for n, i in members.items() if n.startswith(prefix)
            }
            if not members:
                raise DdpmError(f"{path} holds no folder {inside}")
        folders = folders_of(members)
        self._members = {name: member for name, member in members.items() if name[-1:] not in "/"}
        visible = [name for name in self._members if not layout.is_system_name(name)]
        arranged = layout.arrange(
            self.path, visible, folders, self.text, training=training, archived=True
        )
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        self.notices = arranged.notices
        if repeated:
            said = f"{self.path}: left out: {repeated:,} files of a name that a later one has, too"
            self.notices = (*self.notices, said)
        if not self.names:
            raise DdpmError(no_images(self.path, self._members))
        self._members = {name: self._members[name] for name in (*self.names, *self.texts)}

    def read(self, index: int) -> bytes:
        """Uncompress one member in memory, with its size limited and its CRC checked."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return decode_text(self._bytes(name), f"{self._archive}:{name}")

    def _bytes(self, name: str) -> bytes:
        member, place = self._members[name], f"{self._archive}:{name}"
        if member.flags & 1:
            raise UnreadableError(
                f"{place} is encrypted; unpack the archive and give the folder instead"
            )
        if max(member.size, member.packed) > file_limit():
            raise UnreadableError(too_large(place, max(member.size, member.packed)))
        try:
            data = _unpack(member, self._packed(member))
        except NotImplementedError as error:
            raise UnreadableError(
                f"{place} is {error}; unpack the archive and give the folder instead"
            ) from error
        except (OSError, ValueError, *DAMAGED_FILE) as error:
            raise UnreadableError(f"{place}: damaged ({first_line(error)})") from error
        if len(data) != member.size:
            should = f"not the {member.size:,} bytes that it should have"
            raise UnreadableError(f"{place}: damaged ({should})")
        if zlib.crc32(data) != member.crc:
            raise UnreadableError(f"{place}: damaged (its CRC-32 is wrong)")
        return data

    def _packed(self, member: _Member) -> bytes:
        """The bytes of a member as they lie in the archive. Raises ValueError for no such file.

        zipfile does the same behind a lock, in thrice the time.
        """
        own = member.name.encode("utf-8" if member.flags & _UTF8 else "cp437")
        guess = _HEADER + len(own) + _SPARE + member.packed
        data = read_at(self._archive, member.offset, guess)
        if data[:4] != ZIP or len(data) < _HEADER:
            raise ValueError("no file where the directory says")
        name, extra = (
            int.from_bytes(data[at : at + 2], "little") for at in (_NAME_LENGTH, _EXTRA_LENGTH)
        )
        if data[_HEADER : _HEADER + name] != own:
            raise ValueError("another name in its header than in the directory")
        start = _HEADER + name + extra
        if start + member.packed > len(data):
            data = read_at(self._archive, member.offset, start + member.packed)
        return data[start : start + member.packed]

    def fingerprint(self) -> str:
        """Hash names, sizes and CRCs."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        pairs = ((name, self._members[name]) for name in self.names)
        return digest(
            f"{name.removeprefix(self._part)}\0{member.size}\0{member.crc:08x}"
            for name, member in pairs
        )

    def cache_key(self) -> str:
        """The fingerprint: the CRCs detect every change."""
        return self._hash


def _list(path: Path) -> tuple[dict[str, _Member], int]:
    """The members by name, folders with a / at the end; and how many have a name twice."""
    with open_zip(path) as archive:
        infos = archive.infolist()
    members = {
        _member_name(i): _Member(
            *(i.orig_filename, i.header_offset, i.compress_size, i.file_size),
            *(i.CRC, i.compress_type, i.flag_bits),
        )
        for i in infos
    }
    return members, len(infos) - len(members)


def _unpack(member: _Member, packed: bytes) -> bytes:
    """Decompress up to one byte more than the size that the directory says."""
    limit = member.size + 1
    if member.method == zipfile.ZIP_STORED:
        return packed
    if member.method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
    if member.method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(packed, limit)
    if member.method == zipfile.ZIP_LZMA:
        return _unpack_lzma(packed, limit)
    name = _METHODS.get(member.method, f"method {member.method}")
    raise NotImplementedError(f"compressed by {name}, which is not supported")


def _unpack_lzma(packed: bytes, limit: int) -> bytes:
    """LZMA as zip has it: version (2 bytes), length of the properties (2), the properties."""
    length = int.from_bytes(packed[2:4], "little")
    properties = packed[4 : 4 + length]
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(properties)])
    return decoder.decompress(packed[4 + length :], limit)


def _lzma_filter(properties: bytes) -> dict[str, int]:
    """The filter of five bytes: (pb * 5 + lp) * 9 + lc, then the size of the dictionary."""
    if len(properties) != 5 or properties[0] >= 9 * 5 * 5:
        raise ValueError("no properties of LZMA")
    rest, lc = divmod(properties[0], 9)
    pb, lp = divmod(rest, 5)
    size = int.from_bytes(properties[1:], "little")
    return {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": size}


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive. Raises DdpmError for what is none, is damaged or cannot be opened."""
    try:
        return zipfile.ZipFile(path)
    except DAMAGED_FILE as error:
        what = describe_file(path)
        if what and "zip archive" not in what:
            raise DdpmError(f"{path} is not a zip archive but {what}") from error
        raise DdpmError(
            f"{path}: damaged or cut short ({first_line(error)}); copy it again"
        ) from error
    except OSError as error:
        raise DdpmError(f"cannot open {path}: {error.strerror or error}") from error


def _member_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # some Windows tools write backslashes
