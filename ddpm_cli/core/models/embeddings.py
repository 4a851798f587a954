"""Numbers and names as vectors: noise level and class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ddpm_cli.core.config import NULL_CLASS
from ddpm_cli.core.models.blocks import glorot


def sinusoidal(values: Tensor, width: int, longest: float = 10_000) -> Tensor:
    """Position encoding of real numbers, (B,) -> (B, width): sines, then cosines.

    Vaswani et al. (2017) section 3.5 as DDPM uses it: the exponents end at 1/`longest` exactly.
    """
    half = width // 2
    rates = torch.exp(
        torch.arange(half, device=values.device, dtype=torch.float32)
        * (-math.log(longest) / max(half - 1, 1))
    )
    angles = values.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conditioning(nn.Module):
    """Noise level and class as one vector (B, width) that every residual block reads."""

    def __init__(self, encoding: int, width: int, classes: int) -> None:
        super().__init__()
        self.encoding = encoding
        self.first = glorot(nn.Linear(encoding, width))
        self.second = glorot(nn.Linear(width, width))
        self.classes = nn.Embedding(classes + 1, width) if classes else None  # row 0: null class

    def forward(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """c_noise (B,), labels (B,) int64 with NULL_CLASS for none -> (B, width)."""
        vector: Tensor = self.second(
            nn.functional.silu(self.first(sinusoidal(c_noise, self.encoding)))
        )
        if self.classes is None:
            return vector
        if labels is None:
            labels = torch.full_like(c_noise, NULL_CLASS, dtype=torch.int64)
        return torch.add(vector, self.classes(labels + 1))
