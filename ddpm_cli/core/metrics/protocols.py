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
    resized: Callable[[Tensor], Tensor]  # float32 (N, 3, H, W) 0..255 -> network input

    def prepare(self, pictures: Tensor) -> Tensor:
        """Turn uint8 (N, 1 or 3, H, W) into the network's input, float32 (N, 3, 299, 299)."""
        return self.resized(_checked(pictures).expand(-1, 3, -1, -1).float())


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


def protocol(name: str) -> Protocol:
    """Find a protocol by name. Raises UsageError for another name."""
    for known in (PYTORCH_FID, TORCH_FIDELITY):
        if known.name == name:
            return known
    raise UsageError(f"--protocol {name}: choose {PYTORCH_FID.name} or {TORCH_FIDELITY.name}")
