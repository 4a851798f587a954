"""Image files of a folder or a .zip, listed once in a fixed order and read by index.

Nothing is decoded here (see `files`) and nothing is ever unpacked to disk, so a member called
`../x.png` is a name like any other.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import threading
import zipfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Protocol

from ddpm_cli.core.config.fields import near_names
from ddpm_cli.core.data import layout
from ddpm_cli.core.data.files import SUFFIXES, USUAL_PIXELS, UnreadableError, max_pixels
from ddpm_cli.core.data.formats import REMEDIES, count_suffixes, describe_left_out
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import describe_file

_FILE_LIMIT = 256 * 2**20  # bytes of one image file, uncompressed
_BYTES_PER_PIXEL = 8  # four channels of 16 bits: of files where larger images are let in
_HASHED_FILES = 64  # files, at most, whose first bytes enter a folder's fingerprint
_KINDS = 4  # suffixes named, at most, where there are no images
_HASHED_BYTES = 2**14  # of each of them


def file_limit() -> int:
    """Bytes of the largest image file that is read, which grows with --max-pixels."""
    pixels = max_pixels()
    if pixels is None or pixels <= USUAL_PIXELS:
        return _FILE_LIMIT
    return max(_FILE_LIMIT, _BYTES_PER_PIXEL * pixels)


class ImageFiles(Protocol):
    """Image files in a fixed order."""

    @property
    def path(self) -> Path:
        """The folder or archive."""

    @property
    def names(self) -> tuple[str, ...]:
        """Image names relative to the root, with `/` between folders, sorted."""

    @property
    def texts(self) -> frozenset[str]:
        """Names of the tables and texts beside them, which may contain captions or classes."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out of the folder or archive, one line each."""

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process. Raises UnreadableError."""

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""

    def fingerprint(self) -> str:
        """SHA-256 that identifies the images, the same for every copy (64 hex digits).

        Not all files are read: a change that keeps a file's size may go unnoticed.
        """

    def cache_key(self) -> str:
        """SHA-256 that changes whenever a file is written, copies included; the key of caches."""


def open_image_files(path: Path, *, training: bool = False) -> ImageFiles:
    """List the image files of a folder, a .zip, or a folder in a .zip (photos.zip/train).

    training: take the training part where a data set lies in train/, test/ and the like. Raises
    DdpmError where there are no images, or those of several parts.
    """
    if path.is_dir():
        return FolderFiles(path, training=training)
    zips = (place for place in (path, *path.parents) if place.suffix.lower() == ".zip")
    if archives := [place for place in zips if place.is_file()]:
        return ZipFiles(archives[0], path.relative_to(archives[0]).as_posix(), training=training)
    if path.exists():
        raise DdpmError(f"{path} is neither a folder nor a .zip of images{_content(path)}")
    raise DdpmError(f"{path}: no such folder or .zip{_similar_names(path)}")


class FolderFiles:
    """The image files under a folder, at any depth; hidden files and folders are skipped."""

    def __init__(self, path: Path, *, training: bool = False) -> None:
        self.path = path
        layout.refuse_previews(path, self.text)
        files, folders, links = _walk(path)
        arranged = layout.arrange(path, files, folders, self.text, training=training)
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        self.notices = (*arranged.notices, *(f"{path}: left out: {link}" for link in links))
        if not self.names:
            raise DdpmError(_no_images(path, files))

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return _decode_text(self._bytes(name), str(self.path / name))

    def _bytes(self, name: str) -> bytes:
        file = self.path / name
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise UnreadableError(f"{file} is not a regular file")
            if status.st_size > file_limit():
                raise UnreadableError(_too_large(str(file), status.st_size))
            return file.read_bytes()
        except OSError as error:
            raise UnreadableError(f"{file}: {error.strerror or error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and the first bytes of some of the files."""
        sizes = (f"{self._own(name)}\0{self._status(name)[:1]}" for name in self.names)
        chosen = self.names[:: -(-len(self.names) // _HASHED_FILES)]
        starts = (f"{self._own(name)}\0{self._hash_start(name)}" for name in chosen)
        return _digest(chain(sizes, starts))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times."""
        return _digest(f"{self._own(name)}\0{self._status(name)}" for name in self.names)

    def _own(self, name: str) -> str:
        """The name in the training part, which is then known as the same by its own path."""
        return name.removeprefix(self._part)

    def _status(self, name: str) -> tuple[int, ...]:
        """Size in bytes and modification time; () for a broken link, which fails when read."""
        try:
            status = (self.path / name).stat()
        except OSError:
            return ()
        return status.st_size, status.st_mtime_ns

    def _hash_start(self, name: str) -> str:
        file = self.path / name
        try:
            if not file.is_file():
                return ""
            with file.open("rb") as opened:
                return hashlib.sha256(opened.read(_HASHED_BYTES)).hexdigest()
        except OSError:
            return ""


class ZipFiles:
    """The image files in a .zip, or in one of its folders, read in place; hidden ones are skipped.

    inside: that folder; "." for the whole archive.
    """

    def __init__(self, path: Path, inside: str = ".", *, training: bool = False) -> None:
        self._archive = path
        self.path = path / inside
        self._handle: tuple[int, zipfile.ZipFile, threading.Lock] | None = None
        with _open_zip(path) as archive:
            entries = {_member_name(info): info for info in archive.infolist()}
        if inside != ".":
            prefix = f"{inside}/"
            entries = {
                n.removeprefix(prefix): i for n, i in entries.items() if n.startswith(prefix)
            }
            if not entries:
                raise DdpmError(f"{path} holds no folder {inside}")
        self._members = {name: info for name, info in entries.items() if not info.is_dir()}
        visible = [name for name in self._members if not layout.is_system_name(name)]
        arranged = layout.arrange(
            self.path, visible, _folders(entries), self.text, training=training
        )
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        self.notices = arranged.notices
        if not self.names:
            raise DdpmError(_no_images(self.path, self._members))
        self._members = {name: self._members[name] for name in (*self.names, *self.texts)}

    def read(self, index: int) -> bytes:
        """Uncompress one member in memory, with its size limited and its CRC checked."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return _decode_text(self._bytes(name), f"{self._archive}:{name}")

    def _bytes(self, member_name: str) -> bytes:
        member, name = self._members[member_name], f"{self._archive}:{member_name}"
        if member.flag_bits & 1:
            raise UnreadableError(
                f"{name} is encrypted; unpack the archive and give the folder instead"
            )
        if member.file_size > file_limit():  # zipfile reads no more than this declared size
            raise UnreadableError(_too_large(name, member.file_size))
        archive, lock = self._open()
        try:
            with lock:
                return archive.read(member)
        except (OSError, *DAMAGED_FILE) as error:
            raise UnreadableError(f"{name}: {error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and CRCs."""
        pairs = ((name, self._members[name]) for name in self.names)
        return _digest(
            f"{name.removeprefix(self._part)}\0{member.file_size}\0{member.CRC:08x}"
            for name, member in pairs
        )

    def cache_key(self) -> str:
        """The fingerprint: the CRCs detect every change."""
        return self.fingerprint()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}

    def _open(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        # A forked process shares its parent's file position and perhaps an acquired lock, so each
        # process opens the archive itself.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), _open_zip(self._archive), threading.Lock())
        return self._handle[1:]


def _decode_text(data: bytes, name: str) -> str:
    """UTF-8, or UTF-16 with its mark, as spreadsheets write it."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        wide = b"\0" in data[:_HASHED_BYTES]
        raise UnreadableError(
            f"{name} is not UTF-8 (byte {error.start + 1} is {data[error.start]:#04x}); save it as "
            f"UTF-8, as by iconv -f {'UTF-16LE' if wide else 'WINDOWS-1252'} -t UTF-8"
        ) from error
    if "\0" in text:
        raise UnreadableError(f"{name} is not text (it holds zero bytes); save it as UTF-8")
    return text


def _content(path: Path) -> str:
    """What a file is that is neither, with what to do: ", but a tar archive: unpack it"."""
    what, remedy = describe_file(path), REMEDIES.get(path.suffix.lower(), "")
    if what and "image" in what:
        remedy = "give its folder"
    return (f", but {what}" if what else "") + (f" ({remedy})" if remedy else "")


def _walk(root: Path) -> tuple[list[str], list[str], list[str]]:
    """All files and folders under a folder but hidden ones, and in words the links not followed."""
    found, inner, links = [], [], []
    visited: dict[str, str] = {}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unlistable):
        name = Path(folder).relative_to(root).as_posix()
        real = os.path.realpath(folder)
        if real in visited:  # symbolic links may form cycles, or reach a folder twice
            links.append(f"{name}/ (a link to {visited[real]}/, which is listed already)")
            folders.clear()
            continue
        visited[real] = name
        inner += [] if name == "." else [name]
        folders[:] = sorted(child for child in folders if not layout.is_system_name(child))
        found += [(Path(folder) / child).relative_to(root).as_posix() for child in files]
    return found, inner, links


def _folders(names: Iterable[str]) -> set[str]:
    """All folders of an archive, whose own entries end with /, whether they have one or not."""
    found: set[str] = set()
    for folder in {name[: name.rfind("/") + 1] for name in names}:
        while (folder := folder.rstrip("/")) and folder not in found:
            found.add(folder)
            folder = folder[: folder.rfind("/") + 1]
    return found


def _unlistable(error: OSError) -> None:
    raise DdpmError(
        f"cannot list {error.filename}: {error.strerror or error}; make it readable, or move it "
        "out of the images"
    )


def _open_zip(path: Path) -> zipfile.ZipFile:
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


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _too_large(name: str, size: int) -> str:
    pixels = max(-(-size // _BYTES_PER_PIXEL), USUAL_PIXELS + 2)
    return (
        f"{name} has {size:,} bytes, more than the limit of {file_limit():,} for an image; if you "
        f"trust the file, add --max-pixels {pixels}"
    )


def _no_images(path: Path, files: Iterable[str]) -> str:
    suffixes = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    visible = (name for name in files if not layout.is_system_name(name))
    contents = describe_left_out(count_suffixes(visible), _KINDS) or "nothing"
    return f"no images in {path} (looked for {suffixes}, at any depth); it holds {contents}"


def _similar_names(path: Path) -> str:
    """What lies beside a path that is not there: "; did you mean photos? photos/ holds …"."""
    names = names_beside(path)
    near = near_names(path.name, names)
    meant = f" did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    others = [*near, *(name for name in names if name not in near)][:4]
    return f";{meant if near else ''} {path.parent}/ holds {', '.join(others)}" if names else ""


def names_beside(path: Path) -> list[str]:
    """The names in the folder that a path lies in, without hidden ones."""
    try:
        return sorted(e.name for e in path.parent.iterdir() if not layout.is_system_name(e.name))
    except OSError:
        return []
