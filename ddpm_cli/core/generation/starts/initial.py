"""Images that sampling begins at, or of which it draws a part anew, whatever their size.

The network sees them at its own size. Where a mask keeps pixels, those of the image itself are put
back in the end, so that they are exactly what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import InputImages, PathOrArrays
from ddpm_cli.core.data.masks import Masks, open_with_masks
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.placement import Placement, mirrored
from ddpm_cli.core.diffusion.editing import Edit
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.reporting import Reporter

DEFAULT_STRENGTH = 0.6  # without a mask
_SAME = ("init", "init_sha256", "mask_sha256")  # of an image that is drawn again


@dataclass(frozen=True)
class InitialRequest:
    """Images to begin at and how, as options say it."""

    images: PathOrArrays
    strength: float | None = None
    mask: PathOrArrays | None = None
    resample: int | None = None
    like: Mapping[str, Any] | None = None  # the record of an image to draw again
    _opened: dict[Any, InitialImages] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise UsageError(
                "--strength must be between 0, which gives the image back, and 1, which samples, "
                f"not {self.strength:g}"
            )
        if self.resample is not None and self.resample < 1:
            raise UsageError(f"--resample must be at least 1, not {self.resample}")

    @classmethod
    def of(
        cls,
        images: PathOrArrays | None,
        strength: float | None,
        mask: PathOrArrays | None,
        resample: int | None,
    ) -> InitialRequest | None:
        """The request that the options are; None without any. Raises UsageError."""
        if images is not None:
            return cls(images, strength, mask, resample)
        given = {"--strength": strength, "--mask": mask, "--resample": resample}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is for images to begin at: give an --init too")
        return None

    def again(self, record: Mapping[str, Any]) -> InitialRequest:
        """As an image of this record was made, of its own image, but for what is given."""

        def chosen(name: str) -> Any:
            own = getattr(self, name)
            return record.get(name) if own is None else own

        same = ("init", "init_sha256") if self.mask is not None else _SAME
        return replace(
            self,
            strength=chosen("strength"),
            mask=chosen("mask"),
            resample=chosen("resample"),
            like={name: record[name] for name in same if name in record},
        )

    def open(self, network: NetworkConfig, reporter: Reporter) -> InitialImages:
        """The images, all of them read once, however often they are opened.

        Raises DdpmError for what cannot be read or paired, or is not what was recorded.
        """
        key = network.channels, network.size
        if key not in self._opened:
            self._opened[key] = self._open(network, reporter)
        return self._opened[key]

    def _open(self, network: NetworkConfig, reporter: Reporter) -> InitialImages:
        if self.resample is not None and self.mask is None:
            raise UsageError("--resample fits new pixels to known ones: give a --mask too")
        name = None if self.like is None else self.like["init"]
        images, masks = open_with_masks(self.images, self.mask, "--init", name, reporter)
        strength = self.strength
        if strength is None:
            strength = DEFAULT_STRENGTH if self.mask is None else 1.0
        document: dict[str, Any] = {
            "init": images.path,
            "init_sha256": images.digest(network.channels, reporter),
            "strength": strength,
        }
        resample = self.resample or 1
        if masks is not None:
            masks.check(images, around=True)
            document |= {"mask": masks.images.path, "mask_sha256": masks.images.digest(1, reporter)}
            document |= {"resample": resample}
        found = InitialImages(
            images, network.channels, network.size, strength, document, masks, resample
        )
        self._check_hashes(found)
        return found

    def _check_hashes(self, found: InitialImages) -> None:
        """Raise DdpmError where an image, or its mask, has other pixels than were recorded."""
        if self.like is None:
            return
        for name, sha256 in found.hashes(0).items():
            option = name.removesuffix("_sha256")
            if self.like.get(name, sha256) != sha256:
                raise DdpmError(
                    f"--like: --{option} {found.document[option]} has other pixels than the "
                    f"{'image' if option == 'init' else 'mask'} that was edited (sha256 "
                    f"{sha256[:12]}, not {str(self.like[name])[:12]}); without --like it can be "
                    "edited in the same way"
                )


@dataclass(frozen=True)
class InitialImages:
    """Images to begin at, for a network of a size. Image i of a request begins at one in turn."""

    images: InputImages
    channels: int
    canvas: tuple[int, int]  # (height, width) of the network's images
    strength: float
    document: dict[str, Any]  # what is recorded of them
    masks: Masks | None = None
    resample: int = 1

    def __len__(self) -> int:
        return len(self.images)

    @property
    def blank(self) -> Edit:
        """The same edit of a single pixel, to count its steps."""
        pixel = torch.zeros(1, 1, 1, 1)
        return Edit(pixel, self.strength, None if self.masks is None else pixel, self.resample)

    @property
    def told(self) -> str:
        """What is begun at, in words."""
        what = f"from {self.images.path}, strength {self.strength:g}"
        return what if self.masks is None else f"{what}, within {self.masks.images.path}"

    def name(self, index: int) -> str:
        """The name of the image that image `index` of a request begins at."""
        return self.images.names[index % len(self)]

    def hashes(self, index: int) -> dict[str, str]:
        """SHA-256 of the pixels of the image that image `index` begins at, and of its mask."""
        number = index % len(self)
        found = {"init_sha256": self.images.pixels_sha256(number, self.channels)}
        if self.masks is not None:
            mask = self.masks.images.pixels_sha256(self.masks.pairs[number], 1)
            found["mask_sha256"] = mask
        return found

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index` of a request: its mask's, or else its own."""
        number = index % len(self)
        if self.masks is None:
            return self.images.size_of(number)
        return self.masks.images.size_of(self.masks.pairs[number])

    @property
    def of_one_size(self) -> bool:
        """Whether all images have the same size."""
        return len(set(map(self.size, range(len(self))))) == 1

    def largest(self, count: int) -> tuple[int, int]:
        """The (height, width) in which each of the first `count` images has space."""
        heights, widths = zip(*map(self.size, range(min(count, len(self)))), strict=True)
        return max(heights), max(widths)

    def edit(self, indices: Sequence[int], device: torch.device) -> Edit:
        """What begins at the images of these indices, at the network's size."""
        found = [self._on_canvas(index) for index in indices]
        images = torch.from_numpy(np.stack([image for image, _ in found]))
        masks = [mask for _, mask in found if mask is not None]
        mask = torch.from_numpy(np.stack(masks)).to(device) if masks else None
        return Edit(to_unit(images).to(device), self.strength, mask, self.resample)

    def finished(self, index: int, canvas: ImageArray, *, drawn: bool) -> ImageArray:
        """The image of what was sampled (C, H, W), at its own size, with its known pixels.

        drawn: whether any step was taken.
        """
        image, mask = self._read(index)
        if not drawn:
            return image
        new = Placement(_size(image), self.canvas).back(canvas)
        if mask is None:
            return new
        share = mask / np.float32(255)
        blend = image * (1 - share) + new * share
        return blend.round().astype(np.uint8)

    def _read(self, index: int) -> tuple[ImageArray, NDArray[np.uint8] | None]:
        """An image (C, H, W) and its mask (H, W), of one size: what is around it is white."""
        number = index % len(self)
        image = self.images.image(number, self.channels)
        if self.masks is None:
            return image, None
        mask = self.masks.of(number).copy()
        (above, below), (left, right) = margins = self.masks.margins(number, _size(image))
        height, width = mask.shape
        inside = np.s_[above : height - below, left : width - right]
        known = mask[inside].copy()
        mask[:] = 255
        mask[inside] = known
        return mirrored(image, margins), mask

    def _on_canvas(self, index: int) -> tuple[ImageArray, NDArray[np.float32] | None]:
        """An image (C, H, W) and its mask (1, H, W) at the network's size.

        A pixel of the network's is drawn where any pixel is that it covers.
        """
        image, mask = self._read(index)
        place = Placement(_size(image), self.canvas)
        if mask is None:
            return place.onto(image), None
        new = torch.from_numpy((mask > 0).astype(np.float32))[None]
        inner: Tensor = torch.nn.functional.adaptive_max_pool2d(new, place.inner)
        return place.onto(image), mirrored(inner.numpy(), place.margins)


def _size(image: ImageArray) -> tuple[int, int]:
    height, width = image.shape[1:]
    return height, width
