"""Image sources: a folder or .zip of images, the built-in shapes, data sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config import paths
from ddpm_cli.core.data import captions, files, named
from ddpm_cli.core.data.archives import ImageFiles, open_image_files
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

_PROBED = 512  # headers read, at most, to find the size and whether all are grey
_LARGEST_NATIVE = 64  # pixels; larger images, or images of mixed sizes, are resized to this


class Source(Protocol):
    """Images by index, with class labels and captions where there are any."""

    @property
    def name(self) -> str:
        """A short name, used for the run directory."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The images' own (height, width), in pixels; None where they differ."""

    @property
    def native_size(self) -> tuple[int, int]:
        """The default (height, width) for training, in pixels."""

    @property
    def native_channels(self) -> int:
        """1 where all images are grey, else 3."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty without classes."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) indices into classes; -1 without classes."""

    @property
    def unclassified(self) -> tuple[str, ...]:
        """Images outside the class folders where others are inside; then there are no classes."""

    @property
    def fingerprint(self) -> str:
        """Identifies the images; the same for every copy of them."""

    @property
    def cache_key(self) -> str:
        """Changes whenever the images may have changed; the key of caches."""

    @property
    def captioned(self) -> bool:
        """Whether there are captions to train on by default."""

    def __len__(self) -> int: ...

    def captions(self) -> Captions:
        """The captions of all images. Raises DdpmError where some or all have none."""

    def image(self, index: int, channels: int, size: tuple[int, int]) -> ImageArray:
        """One image as uint8 (channels, height, width). Raises UnreadableError."""


class FileSource:
    """Image files; the first folder level is the classes."""

    def __init__(self, listing: ImageFiles) -> None:
        self._files = listing
        path = listing.path.resolve()
        self.name = (path.name if path.is_dir() else path.stem) or "images"
        self.classes, self.labels, self.unclassified = _classes_of(listing.names)
        self.fingerprint, self.cache_key = listing.fingerprint(), listing.cache_key()
        self.image_size, self.native_channels = self._probe()
        self.native_size = (_LARGEST_NATIVE, _LARGEST_NATIVE)
        if self.image_size is not None and max(self.image_size) <= _LARGEST_NATIVE:
            self.native_size = self.image_size

    def __len__(self) -> int:
        return len(self._files.names)

    @property
    def captioned(self) -> bool:
        """Whether there are caption files. Raises DdpmError for a table that cannot be parsed."""
        return captions.has_captions(self._files)

    def captions(self) -> Captions:
        """Read the caption files. Raises DdpmError where not all images have a caption."""
        return captions.from_files(self._files)

    def image(self, index: int, channels: int, size: tuple[int, int]) -> ImageArray:
        """Decode one file to uint8 (channels, height, width). Raises UnreadableError."""
        return files.decode(self._files.read(index), self._files.names[index], channels, size)

    def _probe(self) -> tuple[tuple[int, int] | None, int]:
        """The images' size, None where it differs, and channels: of up to _PROBED headers."""
        sizes: set[tuple[int, int]] = set()
        channels = 1
        for index in np.linspace(0, len(self) - 1, min(len(self), _PROBED)).astype(int):
            try:
                size, depth = files.probe(self._files.read(index), self._files.names[index])
            except files.UnreadableError:
                continue  # reported with all others when the images are decoded
            sizes.add(size)
            channels = max(channels, depth)
        if not sizes:
            raise DdpmError(f"none of the images probed in {self._files.path} can be read")
        return (next(iter(sizes)) if len(sizes) == 1 else None), channels


def open_source(spec: str, reporter: Reporter = SILENT) -> Source:
    """The source that `--data` names: "shapes", a data set ("mnist", "cifar10:test"), or a path.

    Says that it waits where another process is downloading the data set.
    """
    data_set = open_data_set(spec, reporter)
    if data_set is not None:
        return data_set
    path = paths.expanded(spec)
    if not path.exists():
        known = ", ".join(["shapes", *named.DATASETS])
        raise DdpmError(f"--data {spec}: no such folder or .zip, nor a data set's name ({known})")
    return FileSource(open_image_files(path))


def open_data_set(spec: str, reporter: Reporter = SILENT) -> Source | None:
    """The built-in shapes or a data set by name; None for any other name, and for a path."""
    name, _, split = spec.partition(":")
    if Path(spec).exists():  # an existing folder takes precedence over a data set of that name
        return None
    if spec == "shapes":
        return Shapes()
    if name in named.DATASETS:
        return named.NamedSource(name, split or "train", reporter)
    return None


def captions_of(source: Source, templates: Sequence[str]) -> Captions:
    """Captions from templates over the class names; without templates the source's own."""
    if templates:
        return captions.from_class_names(templates, source.classes, source.labels)
    return source.captions()


def _classes_of(
    names: Sequence[str],
) -> tuple[tuple[str, ...], NDArray[np.int64], tuple[str, ...]]:
    """Class names, labels and unclassified files, by the first folder level that is not shared.

    There are no classes where some files are in no folder of that level; those files are
    unclassified if others are in one.
    """
    parents = [name.split("/")[:-1] for name in names]
    while all(parents) and len({parts[0] for parts in parents}) == 1:
        parents = [parts[1:] for parts in parents]
    if not all(parents):
        unclassified = [name for name, parts in zip(names, parents, strict=True) if not parts]
        return (), np.full(len(names), -1), tuple(unclassified) if any(parents) else ()
    classes = sorted({parts[0] for parts in parents})
    index = {name: i for i, name in enumerate(classes)}
    return tuple(classes), np.array([index[parts[0]] for parts in parents]), ()
