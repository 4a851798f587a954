"""What a set of images looks like, in numbers, so that other images can be compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALARS = ("brightness", "contrast", "saturated", "noise", "flat")  # of an image, each 0 to 1
TONES = 16  # equal parts of the range of values, for the colour histogram
CELLS = 4  # rows and columns of a thumbnail
FLAT = 0.02  # contrast below which an image is nearly one colour
_MOST_CLASSES = 100  # with statistics of their own, which weights files carry
_FEWEST = 50  # images that such a class has
_DIGITS = 5  # of a number in a file
_MAD = 0.6745  # the median of |n|, for n standard normal

Values = NDArray[np.float64]


def measure(images: NDArray[np.uint8]) -> Values:
    """Numbers of each image (B, C, H, W): (B, K), those of SCALARS, then `tones`, `thumbnails`.

    Of the colours alone, without an alpha channel. brightness: the mean; contrast: the standard
    deviation about each channel's mean; saturated: the share of values at 0 or 255; flat: 1 where
    the contrast is below FLAT.
    """
    images = images[:, : colours(images.shape[1])]
    count, _, height, width = images.shape
    values = images.reshape(count, images.shape[1], height * width)
    histogram = _histograms(values)
    levels = (np.arange(256) / 255).astype(np.float64)
    means = histogram @ levels / values.shape[2]  # (B, C)
    squares = histogram @ levels**2 / values.shape[2]
    contrast = np.sqrt(np.maximum(squares - means**2, 0).mean(axis=1))
    saturated = histogram[:, :, [0, 255]].sum(axis=2).mean(axis=1) / values.shape[2]
    scalars = [means.mean(axis=1), contrast, saturated, noise(images), contrast < FLAT]
    parts = histogram.reshape(*histogram.shape[:2], TONES, -1).sum(axis=3)
    below = parts.cumsum(axis=2)[:, :, :-1] / values.shape[2]
    return np.concatenate(
        [np.stack(scalars, axis=1), below.reshape(count, -1), _thumbnails(images)], axis=1
    )


def colours(channels: int) -> int:
    """How many of the channels are colours: the others are transparency."""
    return 3 if channels >= 3 else 1


def noise(images: NDArray[np.uint8]) -> Values:
    """The standard deviation of white noise in each image (B, C, H, W), of 1 for 255: (B,).

    From the median of the diagonal details of blocks of 2 x 2, which edges hardly change (Donoho &
    Johnstone 1994, section 4.2).
    """
    height, width = (side // 2 * 2 for side in images.shape[2:])
    if not height or not width:
        return np.zeros(len(images))
    even, odd = images[:, :, 0:height:2, :width], images[:, :, 1:height:2, :width]
    across = even.astype(np.int16) - odd
    details = np.abs(across[..., ::2] - across[..., 1::2]).reshape(len(images), -1)
    middle = details.shape[1] // 2
    median: Values = np.partition(details, middle, axis=1)[:, middle] / (2 * _MAD * 255)
    return median


def tones(values: Values) -> Values:
    """Of `measure`'s numbers (..., K) the share of each channel's values below k / TONES of the
    range, for k from 1: (..., C, TONES - 1).
    """
    channels = (values.shape[-1] - len(SCALARS)) // (TONES - 1 + CELLS**2)
    part = values[..., len(SCALARS) : len(SCALARS) + channels * (TONES - 1)]
    return part.reshape(*values.shape[:-1], channels, TONES - 1)


def thumbnails(values: Values) -> Values:
    """Of `measure`'s numbers (..., K) the image's means over CELLS x CELLS parts, by channel."""
    channels = (values.shape[-1] - len(SCALARS)) // (TONES - 1 + CELLS**2)
    return values[..., len(SCALARS) + channels * (TONES - 1) :]


def length(channels: int) -> int:
    """How many numbers `measure` has for an image of so many channels."""
    return len(SCALARS) + colours(channels) * (TONES - 1 + CELLS**2)


@dataclass(frozen=True)
class Appearance:
    """Statistics over images of what `measure` says of each."""

    images: int
    mean: Values  # (K,)
    std: Values  # (K,)
    skew: Values  # (S,), the skewness of the scalars
    low: Values  # (S,), the least
    high: Values  # (S,)

    @classmethod
    def of(cls, values: Values) -> Appearance:
        """Of images whose numbers are (N, K)."""
        mean, std = values.mean(axis=0), values.std(axis=0)
        scalars = values[:, : len(SCALARS)]
        centred = scalars - scalars.mean(axis=0)
        cubes = (centred**3).mean(axis=0)
        spread = std[: len(SCALARS)]
        skew = np.divide(cubes, spread**3, out=np.zeros_like(cubes), where=spread > 1e-6)
        return cls(len(values), mean, std, skew, scalars.min(axis=0), scalars.max(axis=0))

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        document: dict[str, Any] = {"images": self.images}
        for index, name in enumerate(SCALARS):
            fields = {"mean": self.mean, "std": self.std, "skew": self.skew}
            fields |= {"min": self.low, "max": self.high}
            document[name] = {key: _rounded(array[index]) for key, array in fields.items()}
        for name, part in (("tones", tones), ("thumbnail", thumbnails)):
            arrays = {"mean": part(self.mean), "std": part(self.std)}
            document[name] = {key: _rounded(array.ravel()) for key, array in arrays.items()}
        return document

    @classmethod
    def read(cls, document: dict[str, Any]) -> Appearance:
        """From JSON values. Raises LookupError, TypeError or ValueError for others."""
        scalars = {
            key: np.array([float(document[name][key]) for name in SCALARS])
            for key in ("mean", "std", "skew", "min", "max")
        }
        mean, std = (
            np.concatenate(
                [scalars[key], *(np.array(document[n][key], float) for n in ("tones", "thumbnail"))]
            )
            for key in ("mean", "std")
        )
        skew, low, high = scalars["skew"], scalars["min"], scalars["max"]
        return cls(int(document["images"]), mean, std, skew, low, high)


@dataclass(frozen=True)
class ImageStatistics:
    """The appearance of images, of all and of each class."""

    all: Appearance
    classes: tuple[Appearance | None, ...] = ()  # None: of too few images

    @classmethod
    def of(
        cls,
        batches: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]],
        classes: int,
    ) -> ImageStatistics:
        """Of images (B, C, H, W) and their labels (B,), or (B, 0) where there are none.

        classes: their number; 0 without labels. Memory: some hundred numbers an image.
        """
        looked_at = [(measure(images), labels) for images, labels in batches]
        values = np.concatenate([measured for measured, _ in looked_at])
        labels = np.concatenate([own for _, own in looked_at])
        if not 0 < classes <= _MOST_CLASSES:
            return cls(Appearance.of(values))
        of_class = [values[labels == label] for label in range(classes)]
        found = (Appearance.of(own) if len(own) >= _FEWEST else None for own in of_class)
        return cls(Appearance.of(values), tuple(found))

    def document(self) -> dict[str, Any]:
        """As JSON values, which `read` takes."""
        classes = [None if one is None else one.document() for one in self.classes]
        return {"all": self.all.document(), "classes": classes}

    @classmethod
    def read(cls, document: Any, channels: int) -> ImageStatistics | None:
        """From JSON values; None for any that are not the statistics of such images."""
        try:
            classes = (one and Appearance.read(one) for one in document["classes"])
            read = cls(Appearance.read(document["all"]), tuple(classes))
        except (LookupError, TypeError, ValueError):
            return None
        parts = [read.all, *filter(None, read.classes)]
        fits = all(part.mean.shape == part.std.shape == (length(channels),) for part in parts)
        return read if fits else None


def _histograms(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 values occurs in images (B, C, N): (B, C, 256)."""
    count, channels, _ = values.shape
    bins = [np.bincount(one, minlength=256) for one in values.reshape(count * channels, -1)]
    return np.stack(bins).reshape(count, channels, 256)


def _thumbnails(images: NDArray[np.uint8]) -> Values:
    """The means of CELLS x CELLS parts of images (B, C, H, W), of 1 for 255: (B, C * CELLS^2)."""
    height, width = images.shape[2:]
    rows, columns = ((np.arange(CELLS) * side) // CELLS for side in (height, width))
    sums = np.add.reduceat(images, rows, axis=2, dtype=np.int64)
    sums = np.add.reduceat(sums, columns, axis=3)
    areas = np.multiply.outer(_lengths(rows, height), _lengths(columns, width))
    means: Values = sums / (255 * areas)
    return means.reshape(len(images), -1)


def _lengths(starts: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    return np.maximum(np.diff(starts, append=end), 1)  # of parts less than a pixel long: one


def _rounded(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return [_rounded(value) for value in values]
    return float(f"{values:.{_DIGITS}g}")
