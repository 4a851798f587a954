"""Where picture files lie: a folder or a .zip, listed once, in one order, read by index.

Nothing is decoded here (that is `files`) and nothing is ever unpacked to disk, so a member called
`../x.png` is a label like any other.
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
FILE_LIMIT = 256 * 2**20  # bytes of one picture file, unpacked: above it, it is no picture of ours
_SAMPLED = 64  # files, at most, of which a folder's fingerprint knows
_BEGINNING = 2**14  # the first bytes


class ImageFiles(Protocol):
    """Picture files in a fixed order, whatever holds them."""

    @property
    def path(self) -> Path:
        """The folder or archive."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names relative to the root, with `/` between folders, sorted."""

    @property
    def texts(self) -> frozenset[str]:
        """Names of other files, which may say what the pictures show: .txt, .csv and .jsonl."""

    def read(self, index: int) -> bytes:
        """Read one file's bytes, from any thread or process. Raises UnreadableError."""

    def text(self, name: str) -> str:
        """Read one of the texts. Raises UnreadableError where it is not UTF-8."""

    def fingerprint(self) -> str:
        """Hash what tells one set of pictures from another, wherever a copy lies (64 hex digits).

        Without reading them all, so a change may go unnoticed that keeps a file's size.
        """

    def stamp(self) -> str:
        """Hash what changes whenever a file is written, if only as a copy: what caches go by."""


def open_image_files(path: Path) -> ImageFiles:
    """List the pictures of a folder or a .zip. Raises DdpmError where there are none."""
    if path.is_dir():
        return FolderFiles(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return ZipFiles(path)
    if path.exists():
        raise DdpmError(f"{path} is neither a folder nor a .zip of images")
    raise DdpmError(f"{path}: no such folder or .zip{_neighbours(path)}")


class FolderFiles:
    """The pictures under a folder, at any depth; hidden files and folders are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = _walk(path)
        self.names, self.texts = _pictures_among(found), _texts_among(found)
        if not self.names:
            raise DdpmError(_nothing_in(path, found))

    def read(self, index: int) -> bytes:
        """Read one file's bytes, from any thread or process."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the texts. Raises UnreadableError where it is not UTF-8."""
        return _as_text(self._bytes(name), str(self.path / name))

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
        """Hash names, sizes and how some of the files begin."""
        sizes = (f"{name}\0{self._status(name)[:1]}" for name in self.names)
        some = self.names[:: -(-len(self.names) // _SAMPLED)]
        return _digest(chain(sizes, (f"{name}\0{self._beginning(name)}" for name in some)))

    def stamp(self) -> str:
        """Hash names, sizes and times of change."""
        return _digest(f"{name}\0{self._status(name)}" for name in self.names)

    def _status(self, name: str) -> tuple[int, ...]:
        """Size in bytes and time of change; nothing of a broken link: reading it will say so."""
        try:
            status = (self.path / name).stat()
        except OSError:
            return ()
        return status.st_size, status.st_mtime_ns

    def _beginning(self, name: str) -> str:
        try:
            with (self.path / name).open("rb") as file:
                return hashlib.sha256(file.read(_BEGINNING)).hexdigest()
        except OSError:
            return ""


class ZipFiles:
    """The pictures in a .zip, read where they lie; hidden members are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: tuple[int, zipfile.ZipFile, threading.Lock] | None = None
        with _open_zip(path) as archive:
            files = {_label(info): info for info in archive.infolist() if not info.is_dir()}
        shown = [name for name in files if not any(map(_hidden, name.split("/")))]
        self.names, self.texts = _pictures_among(shown), _texts_among(shown)
        self._members = {name: files[name] for name in (*self.names, *self.texts)}
        if not self.names:
            raise DdpmError(_nothing_in(path, files))

    def read(self, index: int) -> bytes:
        """Unpack one member in memory, its size bounded, its CRC checked."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the texts. Raises UnreadableError where it is not UTF-8."""
        return _as_text(self._bytes(name), f"{self.path}:{name}")

    def _bytes(self, label: str) -> bytes:
        member, name = self._members[label], f"{self.path}:{label}"
        if member.flag_bits & 1:
            raise UnreadableError(f"{name} is encrypted; unpack the archive and give the folder")
        if member.file_size > FILE_LIMIT:  # zipfile unpacks no more than this size, even if it lies
            raise UnreadableError(_too_large(name, member.file_size))
        archive, lock = self._here()
        try:
            with lock:
                return archive.read(member)
        except (OSError, *DAMAGED_FILE) as error:
            raise UnreadableError(f"{name}: {error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and CRCs."""
        pairs = ((name, self._members[name]) for name in self.names)
        return _digest(f"{name}\0{member.file_size}\0{member.CRC:08x}" for name, member in pairs)

    def stamp(self) -> str:
        """The fingerprint: CRCs tell of every change."""
        return self.fingerprint()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}

    def _here(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        # A forked process shares its parent's file position (and perhaps a held lock): each process
        # opens the archive itself.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), _open_zip(self.path), threading.Lock())
        return self._handle[1:]


def _pictures_among(names: Collection[str]) -> tuple[str, ...]:
    """The pictures, sorted, without the contact sheets that lie beside drawn pictures."""
    folders = [
        name.removesuffix("sampling.json") for name in names if name.endswith("sampling.json")
    ]
    sheets = {f"{folder}grid.png" for folder in folders}
    return tuple(sorted(name for name in names if is_image_file(name) and name not in sheets))


def _texts_among(names: Collection[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.lower().endswith(TEXTS))


def _as_text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{name} is not UTF-8 (byte {error.start + 1} is {data[error.start]:#04x}); save it so"
        ) from error


def _walk(root: Path) -> list[str]:
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unlistable):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would go on for ever, one sideways count twice
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return found


def _unlistable(error: OSError) -> None:
    raise DdpmError(f"cannot list {error.filename}: {error.strerror or error}")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGED_FILE as error:
        why = "not a zip archive, or cut short in copying"
        raise DdpmError(f"{path}: {why} ({str(error).lower()})") from error
    except OSError as error:
        raise DdpmError(f"cannot open {path}: {error.strerror or error}") from error


def _label(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # as some Windows tools write them


def _hidden(name: str) -> bool:
    return name.startswith(".") and name not in (".", "..")


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _too_large(name: str, size: int) -> str:
    return f"{name} holds {size:,} bytes, more than the {FILE_LIMIT:,} read of one picture"


def _nothing_in(path: Path, found: Iterable[str]) -> str:
    looked = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in found)
    held = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4)) or "nothing"
    return f"no images in {path} (looked for {looked}, at any depth); it holds {held}"


def _neighbours(path: Path) -> str:
    try:
        others = sorted(entry.name for entry in path.parent.iterdir() if not _hidden(entry.name))
    except OSError:
        return ""
    near = [name for name in others if name.lower().startswith(path.name[:3].lower())] or others
    return f"; {path.parent}/ holds {', '.join(near[:4])}" if near else ""
