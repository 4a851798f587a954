"""Image files as a source to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import numpy as np

from ddpm_cli.core.data import files
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.data.transform import LARGEST_NATIVE, Transform
from ddpm_cli.core.errors import DdpmError

_PROBED = 512  # headers read, at most, to find the size and whether all are grey

T = TypeVar("T")


class FileSource:
    """Encoded image files, each decoded when it is asked for."""

    def __init__(self, listing: ImageFiles) -> None:
        self.files = listing
        path = listing.path.resolve()
        self.name = (path.name if path.is_dir() else path.stem) or "images"
        found = listing.classes()
        self.classes, self.labels, self.why_no_classes = found.names, found.labels, found.why_none
        self.label_table = found.table
        self.notices = (*listing.notices, *(f"{listing.path}: {line}" for line in found.notices))
        self.blocks, self.sequential = listing.blocks, listing.sequential
        self.fingerprint, self.cache_key = listing.fingerprint(), listing.cache_key()
        self.image_size, self.native_channels = self._probe()
        self.native_size = (LARGEST_NATIVE, LARGEST_NATIVE)
        if self.image_size is not None and max(self.image_size) <= LARGEST_NATIVE:
            self.native_size = self.image_size

    def __len__(self) -> int:
        return len(self.files.names)

    @property
    def captioned(self) -> bool:
        """Whether there are caption files. Raises DdpmError for a table that cannot be parsed."""
        return self.files.captioned

    def captions(self) -> Captions:
        """Read the caption files. Raises DdpmError where not all images have a caption."""
        return self.files.captions()

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read."""
        return self.files.unread(captions)

    @property
    def transparent(self) -> bool:
        """Whether any of the images probed has transparency."""
        found = self._headers(files.traits)
        return any("transparent" in traits for traits in found)

    def size_of(self, index: int) -> tuple[int, int]:
        """One image's own (height, width), from its header. Raises UnreadableError."""
        return files.probe(self.files.read(index), self.files.names[index])[0]

    def image(self, index: int, transform: Transform) -> ImageArray:
        """Decode one file to uint8 (channels, height, width). Raises UnreadableError."""
        return files.decode(self.files.read(index), self.files.names[index], transform)

    def _probe(self) -> tuple[tuple[int, int] | None, int]:
        """The images' size, None where it differs, and channels: of up to _PROBED headers."""
        found = list(self._headers(files.probe))
        if not found:
            try:
                found.append(files.probe(self.files.read(0), self.files.names[0]))
            except files.UnreadableError as error:
                where = f"none of the images probed in {self.files.path} can be read"
                raise DdpmError(f"{where}: {error}") from error
        sizes = {size for size, _ in found}
        return (sizes.pop() if len(sizes) == 1 else None), max(channels for _, channels in found)

    def _headers(self, read: Callable[[bytes, str], T]) -> Iterator[T]:
        """What `read` finds in up to _PROBED files; the unreadable are reported when decoded."""
        for index in np.linspace(0, len(self) - 1, min(len(self), _PROBED)).astype(int):
            with suppress(files.UnreadableError):
                yield read(self.files.read(index), self.files.names[index])
