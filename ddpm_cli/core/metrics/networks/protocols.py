"""Preprocessing of uint8 images for the feature network: named variants of resize and scaling.

Scores under different variants differ by tenths on small images, so a score without the name of its
protocol cannot be compared with anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.config import choices
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.metrics.networks.inception import INPUT_SIZE


@dataclass(frozen=True)
class Protocol:
    """A named preprocessing of images."""

    name: str
    resize: str  # described, for the line printed with a score
    transform: Callable[[Tensor], Tensor]  # float32 (N, channels, H, W) 0..255 -> network input
    channels: int = 3  # 3: grey is replicated; 1: RGB becomes luma (ITU-R BT.601)

    def prepare(self, images: Tensor) -> Tensor:
        """From uint8 (N, 1 or 3, H, W) to the network's input, float32 (N, 3, 299, 299)."""
        x = _checked(images).float()
        if self.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        return self.transform(x.expand(-1, self.channels, -1, -1))


LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, as in PIL


def _checked(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:  # FID of values not rounded to 8 bits is another quantity
        raise TypeError(f"images must be uint8, not {images.dtype}: use pixels.to_uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise TypeError(f"images must be (N, 1 or 3, H, W), not {tuple(images.shape)}")
    return images


def _half_pixel(x: Tensor) -> Tensor:
    """Resize with half-pixel centres, no antialiasing; scale to [-1, 1] by 2 (x / 255) - 1."""
    x = functional.interpolate(x / 255, (INPUT_SIZE,) * 2, mode="bilinear", align_corners=False)
    return 2 * x - 1


def _tensorflow_1(x: Tensor) -> Tensor:
    """Resize as TensorFlow 1's resize_bilinear, bit for bit on a CPU; scale by (x - 128) / 128.

    Output pixel i samples the input at i * in / out, without half-pixel centres. The order of
    roundings (columns first, then rows, low + (high - low) * d) is TensorFlow's.
    """
    low, high, weight = _taps(x.shape[3], x.device)
    left = x[..., low]
    x = left + (x[..., high] - left) * weight
    low, high, weight = _taps(x.shape[2], x.device)
    top = x[:, :, low]
    x = top + (x[:, :, high] - top) * weight[:, None]
    return (x - 128) / 128


def _clean(x: Tensor) -> Tensor:
    """Resize as PIL's BICUBIC on each channel of floats (Parmar et al. 2022), clip to 0..255.

    PIL widens the kernel (a = -1/2) when downsampling, which is antialiasing, and sums in float64.
    This reproduces it on any device to 1e-4 of a grey level. Scale by (x - 128) / 128.
    """
    wide = x if x.device.type == "mps" else x.double()  # Metal has no float64
    wide = functional.interpolate(
        wide, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=False, antialias=True
    )
    return (wide.float().clamp(0, 255) - 128) / 128


def _taps(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input indices below and above each output pixel, and the weight of the upper, all (299,)."""
    output = torch.arange(INPUT_SIZE, device=device, dtype=torch.float32)
    # the ratio is rounded to float32 first, as in TensorFlow
    position = output * torch.tensor(size / INPUT_SIZE, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(size - 1), position - low


PYTORCH_FID = Protocol(
    choices.PYTORCH_FID,
    f"bilinear to {INPUT_SIZE}, half-pixel centres, no antialiasing",
    _half_pixel,
)
TORCH_FIDELITY = Protocol(
    choices.TORCH_FIDELITY,
    f"bilinear to {INPUT_SIZE} as TensorFlow 1, no antialiasing",
    _tensorflow_1,
)
CLEAN_FID = Protocol(
    choices.CLEAN_FID, f"PIL bicubic to {INPUT_SIZE} on floats, antialiased, not rounded", _clean
)
PROTOCOLS = {choices.INCEPTION: (PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID)}  # the default first


def protocol(name: str | None, network: str = choices.INCEPTION) -> Protocol:
    """Find a network's protocol by name, or its default. Raises UsageError for other names."""
    by_name = {candidate.name: candidate for candidate in PROTOCOLS[network]}
    if name is None:
        return PROTOCOLS[network][0]
    one_of("--protocol", name, by_name)
    return by_name[name]


def local_protocol(size: tuple[int, int], channels: int) -> Protocol:
    """Protocol for a classifier of (height, width) pixels: [-1, 1] at that size."""

    def transform(x: Tensor) -> Tensor:
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        return x / 127.5 - 1

    resize = f"bilinear to {size[1]}x{size[0]}x{channels} where they differ, antialiased"
    return Protocol(choices.LOCAL_PROTOCOL, resize, transform, channels)
