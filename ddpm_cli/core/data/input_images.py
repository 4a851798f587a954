"""Images that a user hands to a model: a file, or those of a folder or archive, at their own sizes.

They keep their names and their order: what a model makes of `cats/tom.jpg` is `cats/tom.png`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config import paths
from ddpm_cli.core.data import files
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.pairs import match, stem
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, first_line, listed
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, track

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".parquet", ".npy", ".npz")
_MANY = 500  # images, the reading of which takes a while
_TAKEN = "grid.png"  # the name of a picture of all, beside what is made of them

Arrays = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
PathOrArrays = str | Path | Arrays


@dataclass(frozen=True)
class InputImages:
    """Images by index, each with its name and its own size."""

    path: str  # as the user gave it
    names: tuple[str, ...]  # with `/` between folders; of a single file its name
    single: bool  # whether one image was named, and not a collection of them
    decode: Callable[[int, Transform], ImageArray]  # Raises UnreadableError
    size_of: Callable[[int], tuple[int, int]]  # (height, width) in pixels. Raises UnreadableError

    @classmethod
    def open(cls, given: PathOrArrays, option: str, reporter: Reporter = SILENT) -> InputImages:
        """The images of an option: a file, what `--data` takes, or arrays (H, W) or (H, W, C).

        Raises DdpmError where there are none.
        """
        if not isinstance(given, str | Path):
            return cls._of_arrays(given)
        path = paths.expanded(given)
        if path.is_file() and path.suffix.lower() not in _ARCHIVES:
            return cls._of_file(path)
        if not path.exists() and files.is_image_file(path.name):
            raise DdpmError(f"{option} {path}: no such file{paths.near(path)}")
        try:
            source = open_source(str(given), reporter)
        except DdpmError as error:
            raise DdpmError(f"{option} {error}") from error
        for notice in source.notices:
            reporter.say(notice)
        return cls._of_source(str(given), source)

    @classmethod
    def _of_file(cls, path: Path) -> InputImages:
        def content() -> bytes:
            try:
                return path.read_bytes()
            except OSError as error:
                raise files.UnreadableError(f"{path}: {first_line(error)}") from error

        return cls(
            str(path),
            (path.name,),
            True,
            lambda _, transform: files.decode(content(), str(path), transform),
            lambda _: files.probe(content(), str(path))[0],
        )

    @classmethod
    def _of_source(cls, path: str, source: Source) -> InputImages:
        numbered = tuple(f"{index:06d}.png" for index in range(len(source)))
        names = source.files.names if isinstance(source, FileSource) else numbered
        return cls(path, names, False, source.image, source.size_of)

    @classmethod
    def _of_arrays(cls, arrays: Arrays) -> InputImages:
        single = isinstance(arrays, np.ndarray) and (
            arrays.ndim == 2 or (arrays.ndim == 3 and arrays.shape[2] in (1, 3, 4))
        )
        images: Sequence[NDArray[np.uint8]] = [arrays] if single else list(arrays)  # type: ignore[list-item]
        sources = [ArraySource([image]) for image in images]  # of one each: they check it
        names = tuple(f"{index:06d}.png" for index in range(len(images)))
        return cls(
            "arrays",
            names,
            single,
            lambda index, transform: sources[index].image(0, transform),
            lambda index: sources[index].size_of(0),
        )

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int, channels: int) -> ImageArray:
        """An image (channels, H, W) at its own size: grey, RGB or RGBA. Raises UnreadableError."""
        return self.decode(index, Transform(channels, srgb=True))

    def row_of(self, name: str, option: str) -> int:
        """The index of the image of that name; 0 of a single one. Raises DdpmError."""
        if len(self) > 1 and name not in self.names:
            raise DdpmError(
                f"{option} {self.path} lacks {name}, of which the image of --like was made; it has "
                f"{listed(self.names, 5)}"
            )
        return self.names.index(name) if name in self.names else 0

    def only(self, row: int) -> InputImages:
        """The image of that index alone."""
        return replace(
            self,
            names=(self.names[row],),
            single=True,
            decode=lambda _, transform: self.decode(row, transform),
            size_of=lambda _: self.size_of(row),
        )

    def pixels_sha256(self, index: int, channels: int) -> str:
        """SHA-256 of the size and pixels of an image. Raises UnreadableError."""
        return pixels_sha256(self.image(index, channels))

    def digest(self, channels: int, reporter: Reporter = SILENT) -> str:
        """SHA-256 of all names and pixels, which reads every image. Raises UnreadableError."""
        found = hashlib.sha256()
        reporter = reporter if len(self) > _MANY else SILENT
        indices = track(range(len(self)), reporter, f"reading {self.path}", len(self), "images")
        for index in indices:
            image = self.image(index, channels)
            found.update(f"{self.names[index]}\0{image.shape}\0".encode())
            found.update(np.ascontiguousarray(image).data)
        return found.hexdigest()

    def paired(self, others: InputImages, option: str) -> tuple[int, ...]:
        """For each image the index of the other of its name, as `match` says; a single one is
        every image's. Raises DdpmError where one has none, or several.
        """
        if others.single:
            return (0,) * len(self)
        return match(self.names, others.names, f"{option} {others.path}")


def pixels_sha256(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an array's shape and values."""
    values = np.ascontiguousarray(image)
    return hashlib.sha256(f"{image.shape}\0".encode() + values.tobytes()).hexdigest()


def output_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The file names of `count` images made of those of these names, one after the other.

    They are PNGs in the same folders; from the second of an image on they are NAME-2.png,
    NAME-3.png, … No two are equal, in capitals or not, as many disks do not tell those apart; a
    larger count changes none.
    """
    taken, found = {_TAKEN}, list[str]()
    for index in range(count):
        name, turn = _inside(names[index % len(names)]), index // len(names)
        candidates = _candidates(name, turn)
        found.append(next(free for free in candidates if free.casefold() not in taken))
        taken.add(found[-1].casefold())
    return tuple(found)


def _inside(name: str) -> str:
    """A name that leads nowhere else: those of an archive's members may be absolute, or go up."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _candidates(name: str, turn: int) -> Iterator[str]:
    suffix = f"-{turn + 1}" if turn else ""
    yield f"{stem(name)}{suffix}.png"
    while True:
        yield f"{name}{suffix}.png"
        name += "_"
