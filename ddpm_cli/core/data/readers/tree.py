"""What the readers of folders and archives of files share."""

from __future__ import annotations

import codecs
import hashlib
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.annotations import caption_files
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.annotations.classes import Classes, classes_of
from ddpm_cli.core.data.files import SUFFIXES, USUAL_PIXELS, UnreadableError, max_pixels
from ddpm_cli.core.data.formats import count_suffixes, describe_left_out

_FILE_LIMIT = 256 * 2**20  # bytes of one image file, uncompressed
_BYTES_PER_PIXEL = 8  # four channels of 16 bits: of files where larger images are let in
_KINDS = 4  # suffixes named, at most, where there are no images
_LOOKED_AT = 2**14  # bytes of a text that is not UTF-8


class Tree(ABC):
    """Image files with tables and texts beside them, from which classes and captions are read."""

    path: Path
    names: tuple[str, ...]
    texts: frozenset[str]
    notices: tuple[str, ...]
    blocks: tuple[range, ...] = ()  # each file is read by itself
    sequential = False

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process. Raises UnreadableError."""

    @abstractmethod
    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 that identifies the images, the same for every copy (64 hex digits)."""

    @abstractmethod
    def cache_key(self) -> str:
        """SHA-256 that changes whenever a file is written; the key of caches."""

    def classes(self) -> Classes:
        """Those of files beside the images, or else of the first folder level."""
        return self._classes

    @cached_property
    def _classes(self) -> Classes:
        return classes_of(self.names, self.texts, self.text)

    @property
    def captioned(self) -> bool:
        """Whether there are caption files. Raises DdpmError for a table that cannot be parsed."""
        return caption_files.find(self) is not None

    def captions(self) -> Captions:
        """Read the caption files. Raises DdpmError where not all images have a caption."""
        return caption_files.read(self)

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read."""
        return caption_files.unread(self, captions, self._classes.files)


def read_file(file: Path) -> bytes:
    """Read an image or text on disk. Raises UnreadableError, also for one that is too large."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise UnreadableError(f"{file} is not a regular file")
        if status.st_size > file_limit():
            raise UnreadableError(too_large(str(file), status.st_size))
        return file.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{file}: {error.strerror or error}") from error


def read_at(file: Path, offset: int, size: int) -> bytes:
    """Up to `size` bytes of a file, from any thread or process. Raises OSError.

    Opened anew each time, which takes microseconds: a set of images may lie in more archives than a
    process may have open, and a forked process would share the position.
    """
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        return opened.read(size)


def file_limit() -> int:
    """Bytes of the largest image file that is read, which grows with --max-pixels."""
    pixels = max_pixels()
    if pixels is None or pixels <= USUAL_PIXELS:
        return _FILE_LIMIT
    return max(_FILE_LIMIT, _BYTES_PER_PIXEL * pixels)


def too_large(name: str, size: int) -> str:
    """What is said of a file above the limit."""
    pixels = max(-(-size // _BYTES_PER_PIXEL), USUAL_PIXELS + 2)
    return (
        f"{name} has {size:,} bytes, more than the limit of {file_limit():,} for an image; if you "
        f"trust the file, add --max-pixels {pixels}"
    )


def decode_text(data: bytes, name: str) -> str:
    """UTF-8, or UTF-16 with its mark, as spreadsheets write it."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        wide = b"\0" in data[:_LOOKED_AT]
        raise UnreadableError(
            f"{name} is not UTF-8 (byte {error.start + 1} is {data[error.start]:#04x}); save it as "
            f"UTF-8, as by iconv -f {'UTF-16LE' if wide else 'WINDOWS-1252'} -t UTF-8"
        ) from error
    if "\0" in text:
        raise UnreadableError(f"{name} is not text (it holds zero bytes); save it as UTF-8")
    return text


def no_images(path: Path, files: Iterable[str]) -> str:
    """What is said where none of the files is an image."""
    suffixes = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    visible = (name for name in files if not layout.is_system_name(name))
    contents = describe_left_out(count_suffixes(visible), _KINDS) or "nothing"
    return f"no images in {path} (looked for {suffixes}, at any depth); it holds {contents}"


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, in hexadecimal digits."""
    hashed = hashlib.sha256()
    for line in lines:
        hashed.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()


def folders_of(names: Iterable[str]) -> set[str]:
    """All folders of an archive, whose own entries end with /, whether they have one or not."""
    found: set[str] = set()
    for folder in {name[: name.rfind("/") + 1] for name in names}:
        while (folder := folder.rstrip("/")) and folder not in found:
            found.add(folder)
            folder = folder[: folder.rfind("/") + 1]
    return found
