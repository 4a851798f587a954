"""Masks of images: where each of them is drawn anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.input_images import InputImages, PathOrArrays
from ddpm_cli.core.data.placement import Margins
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT, Reporter


@dataclass(frozen=True)
class Masks:
    """Where images are drawn anew: white is, black is kept, grey is a blend of both."""

    images: InputImages
    pairs: tuple[int, ...]  # the mask of each image

    def only(self, row: int) -> Masks:
        """The mask of the image of that index alone."""
        return Masks(self.images.only(self.pairs[row]), (0,))

    def of(self, index: int) -> NDArray[np.uint8]:
        """The mask of an image, (H, W)."""
        mask: NDArray[np.uint8] = self.images.image(self.pairs[index], 1)[0]
        return mask

    def name(self, index: int) -> str:
        """The name of an image's mask, for messages."""
        return self.images.names[self.pairs[index]]

    def margins(self, index: int, size: tuple[int, int]) -> Margins:
        """By how much the mask of an image reaches beyond it on each side; the image is centred."""
        (height, width), (own_height, own_width) = self.images.size_of(self.pairs[index]), size
        above, left = (height - own_height) // 2, (width - own_width) // 2
        return (above, height - own_height - above), (left, width - own_width - left)

    def check(self, images: InputImages, *, around: bool, least: int = 1) -> None:
        """Raise DdpmError for a mask that does not fit its image, or draws nothing.

        around: whether a larger mask draws what is around its image. least: the darkest grey level
        that is drawn.
        """
        drawing: dict[int, bool] = {}
        for index, pair in enumerate(self.pairs):
            size, mask_size = images.size_of(index), self.images.size_of(pair)
            larger = mask_size != size and mask_size[0] >= size[0] and mask_size[1] >= size[1]
            if mask_size != size and not (around and larger):
                or_larger = ", or the mask larger, to draw what is around the image"
                raise DdpmError(
                    f"--mask {self.name(index)} has {_text(mask_size)} pixels, and its image "
                    f"{images.names[index]} {_text(size)}: make them equal"
                    f"{or_larger if around else ''}"
                )
            if pair not in drawing:
                drawing[pair] = bool((self.of(index) >= least).any())
            if not larger and not drawing[pair]:
                raise DdpmError(
                    f"--mask {self.name(index)} is black everywhere, so nothing would be drawn: "
                    "what is to be drawn anew should be white"
                )


def open_with_masks(
    images: PathOrArrays,
    masks: PathOrArrays | None,
    option: str,
    name: str | None = None,
    reporter: Reporter = SILENT,
) -> tuple[InputImages, Masks | None]:
    """The images of an option and the masks of --mask; where a name is given, of that one alone.

    Raises DdpmError for what is not there or cannot be paired.
    """
    found, paired = InputImages.open(images, option, reporter), None
    if masks is not None:
        theirs = InputImages.open(masks, "--mask", reporter)
        paired = Masks(theirs, found.paired(theirs, "--mask"))
    if name is None:
        return found, paired
    row = found.row_of(name, option)
    return found.only(row), None if paired is None else paired.only(row)


def _text(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
