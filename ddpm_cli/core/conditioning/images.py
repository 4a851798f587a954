"""Given images: what is left of an image by a degradation, and how a network is given it.

Images are float32 (B, C, H, W) in [-1, 1]. A network is given an image of its own size, beside the
noisy one (Saharia et al. 2021, SR3). A low-resolution one has noise added in training, of which the
network knows the deviation, so that it goes on from another model's samples as well as from true
images (Ho et al. 2022, cascaded diffusion, section 4).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.config.given import Degradation

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as grey images are made
_BOXES = 3  # in a mask, at most
_SIDES = (0.15, 0.7)  # of a box, as fractions of the image's


def degraded(x0: Tensor, degradation: Degradation, masks: Tensor | None = None) -> Tensor:
    """What is left of images x0: (B, C', h, w), smaller of lowres alone.

    masks (B, 1, H, W): 1 where pixels are cut out, for the degradation `mask`.
    """
    match degradation.kind:
        case "lowres":
            height, width = x0.shape[2:]
            return resized(x0, degradation.size((height, width)))
        case "grey":
            return grey(x0)
        case "blur":
            return _blurred(x0, degradation.amount)
        case "edges":
            return _edges(x0)
        case _:
            assert masks is not None
            return masked(x0, masks)


def as_input(
    image: Tensor,
    size: tuple[int, int],
    deviation: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """What is left of images, as the network is given it: with noise, of its (height, width).

    deviation: (B,), of the noise; noise: standard normal, as the image.
    """
    if deviation is not None and noise is not None:
        image = image + deviation[:, None, None, None] * noise
    return image if image.shape[2:] == size else resized(image, size, within=False)


def resized(image: Tensor, size: tuple[int, int], *, within: bool = True) -> Tensor:
    """Images of another (height, width), bicubic and antialiased; `within` [-1, 1]."""
    out = nnf.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)
    return out.clamp(-1, 1) if within else out


def grey(image: Tensor) -> Tensor:
    """Luminance (B, 1, H, W) of grey, colour or transparent images."""
    if image.shape[1] < 3:
        return image[:, :1]
    luma = image.new_tensor(_LUMA)[:, None, None]
    return (image[:, :3] * luma).sum(dim=1, keepdim=True)


def masked(image: Tensor, masks: Tensor) -> Tensor:
    """Images without the pixels where masks (B, 1, H, W) are 1, which are 0; then the masks."""
    return torch.cat([image * (1 - masks), masks], dim=1)


def box_masks(draws: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of one to three boxes: (B, 1, H, W), 1 within.

    draws: uniform in [0, 1), (B, 3, 5): sides and place of each box, and whether it is there.
    """
    least, most = _SIDES
    sides = least + (most - least) * draws[..., :2]
    starts = (1 - sides) * draws[..., 2:4]
    rows, columns = (
        _within(starts[..., axis], sides[..., axis], length) for axis, length in enumerate(size)
    )
    there = draws[..., 4] < 0.5
    there[:, 0] = True
    boxes = rows[..., :, None] & columns[..., None, :] & there[..., None, None]
    return boxes.any(dim=1, keepdim=True).float()


def box_draws(count: int, generator: torch.Generator) -> Tensor:
    """The numbers that `box_masks` takes for `count` images."""
    return torch.rand((count, _BOXES, 5), generator=generator)


def _within(start: Tensor, side: Tensor, length: int) -> Tensor:
    """Which of `length` pixels have their centre between start and start + side: (…, length)."""
    centres = (torch.arange(length, device=start.device) + 0.5) / length
    within = (centres >= start[..., None]) & (centres < (start + side)[..., None])
    return torch.as_tensor(within)


def _blurred(image: Tensor, deviation: float) -> Tensor:
    """Convolution with a Gaussian of that deviation, in pixels, cut at four of them."""
    reach = int(4 * deviation + 0.5)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    weights = torch.exp(-0.5 * (at / deviation) ** 2)
    weights = weights / weights.sum()
    for axis in (2, 3):
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        shape = (-1, 1) if axis == 2 else (1, -1)
        kernel = weights.reshape(1, 1, *shape).expand(image.shape[1], -1, -1, -1)
        image = nnf.conv2d(nnf.pad(image, pad, mode="replicate"), kernel, groups=image.shape[1])
    return image


def _edges(image: Tensor) -> Tensor:
    """White edges on black: the gradient of the luminance by Sobel's filter, (B, 1, H, W)."""
    across = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8  # of grey levels a pixel
    kernels = torch.stack([across, across.T])[:, None]
    gradient = nnf.conv2d(nnf.pad(grey(image), (1, 1, 1, 1), mode="replicate"), kernels)
    # A step from black to white has a gradient of 1 on either side.
    strength = gradient.square().sum(dim=1, keepdim=True).sqrt()
    return 2 * strength.clamp(max=1) - 1
