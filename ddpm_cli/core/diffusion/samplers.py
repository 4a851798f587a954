"""Samplers: functions of (D, x, sigmas) that yield their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Denoise


@dataclass(frozen=True)
class Step:
    """Where a sampler stands after one step."""

    index: int  # 0-based
    sigma: float  # the noise level left behind
    sigma_next: float  # the noise level of x
    x: Tensor  # the state x0 + sigma_next n, (B, C, H, W)
    x0: Tensor  # what D saw in the state before, (B, C, H, W)


def ddim(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float, noise: Callable[[], Tensor]
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equation 12) in x = x0 + sigma n.

    eta 0 is the deterministic DDIM, which is Euler's method on the probability flow; eta 1 is
    DDPM's ancestral sampling with the posterior ("fixed small") variance. sigmas: (steps + 1,),
    descending to 0, float64 on the CPU. `noise` draws standard normal noise of the shape of x and
    is called only where eta > 0.
    """
    levels = sigmas.tolist()
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x0 = denoise(x, sigmas[i].expand(len(x)))
        up, down = ancestral_split(sigma, sigma_next, eta)
        x = x0 + (down / sigma) * (x - x0)
        if up > 0:
            x = x + up * noise()
        yield Step(i, sigma, sigma_next, x, x0)


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Fresh noise `up` and kept noise `down` of the next level: up^2 + down^2 = sigma_next^2."""
    up = eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))
    return up, math.sqrt(max(0.0, sigma_next**2 - up**2))
