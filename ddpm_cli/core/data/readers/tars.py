"""Image files of tar archives, also in shards as WebDataset has them, read in place by index.

Members are never unpacked to disk, so one called `../x.png` is a name like any other. A compressed
archive cannot be read by index: it is decompressed into the cache, once.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.annotations.classes import Classes, classes_of
from ddpm_cli.core.data.annotations.label_files import NAME_FILES
from ddpm_cli.core.data.files import UnreadableError, is_image_file
from ddpm_cli.core.data.readers.decompressed import COMPRESSED, decompressed
from ddpm_cli.core.data.readers.tar_headers import read_headers
from ddpm_cli.core.data.readers.tree import (
    Tree,
    decode_text,
    digest,
    file_limit,
    folders_of,
    no_images,
    read_at,
    read_file,
    too_large,
)
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

SUFFIXES = (".tar", *COMPRESSED)

_HASHED_FILES = 64  # images, at most, whose first bytes enter the fingerprint
_HASHED_BYTES = 2**14  # of each of them
_LINKS = 8  # that lead to one another, at most
_KINDS = {  # of members that are no files
    tarfile.SYMTYPE: "links to what is not in it",
    tarfile.LNKTYPE: "links to what is not in it",
    tarfile.CHRTYPE: "devices",
    tarfile.BLKTYPE: "devices",
    tarfile.FIFOTYPE: "pipes",
    tarfile.GNUTYPE_SPARSE: "sparse files",
}


class _Member(NamedTuple):
    """Where the bytes of a member lie."""

    shard: int
    offset: int
    size: int


def is_tar(path: Path) -> bool:
    """Whether a path has the name of a tar archive, compressed or not."""
    return path.name.lower().endswith(SUFFIXES)


def shards_in(folder: Path) -> list[Path]:
    """The tar archives of a folder which holds, but for texts, nothing else; [] of any other."""
    entries = [e for e in _visible(folder) if not e.name.lower().endswith(layout.TEXTS)]
    paths = [folder / entry.name for entry in entries]
    return sorted(paths) if paths and all(is_tar(p) and p.is_file() for p in paths) else []


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder up to the first that shows that it holds no archives."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not layout.is_system_name(entry.name):
                    yield entry
                    if is_image_file(entry.name):
                        return
    except OSError:  # who lists it says what is wrong
        return


def shards_of_part(
    folder: Path, shards: Sequence[Path], *, training: bool
) -> tuple[list[Path], tuple[str, ...]]:
    """Of shards such as set-train-000.tar and set-val-000.tar those to train on, and a notice.

    Raises DdpmError where several parts could be meant.
    """
    kinds = {shard: _part_kind(_stem(shard)) for shard in shards}
    if len(set(kinds.values())) == 1:
        return list(shards), ()
    names = [shard.name for shard in shards]
    trains = [shard for shard, kind in kinds.items() if kind == "train"]
    if not training or not trains:
        raise DdpmError(
            f"{folder} holds shards of several parts ({listed(names, 4)}): name those that are "
            f"meant, as {folder}/NAME-{{000..127}}.tar"
        )
    others = [shard.name for shard in shards if shard not in trains]
    what = f"only {listed([shard.name for shard in trains], 2)} are trained on"
    return trains, (f"{folder}: {what}; left out: {listed(others, 4)}",)


def _part_kind(stem: str) -> str | None:
    """train or test, by a word of the name of a shard; None without one."""
    kinds = (layout.part_kind(word) for word in re.split(r"[-_.]", stem))
    return next((kind for kind in kinds if kind), None)


class TarFiles(Tree):
    """The image files in tar archives; those of several are one set of images.

    path: what the user named; inside: a folder in the only archive, "." for the whole; notices:
    what was said of the choice of archives.
    """

    def __init__(
        self,
        path: Path,
        archives: Sequence[Path],
        inside: str = ".",
        *,
        training: bool = False,
        notices: Sequence[str] = (),
        reporter: Reporter = SILENT,
    ) -> None:
        self.path = path
        self._archives = tuple(archives)
        self._files = tuple(decompressed(archive, reporter) for archive in archives)
        self._left_out: Counter[str] = Counter()
        self._continued: list[str] = []
        self._prefixes = [""]
        self._members = self._list_all()
        if inside != ".":
            prefix = f"{inside}/"
            below = {n: m for n, m in self._members.items() if n.startswith(prefix)}
            self._members = {name.removeprefix(prefix): m for name, m in below.items()}
            if not self._members:
                raise DdpmError(f"{archives[0]} holds no folder {inside}")
        visible = [name for name in self._members if not layout.is_system_name(name)]
        folders = folders_of([*visible, *self._prefixes])
        arranged = layout.arrange(
            path, visible, folders, self.text, training=training, archived=True
        )
        self.names, self.texts, self._part = arranged.images, arranged.texts, arranged.part
        if not self.names:
            raise DdpmError(no_images(path, self._members))
        self.notices = (*notices, *arranged.notices, *self._notices())
        self._members = {name: self._members[name] for name in (*self.names, *self.texts)}

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process. Raises UnreadableError."""
        return self._bytes(self.names[index])

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
        return decode_text(self._bytes(name), self._place(name))

    @cached_property
    def _classes(self) -> Classes:
        texts = self.texts | self._names_beside.keys()
        found = classes_of(self.names, texts, self._class_text, self._without_shard)
        return replace(found, files=found.files - self._names_beside.keys())

    @cached_property
    def _names_beside(self) -> dict[str, Path]:
        """The files beside several shards that may name their classes, as classes.txt."""
        if self._archives == (self.path,):  # what lies beside a single archive may be anything
            return {}
        beside = {name: self._archives[0].parent / name for name in NAME_FILES}
        return {name: file for name, file in beside.items() if file.is_file()}

    def _class_text(self, name: str) -> str:
        if name in self._members or name not in self._names_beside:
            return self.text(name)
        file = self._names_beside[name]
        return decode_text(read_file(file), str(file))

    def fingerprint(self) -> str:
        """Hash the names and sizes of the images, and the first bytes of some."""
        own = len(self._part)
        sizes = (f"{name[own:]}\0{self._members[name].size}" for name in self.names)
        chosen = self.names[:: -(-len(self.names) // _HASHED_FILES)]
        return digest(chain(sizes, (f"{name[own:]}\0{self._start(name)}" for name in chosen)))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times of the archives, and which images count."""
        found = ((path.name, path.stat()) for path in self._archives)
        statuses = (f"{name}\0{status.st_size}\0{status.st_mtime_ns}" for name, status in found)
        return digest(chain(statuses, self.names))

    def _start(self, name: str) -> str:
        try:
            return digest([repr(self._bytes(name)[: 2**14])])
        except UnreadableError:
            return ""

    def _list_all(self) -> dict[str, _Member]:
        """The members of all archives; their names begin with the archive's where they repeat."""
        found = [self._list(shard) for shard in range(len(self._archives))]
        names = Counter(name for members in found for name in members)
        if len(names) == sum(map(len, found)):
            return {name: member for members in found for name, member in members.items()}
        self._prefixes = [f"{_stem(archive)}/" for archive in self._archives]
        return {
            prefix + name: member
            for prefix, members in zip(self._prefixes, found, strict=True)
            for name, member in members.items()
        }

    def _list(self, shard: int) -> dict[str, _Member]:
        """The members of one archive, from one pass over its headers. Raises DdpmError."""
        archive, members, links = self._archives[shard], dict[str, _Member](), dict[str, str]()

        def take(info: tarfile.TarInfo) -> None:
            self._add(info, shard, members, links)

        if read_headers(archive, self._files[shard], take):
            self._continued.append(archive.name)
        for name, target in links.items():
            for _ in range(_LINKS):  # a link may lead to another
                target = target if target in members else links.get(target, target)
            if target in members:
                members[name] = members[target]
            else:
                self._left_out[_KINDS[tarfile.SYMTYPE]] += 1
        return members

    def _add(
        self, info: tarfile.TarInfo, shard: int, members: dict[str, _Member], links: dict[str, str]
    ) -> None:
        """Add a member to the files or the links, or count it as left out."""
        name = info.name.replace("\\", "/").removeprefix("./")
        if info.isdir() or not name:
            return
        if info.issym() or info.islnk():
            folder = "" if info.islnk() else posixpath.dirname(name)
            links[name] = posixpath.normpath(posixpath.join(folder, info.linkname))
        elif info.isreg() and info.sparse is None:
            if name in members:
                self._left_out["files of a name that a later one has, too"] += 1
            members[name] = _Member(shard, info.offset_data, info.size)
        else:
            self._left_out[_KINDS.get(info.type, "members of unknown kinds")] += 1

    def _notices(self) -> list[str]:
        """What of the archives is no file, and images that belong together."""
        kinds = [f"{count:,} {kind}" for kind, count in self._left_out.items()]
        notices = [f"{self.path}: left out: {', '.join(kinds)}"] if kinds else []
        if self._continued:
            notices.append(
                f"{self.path}: not read: what follows the end of {listed(self._continued, 3)} "
                "(tar -A joins archives; cat does not)"
            )
        keys = Counter(_key(name) for name in self.names if _key(name) + ".cls" in self.texts)
        if several := [key for key, count in keys.items() if count > 1]:
            notices.append(
                f"{self.path}: {len(several):,} samples have several images, and each is used by "
                f"itself: {listed(several, 3)}"
            )
        return notices

    def _without_shard(self, name: str) -> str:
        """The name in its archive."""
        return name.partition("/")[2] if self._prefixes != [""] else name

    def _place(self, name: str) -> str:
        return f"{self._archives[self._members[name].shard]}:{self._without_shard(name)}"

    def _bytes(self, name: str) -> bytes:
        member, place = self._members[name], self._place(name)
        if member.size > file_limit():
            raise UnreadableError(too_large(place, member.size))
        try:
            data = read_at(self._files[member.shard], member.offset, member.size)
        except OSError as error:
            raise UnreadableError(f"{place}: {error.strerror or error}") from error
        if len(data) < member.size:
            raise UnreadableError(f"{place}: the archive has changed since it was listed")
        return data


def _key(name: str) -> str:
    """What the files of a WebDataset's sample share: up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _stem(archive: Path) -> str:
    """The name of an archive without its suffix."""
    suffix = next(s for s in sorted(SUFFIXES, key=len)[::-1] if archive.name.lower().endswith(s))
    return archive.name[: -len(suffix)]
