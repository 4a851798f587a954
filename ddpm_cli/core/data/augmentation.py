"""Non-leaky geometric augmentation, and the labels that condition the network on it.

Karras et al. (2022), appendix F.2, after Karras et al. (2020), "Training generative adversarial
networks with limited data". Coordinates are pixels from the image centre, to the right and down;
angles are in radians, counter-clockwise as the image is viewed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.runtime.devices import to_device

_SCALE_STD = 0.2  # of log2 of scaling and stretching
_SHIFT_STD = 1 / 8  # of a translation, as a fraction of the image side
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))


def sample_parameters(
    count: int, probability: float, flip_probability: float, generator: torch.Generator
) -> Tensor:
    """Sample the parameters a_0 to a_7 of table 6 for `count` images: float64 (count, 8).

    In order: 1 to flip left to right, 1 to flip top to bottom, log-scale, rotation, direction and
    log-strength of an anisotropic stretch, translation to the right and down. The logarithms and
    the translation are in standard deviations. Each of the six transformations is enabled with
    `probability`, the first with `flip_probability`, and is zero otherwise; an enabled flip is then
    applied with probability 1/2.
    """
    uniform = torch.rand((count, 6), generator=generator)
    flips = torch.randint(2, (count, 2), generator=generator)
    angles = (torch.rand((count, 2), generator=generator, dtype=torch.float64) * 2 - 1) * math.pi
    normals = torch.randn((count, 4), generator=generator, dtype=torch.float64)
    parameters = torch.cat([flips, normals[:, :1], angles, normals[:, 1:]], dim=1)
    enabled = uniform < torch.tensor([flip_probability, *5 * [probability]])
    return parameters * enabled[:, [0, 1, 2, 3, 4, 4, 5, 5]]  # stretch and translation have two


def labels(parameters: Tensor) -> Tensor:
    """Augmentation labels of parameters (B, 8): float32 (B, 9), zeros without augmentation.

    Angles are encoded by sine and cosine, which are continuous at a full turn.
    """
    left, top, scale, angle, direction, stretch, right, down = parameters.unbind(dim=1)
    columns = (
        *(left, top, scale),
        *(angle.cos() - 1, angle.sin()),
        *(stretch * direction.cos(), stretch * direction.sin()),
        *(right, down),
    )
    return torch.stack(columns, dim=1).float()


class Augmentation(NamedTuple):
    """The transformations of B images, K of which are resampled, as tensors to apply."""

    mirrored: Tensor  # (B,) bool: left to right
    upside_down: Tensor  # (B,) bool
    rows: Tensor  # (K,) int64, the images that are resampled
    inverse: Tensor  # (K, 2, 2) float32: an output pixel's place in the input
    offsets: Tensor  # (K, 4, 2) float32, of the four points that an output pixel averages
    shift: Tensor  # (K, 2) float32, pixels

    def to(self, device: torch.device) -> Augmentation:
        """Copy all tensors to a device, without waiting for it."""
        return Augmentation(*(to_device(field, device) for field in self))


def planned(parameters: Tensor, size: tuple[int, int]) -> Augmentation:
    """The transformations of images of (height, width) by parameters (B, 8), on the CPU.

    Where an image is downscaled, an output pixel covers several input pixels, and the four points
    that it averages spread to its extent in excess of one input pixel. This antialiases the
    downscaling and adds no blur where the scale is kept.
    """
    (rows,) = torch.nonzero(parameters[:, 2:].any(dim=1), as_tuple=True)
    chosen = parameters[rows]
    inverse = torch.linalg.inv(_linear_map(chosen))
    axes, lengths, _ = torch.linalg.svd(inverse)  # of the ellipse that an output pixel covers
    spread = axes * ((lengths**2 - 1).clamp(min=0) / 12).sqrt()[:, None, :]  # variance of a box
    offsets = torch.stack([spread @ spread.new_tensor(c) for c in _CORNERS], dim=1)
    shift = _SHIFT_STD * torch.tensor(size[::-1]) * chosen[:, 6:]
    flips = parameters[:, 0] == 1, parameters[:, 1] == 1
    return Augmentation(*flips, rows, inverse.float(), offsets.float(), shift.float())


def augment(images: Tensor, parameters: Tensor) -> Tensor:
    """Transform images (B, C, H, W) in [-1, 1] by parameters (B, 8), on the images' device."""
    height, width = images.shape[2:]
    return apply(images, planned(parameters, (height, width)).to(images.device))


def apply(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Transform images (B, C, H, W) in [-1, 1], on the device of both.

    Flips permute pixels; the other transformations of an image are one resampling, and an image
    without any is returned bit for bit.
    """
    images = flip(images, augmentation.mirrored)
    images = flip(images, augmentation.upside_down, dim=-2)
    rows = augmentation.rows
    if len(rows) == 0:
        return images
    return images.index_copy(0, rows, _resample(images[rows], augmentation))


def flip(images: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Flip those of (B, C, H, W) where `mask` (B,) is set: left to right, or upside down (-2)."""
    return torch.where(mask.to(images.device)[:, None, None, None], images.flip(dim), images)


def _resample(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Scale, rotate, stretch and translate (K, C, H, W) with reflection padding."""
    height, width = images.shape[2:]
    points = _sampling_points(augmentation, height, width)
    sampled = nnf.grid_sample(
        images,
        points.flatten(1, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return sampled.reshape(*images.shape[:2], 4, height, width).mean(dim=2).clamp(-1, 1)


def _sampling_points(augmentation: Augmentation, height: int, width: int) -> Tensor:
    """Input positions of the four points that each output pixel averages: (K, 4, H, W, 2).

    In units of half the sides.
    """
    _, _, _, inverse, offsets, shift = augmentation
    device = inverse.device
    rows, columns = (torch.arange(n, device=device) - (n - 1) / 2 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    outputs = torch.stack([x, y], dim=-1) - shift[:, None, None, :]  # (K, H, W, 2)
    # Sums, not matrix products, whose inputs a GPU may round to ten bits (TF32).
    inputs = (inverse[:, None, None] * outputs[:, :, :, None, :]).sum(dim=-1)
    across, down = (inputs[:, None] + offsets[:, :, None, None, :]).unbind(dim=-1)
    return torch.stack([across * (2 / width), down * (2 / height)], dim=-1)


def _linear_map(parameters: Tensor) -> Tensor:
    """The matrix of scaling, rotation and stretch, applied in this order: (B, 2, 2)."""
    _, _, scale, angle, direction, stretch, _, _ = parameters.unbind(dim=1)
    along = torch.exp2(_SCALE_STD * stretch)
    stretched = torch.diag_embed(torch.stack([along, 1 / along], dim=1))
    rotated = _rotation(direction) @ stretched @ _rotation(-direction) @ _rotation(angle)
    return torch.exp2(_SCALE_STD * scale)[:, None, None] * rotated


def _rotation(angle: Tensor) -> Tensor:
    """Counter-clockwise as viewed, the second coordinate pointing down: (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
