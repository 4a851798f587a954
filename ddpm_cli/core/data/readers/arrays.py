"""Images in a .npy or .npz file as a source to train on."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.class_names import in_order
from ddpm_cli.core.data import pixels
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.files import ImageArray, UnreadableError, max_pixels
from ddpm_cli.core.data.readers.mapped import Member
from ddpm_cli.core.data.readers.npy import (
    CompressedArray,
    MappedArray,
    npz_members,
    open_member,
    open_npy,
    read_member,
)
from ddpm_cli.core.data.transform import LARGEST_NATIVE
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.downloads import sha256_of

_LABELS_OF = {  # names of images, and of the labels that go with them, in the order they are tried
    "arr_0": "arr_1",
    "images": "labels",
    "data": "labels",
    "x_train": "y_train",
    "x_test": "y_test",
    "train_images": "train_labels",
    "val_images": "val_labels",
    "test_images": "test_labels",
}
_TRAINING = frozenset({"x_train", "train_images"})
_LABEL_BYTES = 2**31  # of an array of labels, at most
_CHANNELS = (1, 3, 4)
_HALF_LEVEL = 0.5 / 255  # of rounding: values that far outside of a range still belong to it

StoredImages = MappedArray | CompressedArray


class ArrayImages:
    """An array of images by index, each as uint8 (H, W) or (H, W, C)."""

    def __init__(self, stored: StoredImages) -> None:
        self._stored = stored
        self._channels_first = _channels_first(stored)
        self.floats = stored.header.dtype.kind == "f"
        self._unit = self.floats and _non_negative(stored)

    def __len__(self) -> int:
        return self._stored.header.shape[0]

    def __getitem__(self, index: int) -> ImageArray:
        image = self._stored[index]
        if self.floats:
            image = self._to_uint8(image, index)
        return image.transpose(1, 2, 0) if self._channels_first else image

    @property
    def range(self) -> str:
        """The range that floats are taken to be in; "" for whole numbers."""
        return ("0 to 1" if self._unit else "-1 to 1") if self.floats else ""

    def _to_uint8(self, image: NDArray[Any], index: int) -> ImageArray:
        low, high = float(image.min()), float(image.max())
        least = 0 if self._unit else -1
        slack = _HALF_LEVEL if self._unit else 2 * _HALF_LEVEL
        if not least - slack <= low <= high <= 1 + slack:
            raise UnreadableError(
                f"{self._stored.where}[{index}] has values from {low:.4g} to {high:.4g}; those of "
                f"the others looked at are {self.range}"
            )
        values = torch.from_numpy(image.astype(np.float32))
        return pixels.to_uint8(2 * values - 1 if self._unit else values).numpy()


class ArrayFileSource(ArraySource):
    """The images of one array, which is mapped into memory, or decompressed in order."""

    def __init__(
        self,
        path: Path,
        stored: StoredImages,
        labels: NDArray[Any] | None,
        notices: tuple[str, ...],
        why_no_classes: str,
    ) -> None:
        images = ArrayImages(stored)
        self.path, self.why_no_classes = path, why_no_classes
        self._digest = sha256(f"{stored.header} {images.range}".encode())
        self._compressed = isinstance(stored, CompressedArray)
        self._crc = "" if stored.member is None else f"{stored.member.info.CRC:08x}"
        names: tuple[str, ...] = ()
        if labels is not None:
            values, labels = _named(labels)
            names = tuple(values)
        super().__init__(images, labels, names or None)
        self.name = path.stem or "images"
        self.sequential = self._compressed
        if images.floats:
            said = f"{stored.where}: its {stored.header.dtype} values are taken as {images.range}"
            notices = (*notices, said)
        self.notices = notices
        if self.native_channels == 4:
            self.native_channels = 3
        if max(self.native_size) > LARGEST_NATIVE:
            self.native_size = (LARGEST_NATIVE, LARGEST_NATIVE)
        status = path.stat()
        self.cache_key = sha256(
            f"{self.fingerprint} {status.st_size} {status.st_mtime_ns}".encode()
        ).hexdigest()

    def content(self) -> str:
        """Hash of the whole file, and of how its values are taken."""
        return f"{sha256_of(self.path)} {self._digest.hexdigest()}"

    def _fingerprint(self) -> str:
        if not self._crc:
            return super()._fingerprint()
        labels = f"{len(self)} {self.classes}".encode() + self.labels.tobytes()
        return sha256(labels + self._crc.encode() + self._digest.digest()).hexdigest()


def open_arrays(path: Path, *, training: bool = False) -> ArrayFileSource | None:
    """The images of a .npy, an .npz or an array in one (set.npz/x_test); None for other paths.

    Raises DdpmError where they are no images, or of several parts unless training takes one.
    """
    suffix, above = path.suffix.lower(), path.parent
    if suffix == ".npy" and path.is_file():
        labels, notices = _labels_beside(path)
        return _source(path, open_npy(path), labels, notices)
    if suffix == ".npz" and path.is_file():
        return _open_npz(path, "", training=training)
    if above.suffix.lower() == ".npz" and above.is_file():
        return _open_npz(above, path.name, training=training)
    return None


def _open_npz(path: Path, key: str, *, training: bool) -> ArrayFileSource:
    members = npz_members(path)
    key = key or _key_of_images(path, members, training=training)
    if key not in members:
        raise DdpmError(f"{path} holds no array {key}; it holds {listed(sorted(members))}")
    beside = members.get(_LABELS_OF.get(key, ""))
    labels = None if beside is None else read_member(beside, _LABEL_BYTES)
    others = sorted(set(members) - {key, _LABELS_OF.get(key, "")})
    notices = (f"{path}: not read: {listed(others)}",) if others else ()
    return _source(path, open_member(members[key]), labels, notices)


def _key_of_images(path: Path, members: dict[str, Member], *, training: bool) -> str:
    found = [key for key in _LABELS_OF if key in members]
    if training and (own := [key for key in found if key in _TRAINING]):
        return own[0]
    if len(found) > 1:
        raise DdpmError(f"{path} holds {listed(found)}; name the one that is meant: {path}/KEY")
    if not found:
        holds = listed(sorted(members)) or "nothing"
        example = f", such as {path}/{min(members)}" if members else ""
        known = listed(list(_LABELS_OF), 3)
        raise DdpmError(f"{path} holds {holds}; images have {known}, or name one{example}")
    return found[0]


def _labels_beside(path: Path) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """The labels of images.npy in labels.npy, and a line that says so."""
    stem = _LABELS_OF.get(path.stem, "")
    beside = path.with_name(f"{stem}.npy")
    if not stem or not beside.is_file():
        return None, ()
    return open_npy(beside).array, (f"{path}: the classes are the labels in {beside.name}",)


def _source(
    path: Path, stored: StoredImages, labels: NDArray[Any] | None, notices: tuple[str, ...]
) -> ArrayFileSource:
    count, why = stored.header.shape[:1], ""
    if labels is not None and labels.dtype.kind == "f":
        whole = np.isfinite(labels).all() and (labels == np.floor(labels)).all()
        labels = labels.astype(np.int64) if whole else labels
    if labels is not None and not (labels.shape[:1] == count and _are_labels(labels)):
        why = f"its labels are {labels.dtype} {labels.shape}, not whole numbers of {count[:1]}"
        labels, notices = None, (*notices, f"{path} gives no classes: {why}")
    return ArrayFileSource(path, stored, labels, notices, why)


def _are_labels(labels: NDArray[Any]) -> bool:
    """Whether they are whole numbers or names (N,) or (N, 1), or zeros and ones (N, K)."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.dtype.kind in "biu" and bool(np.isin(labels, (0, 1)).all())
    return labels.dtype.kind in "biuU" and labels.ndim in (1, 2) and labels.size > 0


def _named(labels: NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes that there are, and (N,) indices into them, or (N, K) of 0 and 1."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (labels.sum(axis=1) == 1).all():
            return [str(k) for k in range(labels.shape[1])], labels
        return [str(k) for k in range(labels.shape[1])], labels.argmax(axis=1)
    values, inverse = np.unique(labels.reshape(len(labels), -1), return_inverse=True)
    names = [str(value) for value in values]
    ordered = in_order(names)
    places = np.array([ordered.index(name) for name in names])
    return ordered, places[inverse.reshape(-1)]


def _channels_first(stored: StoredImages) -> bool:
    """Whether the images are (C, H, W). Raises DdpmError where they are no images."""
    header, where = stored.header, stored.where
    shape = header.shape
    right = len(shape) in (3, 4) and (header.dtype == np.uint8 or header.dtype.kind == "f")
    if not right or 0 in shape:
        raise DdpmError(
            f"{where} is {header}; images are uint8, or floats from 0 to 1 or -1 to 1, of "
            "(N, height, width), with an axis of 1, 3 or 4 channels first or last"
        )
    if len(shape) == 3:
        if shape[2] in (3, 4):
            raise DdpmError(f"{where} is {header}, as one image is; images have a first axis N")
        height, width, first = *shape[1:], False
    else:
        first = _channel_axis_first(shape, f"{where} is {header}")
        height, width = shape[2:] if first else shape[1:3]
    limit = max_pixels()
    if limit is not None and height * width > limit:
        raise DdpmError(
            f"{where} is {header}: an image has more pixels than the limit of {limit:,}; if you "
            f"trust the file, add --max-pixels {height * width}"
        )
    return first


def _channel_axis_first(shape: tuple[int, ...], what: str) -> bool:
    """Where both axes may be channels, it is the last, unless only the others are square."""
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first and last:
        first = shape[2] == shape[3] and shape[1] != shape[2]
        last = not first
    if first == last:
        raise DdpmError(
            f"{what}: one of the axes, the second or the last, should be 1, 3 or 4 channels"
        )
    return first


def _non_negative(stored: StoredImages) -> bool:
    """Whether floats are from 0 to 1, not -1 to 1. Raises DdpmError where they are neither."""
    rows = [stored[index] for index in stored.sample()]
    low = float(np.fmin.reduce([np.fmin.reduce(row, axis=None) for row in rows]))  # without NaN
    high = float(np.fmax.reduce([np.fmax.reduce(row, axis=None) for row in rows]))
    if low >= -_HALF_LEVEL and high <= 1 + _HALF_LEVEL:
        return True
    if low >= -1 - 2 * _HALF_LEVEL and high <= 1 + 2 * _HALF_LEVEL:
        return False
    raise DdpmError(
        f"{stored.where} holds {stored.header.dtype} from {low:.4g} to {high:.4g}; floats should "
        "be from 0 to 1 or -1 to 1 (save 0 to 255 as uint8)"
    )
