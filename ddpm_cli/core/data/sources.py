"""Image sources: a folder or .zip of images, the built-in shapes, data sets by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config import paths
from ddpm_cli.core.config.fields import did_you_mean
from ddpm_cli.core.data import caption_files, captions, files, named
from ddpm_cli.core.data.archives import ImageFiles, names_beside, open_image_files
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.classes import classes_of
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

_PROBED = 512  # headers read, at most, to find the size and whether all are grey
_LARGEST_NATIVE = 64  # pixels; larger images, or images of mixed sizes, are resized to this

T = TypeVar("T")


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
    def transparent(self) -> bool:
        """Whether some images have transparency, which only 4 channels keep."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty without classes."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) indices into classes, -1 without classes; or (N, K): 1 for each that it has."""

    @property
    def why_no_classes(self) -> str:
        """Why there are no classes where there could be some; "" where all is in order."""

    @property
    def label_table(self) -> str:
        """Hash of the labels where a table gives them; "" where the images' names do."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out, or taken otherwise than its names say: one line each."""

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

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read; "" for none."""

    def size_of(self, index: int) -> tuple[int, int]:
        """One image's own (height, width), in pixels. Raises UnreadableError."""

    def image(self, index: int, channels: int, size: tuple[int, int]) -> ImageArray:
        """One image as uint8 (channels, height, width). Raises UnreadableError."""


class FileSource:
    """Image files; their classes are those of a dataset.json, or else the first folder level."""

    def __init__(self, listing: ImageFiles) -> None:
        self._files = listing
        path = listing.path.resolve()
        self.name = (path.name if path.is_dir() else path.stem) or "images"
        found = classes_of(listing.names, listing.texts, listing.text)
        self.classes, self.labels, self.why_no_classes = found.names, found.labels, found.why_none
        self.label_table = found.table
        self.notices = (*listing.notices, *(f"{listing.path}: {line}" for line in found.notices))
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
        return caption_files.find(self._files) is not None

    def captions(self) -> Captions:
        """Read the caption files. Raises DdpmError where not all images have a caption."""
        return caption_files.read(self._files)

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read."""
        return caption_files.unread(self._files, captions)

    @property
    def transparent(self) -> bool:
        """Whether any of the images probed has transparency."""
        found = self._headers(files.traits)
        return any("transparent" in traits for traits in found)

    def size_of(self, index: int) -> tuple[int, int]:
        """One image's own (height, width), from its header. Raises UnreadableError."""
        return files.probe(self._files.read(index), self._files.names[index])[0]

    def image(self, index: int, channels: int, size: tuple[int, int]) -> ImageArray:
        """Decode one file to uint8 (channels, height, width). Raises UnreadableError."""
        return files.decode(self._files.read(index), self._files.names[index], channels, size)

    def _probe(self) -> tuple[tuple[int, int] | None, int]:
        """The images' size, None where it differs, and channels: of up to _PROBED headers."""
        found = list(self._headers(files.probe))
        if not found:
            try:
                found.append(files.probe(self._files.read(0), self._files.names[0]))
            except files.UnreadableError as error:
                where = f"none of the images probed in {self._files.path} can be read"
                raise DdpmError(f"{where}: {error}") from error
        sizes = {size for size, _ in found}
        return (sizes.pop() if len(sizes) == 1 else None), max(channels for _, channels in found)

    def _headers(self, read: Callable[[bytes, str], T]) -> Iterator[T]:
        """What `read` finds in up to _PROBED files; the unreadable are reported when decoded."""
        for index in np.linspace(0, len(self) - 1, min(len(self), _PROBED)).astype(int):
            with suppress(files.UnreadableError):
                yield read(self._files.read(index), self._files.names[index])


def open_source(spec: str, reporter: Reporter = SILENT, *, training: bool = False) -> Source:
    """The source that `--data` names: "shapes", a data set ("mnist", "cifar10:test"), or a path.

    Says that it waits where another process is downloading the data set. training: of a folder with
    a training part take that; otherwise several parts are a DdpmError.
    """
    data_set = open_data_set(spec, reporter)
    return FileSource(open_files(spec, training=training)) if data_set is None else data_set


def open_files(spec: str, *, training: bool = False) -> ImageFiles:
    """The folder or .zip of a path; an error names what else may have been meant."""
    path = paths.expanded(spec)
    if any(place.exists() for place in (path, *path.parents[:-1])):
        return open_image_files(path, training=training)
    known = ["shapes", *named.DATASETS]
    if meant := did_you_mean(spec.partition(":")[0], [*known, *names_beside(path)]):
        raise DdpmError(f"{spec}: no such folder or .zip{meant}")
    raise DdpmError(f"{spec}: no such folder or .zip, nor a data set's name ({', '.join(known)})")


def open_data_set(spec: str, reporter: Reporter = SILENT) -> Source | None:
    """The built-in shapes or a data set by name; None for any other name, and for a path."""
    name, _, split = spec.partition(":")
    try:
        if Path(spec).exists():  # a folder takes precedence over a data set of that name
            return None
    except OSError as error:  # a name that is too long, say
        raise DdpmError(f"{spec[:80]}: {error.strerror or error}") from error
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


def with_class_order(source: Source, names: Sequence[str]) -> Source:
    """The same source with its classes, which are the same names, in this order."""
    reordered: Any = copy.copy(source)
    reordered.classes = tuple(names)
    if source.labels.ndim == 2:
        reordered.labels = source.labels[:, [source.classes.index(name) for name in names]]
    else:
        new = np.array([names.index(name) for name in source.classes])
        reordered.labels = new[source.labels]
    return cast(Source, reordered)
