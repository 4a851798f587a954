"""Classifier-free guidance (Ho & Salimans 2022) as a wrapper D -> D."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.config import NULL_CLASS
from ddpm_cli.core.diffusion.denoiser import Denoise, Denoiser


def guided(denoiser: Denoiser, condition: Tensor | None, scale: float) -> Denoise:
    """D = D_null + scale (D_condition - D_null), both in one forward pass.

    scale 1 is the plain conditional model, 0 the unconditional one; the paper's w is scale - 1.
    condition: (B,) class labels, or None for a model without classes, which nothing can guide.
    """
    if condition is None:
        return denoiser
    null = torch.full_like(condition, NULL_CLASS)
    if scale in (0, 1):
        chosen = condition if scale == 1 else null
        return lambda x, sigma: denoiser(x, sigma, chosen)
    both = torch.cat([condition, null])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        wanted, free = denoiser(x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
        return free + scale * (wanted - free)

    return denoise
