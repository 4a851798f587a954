"""Image files of a folder, listed once in a fixed order and read by index."""

from __future__ import annotations

import hashlib
import os
import stat
from itertools import chain
from pathlib import Path

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers.tree import (
    Tree,
    decode_text,
    digest,
    file_limit,
    no_images,
    too_large,
)
from ddpm_cli.core.errors import DdpmError

_HASHED_FILES = 64  # files, at most, whose first bytes enter a folder's fingerprint
_HASHED_BYTES = 2**14  # of each of them


class FolderFiles(Tree):
    """The image files under a folder, at any depth; hidden files and folders are skipped."""

    def __init__(self, path: Path, *, training: bool = False) -> None:
        self.path = path
        layout.refuse_previews(path, self.text)
        files, folders, links = _walk(path)
        arranged = layout.arrange(path, files, folders, self.text, training=training)
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        self.notices = (*arranged.notices, *(f"{path}: left out: {link}" for link in links))
        if not self.names:
            raise DdpmError(no_images(path, files))

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return decode_text(self._bytes(name), str(self.path / name))

    def _bytes(self, name: str) -> bytes:
        file = self.path / name
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise UnreadableError(f"{file} is not a regular file")
            if status.st_size > file_limit():
                raise UnreadableError(too_large(str(file), status.st_size))
            return file.read_bytes()
        except OSError as error:
            raise UnreadableError(f"{file}: {error.strerror or error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and the first bytes of some of the files."""
        sizes = (f"{self._own(name)}\0{self._status(name)[:1]}" for name in self.names)
        chosen = self.names[:: -(-len(self.names) // _HASHED_FILES)]
        starts = (f"{self._own(name)}\0{self._hash_start(name)}" for name in chosen)
        return digest(chain(sizes, starts))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times."""
        return digest(f"{self._own(name)}\0{self._status(name)}" for name in self.names)

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


def _unlistable(error: OSError) -> None:
    raise DdpmError(
        f"cannot list {error.filename}: {error.strerror or error}; make it readable, or move it "
        "out of the images"
    )
