"""Image files of a .zip, or of a folder in one, listed once and read in place by index.

Nothing is ever unpacked to disk, so a member called `../x.png` is a name like any other.
"""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers.tree import (
    Tree,
    decode_text,
    digest,
    file_limit,
    folders_of,
    no_images,
    too_large,
)
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import describe_file


class ZipFiles(Tree):
    """The image files in a .zip, or in one of its folders, read in place; hidden ones are skipped.

    inside: that folder; "." for the whole archive.
    """

    def __init__(self, path: Path, inside: str = ".", *, training: bool = False) -> None:
        self._archive = path
        self.path = path / inside
        self._handle: tuple[int, zipfile.ZipFile, threading.Lock] | None = None
        archive, _ = self._open()
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
            self.path, visible, folders_of(entries), self.text, training=training
        )
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        self.notices = arranged.notices
        if not self.names:
            raise DdpmError(no_images(self.path, self._members))
        self._members = {name: self._members[name] for name in (*self.names, *self.texts)}

    def read(self, index: int) -> bytes:
        """Uncompress one member in memory, with its size limited and its CRC checked."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return decode_text(self._bytes(name), f"{self._archive}:{name}")

    def _bytes(self, member_name: str) -> bytes:
        member, name = self._members[member_name], f"{self._archive}:{member_name}"
        if member.flag_bits & 1:
            raise UnreadableError(
                f"{name} is encrypted; unpack the archive and give the folder instead"
            )
        if member.file_size > file_limit():  # zipfile reads no more than this declared size
            raise UnreadableError(too_large(name, member.file_size))
        archive, lock = self._open()
        try:
            with lock:
                return archive.read(member)
        except (OSError, *DAMAGED_FILE) as error:
            raise UnreadableError(f"{name}: {error}") from error

    def fingerprint(self) -> str:
        """Hash names, sizes and CRCs."""
        pairs = ((name, self._members[name]) for name in self.names)
        return digest(
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
