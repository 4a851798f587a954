"""Conversion between uint8 pixels and floating point in [-1, 1]; done nowhere else."""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Map uint8 pixels 0..255 to float32 in [-1, 1], any shape."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Map [-1, 1] to the nearest of the 256 grey levels, any shape, clipping values outside."""
    return x.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
