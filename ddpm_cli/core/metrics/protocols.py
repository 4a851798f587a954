"""From uint8 pictures to the network's input: resize and scaling, each variant under its own name.

The variants differ in the score by tenths on small pictures, so a score without its protocol's name
cannot be compared with anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.inception import SIDE


@dataclass(frozen=True)
class Protocol:
    """A named way to prepare pictures."""

    name: str
    resize: str  # in words, for the line printed with a score
    resized: Callable[[Tensor], Tensor]  # float32 (N, channels, H, W) 0..255 -> network input
    channels: int = 3  # 3: grey is replicated; 1: colours are weighed as in ITU-R 601
    local: bool = False  # for another network than the FID Inception: its scores are no FID

    def prepare(self, pictures: Tensor) -> Tensor:
        """Turn uint8 (N, 1 or 3, H, W) into the network's input, float32 (N, 3, 299, 299)."""
        x = _checked(pictures).float()
        if self.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        return self.resized(x.expand(-1, self.channels, -1, -1))


LOCAL = "local-features"  # the name under which other networks' features go
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as PIL makes grey


def _checked(pictures: Tensor) -> Tensor:
    if pictures.dtype != torch.uint8:
        # FID of numbers that were never rounded to 8 bits is another quantity: so say it loudly.
        raise TypeError(f"pictures must be uint8, not {pictures.dtype}: use pixels.to_uint8")
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise TypeError(f"pictures must be (N, 1 or 3, H, W), not {tuple(pictures.shape)}")
    return pictures


def _half_pixel(x: Tensor) -> Tensor:
    """Resize with half-pixel centres, no antialiasing; scale to [-1, 1] by 2 (x / 255) - 1."""
    x = functional.interpolate(x / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * x - 1


def _tensorflow_1(x: Tensor) -> Tensor:
    """Resize as TensorFlow 1's resize_bilinear, bit for bit on a CPU; scale by (x - 128) / 128.

    Pixel i of the output looks at i * in / out of the input, without half-pixel centres. The order
    of the roundings (columns first, then rows, low + (high - low) * d) is TensorFlow's.
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

    PIL widens the kernel (a = -1/2) when it shrinks, which is antialiasing, and sums in float64:
    so is it done here, on any device, to 1e-4 of a grey level. Scale by (x - 128) / 128.
    """
    wide = x if x.device.type == "mps" else x.double()  # Metal has no float64
    wide = functional.interpolate(
        wide, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    )
    return (wide.float().clamp(0, 255) - 128) / 128


def _taps(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.arange(SIDE, device=device, dtype=torch.float32)
    at = at * torch.tensor(size / SIDE, dtype=torch.float32)  # rounded to float32 first, as TF does
    low = at.long()
    return low, (low + 1).clamp_max(size - 1), at - low


PYTORCH_FID = Protocol(
    "pytorch-fid", f"bilinear to {SIDE}, half-pixel centres, no antialiasing", _half_pixel
)
TORCH_FIDELITY = Protocol(
    "torch-fidelity", f"bilinear to {SIDE} as TensorFlow 1, no antialiasing", _tensorflow_1
)


CLEAN_FID = Protocol(
    "clean-fid", f"PIL bicubic to {SIDE} on floats, antialiased, not rounded", _clean
)
PROTOCOLS = (PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID)


def protocol(name: str) -> Protocol:
    """Find a protocol by name. Raises UsageError for another name."""
    for known in PROTOCOLS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in PROTOCOLS)
    raise UsageError(f"--protocol {name}: choose one of {names}")


def local_protocol(size: tuple[int, int], channels: int) -> Protocol:
    """Prepare pictures for a classifier of (height, width) pixels: [-1, 1] at its own size."""

    def fitted(x: Tensor) -> Tensor:
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        return x / 127.5 - 1

    words = f"bilinear to {size[1]}x{size[0]}x{channels} where they differ, antialiased"
    return Protocol(LOCAL, words, fitted, channels, local=True)
