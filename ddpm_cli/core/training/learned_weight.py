"""A loss weight that is learned: each noise level by the uncertainty of its loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_FREQUENCIES = 128


class LearnedWeight(nn.Module):
    """u(sigma), linear in Fourier features of ln(sigma) / 4 (Karras et al. 2024, section 2).

    With the loss L e^-u + u, u becomes ln E[L] at each noise level: so every level's weighted loss
    is about 1, whatever the network has learned so far. It starts at 0, a weight of 1.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)  # the features are the same in all runs
        frequencies = torch.randn(_FREQUENCIES, generator=random)
        self.register_buffer("frequencies", 2 * math.pi * frequencies)
        self.register_buffer("phases", 2 * math.pi * torch.rand(_FREQUENCIES, generator=random))
        self.weight = nn.Parameter(torch.zeros(_FREQUENCIES))

    def forward(self, sigma: Tensor) -> Tensor:
        """u at noise levels (B,) > 0: float32 (B,)."""
        c_noise = sigma.float().log() / 4
        features = (c_noise[:, None] * self.frequencies + self.phases).cos()
        return math.sqrt(2 / _FREQUENCIES) * (features @ self.weight)


def balanced(losses: Tensor, u: Tensor) -> Tensor:
    """Losses (B,) as they are minimised: L e^-u + u (Kendall et al. 2018, as in Karras 2024)."""
    return losses * (-u).exp() + u
