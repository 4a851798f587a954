"""Images of any size on a canvas of a network's size, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform

Margins = tuple[tuple[int, int], tuple[int, int]]
"""Pixels (above, below) and (left, right) of an image."""

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas of a network's size: whole, centred, as large as it fits."""

    own: tuple[int, int]  # (height, width) of the image, in pixels
    canvas: tuple[int, int]

    @property
    def inner(self) -> tuple[int, int]:
        """(height, width) of the image on the canvas."""
        scale = min(side / own for side, own in zip(self.canvas, self.own, strict=True))
        height, width = (max(1, round(scale * own)) for own in self.own)
        return height, width

    @property
    def margins(self) -> Margins:
        """The pixels of the canvas around the image."""
        (above, below), (left, right) = (
            ((side - inner) // 2, side - inner - (side - inner) // 2)
            for side, inner in zip(self.canvas, self.inner, strict=True)
        )
        return (above, below), (left, right)

    def onto(self, image: ImageArray) -> ImageArray:
        """An image (C, H, W) on the canvas, antialiased; it is mirrored to fill the margins."""
        return mirrored(_resized(image, self.inner), self.margins)

    def back(self, canvas: ImageArray) -> ImageArray:
        """The image of a canvas (C, H, W), at its own size."""
        (above, _), (left, _) = self.margins
        height, width = self.inner
        return _resized(canvas[:, above : above + height, left : left + width], self.own)


def mirrored(image: NDArray[Pixel], margins: Margins) -> NDArray[Pixel]:
    """An image (C, H, W) with margins that mirror it."""
    return np.pad(image, ((0, 0), *margins), mode="symmetric")


def _resized(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """The same array where the size is the image's own."""
    if image.shape[1:] == size:
        return image
    return files.fit(image, Transform(image.shape[0], size, "stretch"))
