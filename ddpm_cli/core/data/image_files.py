"""Encoded image files in a fixed order, wherever they lie: what every reader of them offers.

Nothing is decoded here (see `files`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.annotations.classes import Classes


class ImageFiles(Protocol):
    """Image files in a fixed order."""

    @property
    def path(self) -> Path:
        """The folder, archive or table."""

    @property
    def names(self) -> tuple[str, ...]:
        """Image names relative to the root, with `/` between folders; each is there once."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out, one line each."""

    @property
    def captioned(self) -> bool:
        """Whether there are captions. Raises DdpmError for those that cannot be parsed."""

    @property
    def blocks(self) -> tuple[range, ...]:
        """Images that lie together and are read as a whole; () where each is read by itself."""

    @property
    def sequential(self) -> bool:
        """Whether images can only be read one after the other, from the first."""

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file, from any thread or process. Raises UnreadableError."""

    def classes(self) -> Classes:
        """Class names and the label of each image."""

    def captions(self) -> Captions:
        """The captions. Raises DdpmError where not all images have one."""

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read; "" for none."""

    def fingerprint(self) -> str:
        """SHA-256 that identifies the images, the same for every copy (64 hex digits).

        Not all files are read: a change that keeps a file's size may go unnoticed.
        """

    def cache_key(self) -> str:
        """SHA-256 that changes whenever a file is written, copies included; the key of caches."""


class FileTree(Protocol):
    """Image files with others beside them, which may hold their captions and classes."""

    @property
    def path(self) -> Path:
        """The folder or archive."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images relative to the root, with `/` between folders, sorted."""

    @property
    def texts(self) -> frozenset[str]:
        """Names of the tables and texts beside them, which may contain captions or classes."""

    def text(self, name: str) -> str:
        """Read one of the text files. Raises UnreadableError where it is not UTF-8."""
