"""Image files of a folder, listed once in a fixed order and read by index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.readers.tree import (
    Tree,
    decode_text,
    digest,
    no_images,
    read_file,
)
from ddpm_cli.core.errors import DdpmError

_HASHED_FILES = 64  # files, at most, whose first bytes enter a folder's fingerprint
_HASHED_BYTES = 2**14  # of each of them
_AT_A_TIME = 4096  # numbers made Python's own, which are larger


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
        return read_file(self.path / self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return decode_text(read_file(self.path / name), str(self.path / name))

    def fingerprint(self) -> str:
        """Hash names, sizes and the first bytes of some of the files."""
        own = len(self._part)  # the images of a training part are the same by its own path
        found = zip(self.names, self._statuses(), strict=True)
        sizes = (f"{name[own:]}\0{status[:1]}" for name, status in found)
        chosen = self.names[:: -(-len(self.names) // _HASHED_FILES)]
        starts = (f"{name[own:]}\0{self._hash_start(name)}" for name in chosen)
        return digest(chain(sizes, starts))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times."""
        own, found = len(self._part), zip(self.names, self._statuses(), strict=True)
        return digest(f"{name[own:]}\0{status}" for name, status in found)

    def _statuses(self) -> Iterator[tuple[int, ...]]:
        """Each image's size in bytes and modification time; () for a broken link."""
        for start in range(0, len(self.names), _AT_A_TIME):
            for status in self._stats[start : start + _AT_A_TIME].tolist():
                yield tuple(status) if status[0] >= 0 else ()

    @cached_property
    def _stats(self) -> NDArray[np.int64]:
        """The same, read once: (N, 2), -1 for a broken link."""
        root, stats = f"{self.path}/", np.full((len(self.names), 2), -1, np.int64)
        for index, name in enumerate(self.names):
            try:
                status = os.stat(root + name)  # noqa: PTH116 (a Path takes four times as long)
            except OSError:
                continue
            stats[index] = status.st_size, status.st_mtime_ns
        return stats

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
    """All files and folders under a folder but hidden ones, and in words the links not followed.

    Millions of files are named by strings alone: a Path of each would take most of the time.
    """
    found: list[str] = []
    inner: list[str] = []
    links: list[str] = []
    visited: dict[str, str] = {}
    waiting = [""]  # folders, with their /; "" is the root
    while waiting:
        folder = waiting.pop()
        name, place = folder[:-1] or ".", f"{root}/{folder}"
        real = os.path.realpath(place)
        if real in visited:  # symbolic links may form cycles, or reach a folder twice
            links.append(f"{name}/ (a link to {visited[real]}/, which is listed already)")
            continue
        visited[real] = name
        inner += [folder[:-1]] if folder else []
        folders, files = _entries(place)
        found += [folder + file for file in files]
        visible = (child for child in folders if not layout.is_system_name(child))
        waiting += [f"{folder}{child}/" for child in sorted(visible, reverse=True)]
    return found, inner, links


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder; what a link leads to decides."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise _unlistable(error) from error
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _unlistable(error: OSError) -> DdpmError:
    return DdpmError(
        f"cannot list {error.filename}: {error.strerror or error}; make it readable, or move it "
        "out of the images"
    )
