"""Images in memory, or a data set with `__len__` and `__getitem__`, as a source to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.files import ImageArray, fit
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError, first_line

_SAMPLED = 64  # images, at most, that enter the fingerprint


class Indexed(Protocol):
    """A NumPy array, a list, a torch data set: items by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ArraySource:
    """Images (H, W) or (H, W, C) uint8 by index, grey, RGB or RGBA, with class labels or without.

    An item is an image (an array, or what NumPy makes one of, such as a PIL image) or a pair of
    image and label. A label is a class number, or a row of K zeros and ones. Raises UsageError
    for anything else.
    """

    name = "arrays"
    why_no_classes = label_table = ""
    notices: tuple[str, ...] = ()
    captioned = sequential = False
    blocks = ()
    cache_key = ""  # nothing is cached: the images are in memory, or quick to get

    def __init__(
        self,
        images: Indexed,
        labels: Sequence[Any] | NDArray[Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if len(images) == 0:
            raise UsageError("there are no images to train on")
        self._images = images
        self._pairs = isinstance(images[0], tuple | list)
        if labels is None and self._pairs:
            labels = [np.asarray(images[i][1]) for i in range(len(images))]
        self.labels, self.classes = _classes(len(images), labels, classes)
        first = self._item(0)
        self.image_size = self.native_size = first.shape[1], first.shape[2]
        self.native_channels = first.shape[0]
        self.transparent = self.native_channels == 4
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self._images)

    def size_of(self, index: int) -> tuple[int, int]:
        """One image's own (height, width)."""
        height, width = self._item(index).shape[1:]
        return height, width

    def image(self, index: int, transform: Transform) -> ImageArray:
        """One image as uint8 (channels, height, width), transformed."""
        return fit(self._item(index), transform)

    def captions(self) -> Captions:
        """Raise DdpmError: there are none."""
        raise DdpmError("arrays have no captions")

    def unread(self, captions: Captions | None) -> str:
        """Nothing lies beside these images."""
        return ""

    def _item(self, index: int) -> ImageArray:
        item = self._images[index]
        array = np.asarray(item[0] if self._pairs else item)
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise UsageError(
                f"image {index} is {array.dtype} {array.shape}; images should be uint8 "
                "(height, width) or (height, width, channels)"
            )
        if array.ndim == 2:
            return array[None]
        if array.shape[2] not in (1, 3, 4):
            raise UsageError(
                f"image {index} is {array.shape}; the last axis should be 1, 3 or 4 channels"
            )
        return array.transpose(2, 0, 1)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{len(self)} {self.classes}".encode() + self.labels.tobytes())
        for index in range(0, len(self), -(-len(self) // _SAMPLED)):
            digest.update(np.ascontiguousarray(self._item(index)).tobytes())
        return digest.hexdigest()


def _classes(
    count: int, labels: Sequence[Any] | NDArray[Any] | None, classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels (N,) or (N, K) int64 and class names; -1 and none without labels."""
    if labels is None:
        return np.full(count, -1), ()
    given = _as_array(labels)
    if given.ndim == 2 and given.shape[1] > 1:
        return _multi_label(count, given, classes)
    numbers = given.reshape(-1).astype(np.int64)
    if given.shape[:1] != (count,) or given.ndim > 2 or numbers.min() < 0:
        raise UsageError(
            f"labels should be {count} whole numbers from 0, one per image, or {count} rows of "
            f"zeros and ones; they are {given.shape}"
        )
    names = tuple(map(str, classes or range(int(numbers.max()) + 1)))
    if numbers.max() >= len(names):
        raise UsageError(f"label {numbers.max()} has no name: there are {len(names)} classes")
    return numbers, names


def _multi_label(
    count: int, given: NDArray[Any], classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels (N, K) of 0 and 1, and the K names."""
    names = tuple(map(str, classes or range(given.shape[1])))
    if given.shape != (count, len(names)) or not np.isin(given, (0, 1)).all():
        raise UsageError(
            f"labels of several classes an image should be {count} rows of {len(names)} zeros and "
            f"ones; they are {given.shape}, from {given.min()} to {given.max()}"
        )
    return given.astype(np.int64), names


def _as_array(labels: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Labels as one array of numbers. Raises UsageError for rows of different lengths."""
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise UsageError(f"labels cannot be made an array: {first_line(error)}") from error
    if array.dtype.kind not in "biuf":
        raise UsageError(f"labels should be numbers; they are {array.dtype}")
    return array
