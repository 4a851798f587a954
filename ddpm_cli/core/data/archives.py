"""Image files of a folder or a .zip, listed once in a fixed order and read by index.

Nothing is decoded here (see `files`) and nothing is ever unpacked to disk, so a member called
`../x.png` is a name like any other.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Protocol

from ddpm_cli.core.data.files import SUFFIXES, UnreadableError, is_image_file
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError

TEXTS = (".txt", ".csv", ".jsonl")
FILE_LIMIT = 256 * 2**20  # bytes of one image file, uncompressed
_HASHED_FILES = 64  # files, at most, whose first bytes enter a folder's fingerprint
_HASHED_BYTES = 2**14  # of each of them


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
        """Names of the .txt, .csv and .jsonl files, which may contain captions."""

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


def open_image_files(path: Path) -> ImageFiles:
    """List the image files of a folder or a .zip. Raises DdpmError where there are none."""
    if path.is_dir():
        return FolderFiles(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return ZipFiles(path)
    if path.exists():
        raise DdpmError(f"{path} is neither a folder nor a .zip of images")
    raise DdpmError(f"{path}: no such folder or .zip{_similar_names(path)}")


class FolderFiles:
    """The image files under a folder, at any depth; hidden files and folders are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = _walk(path)
        self.names, self.texts = _image_names(files), _text_names(files)
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
            size = file.stat().st_size
            if size > FILE_LIMIT:
                raise UnreadableError(_too_large(str(file), size))
            return file.read_bytes()
        except OSError as error:
            raise UnreadableError(f"{file}: {error.strerror or error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and the first bytes of some of the files."""
        sizes = (f"{name}\0{self._status(name)[:1]}" for name in self.names)
        chosen = self.names[:: -(-len(self.names) // _HASHED_FILES)]
        return _digest(chain(sizes, (f"{name}\0{self._hash_start(name)}" for name in chosen)))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times."""
        return _digest(f"{name}\0{self._status(name)}" for name in self.names)

    def _status(self, name: str) -> tuple[int, ...]:
        """Size in bytes and modification time; () for a broken link, which fails when read."""
        try:
            status = (self.path / name).stat()
        except OSError:
            return ()
        return status.st_size, status.st_mtime_ns

    def _hash_start(self, name: str) -> str:
        try:
            with (self.path / name).open("rb") as file:
                return hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()
        except OSError:
            return ""


class ZipFiles:
    """The image files in a .zip, read in place; hidden members are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: tuple[int, zipfile.ZipFile, threading.Lock] | None = None
        with _open_zip(path) as archive:
            files = {_member_name(info): info for info in archive.infolist() if not info.is_dir()}
        visible = [name for name in files if not any(map(_is_hidden, name.split("/")))]
        self.names, self.texts = _image_names(visible), _text_names(visible)
        self._members = {name: files[name] for name in (*self.names, *self.texts)}
        if not self.names:
            raise DdpmError(_no_images(path, files))

    def read(self, index: int) -> bytes:
        """Uncompress one member in memory, with its size limited and its CRC checked."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return _decode_text(self._bytes(name), f"{self.path}:{name}")

    def _bytes(self, member_name: str) -> bytes:
        member, name = self._members[member_name], f"{self.path}:{member_name}"
        if member.flag_bits & 1:
            raise UnreadableError(
                f"{name} is encrypted; unpack the archive and give the folder instead"
            )
        if member.file_size > FILE_LIMIT:  # zipfile reads no more than this declared size
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
        return _digest(f"{name}\0{member.file_size}\0{member.CRC:08x}" for name, member in pairs)

    def cache_key(self) -> str:
        """The fingerprint: the CRCs detect every change."""
        return self.fingerprint()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}

    def _open(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        # A forked process shares its parent's file position and perhaps an acquired lock, so each
        # process opens the archive itself.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), _open_zip(self.path), threading.Lock())
        return self._handle[1:]


def _image_names(names: Collection[str]) -> tuple[str, ...]:
    """The image files, sorted, without the grid.png of folders that `ddpm sample` wrote."""
    folders = [
        name.removesuffix("sampling.json") for name in names if name.endswith("sampling.json")
    ]
    grids = {f"{folder}grid.png" for folder in folders}
    return tuple(sorted(name for name in names if is_image_file(name) and name not in grids))


def _text_names(names: Collection[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.lower().endswith(TEXTS))


def _decode_text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{name} is not UTF-8 (byte {error.start + 1} is {data[error.start]:#04x}); save it as "
            "UTF-8"
        ) from error


def _walk(root: Path) -> list[str]:
    found, visited = [], set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unlistable):
        real = os.path.realpath(folder)
        if real in visited:  # symbolic links may form cycles, or reach a folder twice
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return found


def _unlistable(error: OSError) -> None:
    raise DdpmError(f"cannot list {error.filename}: {error.strerror or error}")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGED_FILE as error:
        raise DdpmError(
            f"{path}: not a zip archive, or truncated ({str(error).lower()}); copy it again"
        ) from error
    except OSError as error:
        raise DdpmError(f"cannot open {path}: {error.strerror or error}") from error


def _member_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # some Windows tools write backslashes


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name not in (".", "..")


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _too_large(name: str, size: int) -> str:
    return f"{name} has {size:,} bytes, more than the limit of {FILE_LIMIT:,} for an image"


def _no_images(path: Path, files: Iterable[str]) -> str:
    suffixes = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in files)
    contents = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4)) or "nothing"
    return f"no images in {path} (looked for {suffixes}, at any depth); it holds {contents}"


def _similar_names(path: Path) -> str:
    try:
        others = sorted(entry.name for entry in path.parent.iterdir() if not _is_hidden(entry.name))
    except OSError:
        return ""
    near = [name for name in others if name.lower().startswith(path.name[:3].lower())] or others
    return f"; {path.parent}/ holds {', '.join(near[:4])}" if near else ""
