"""Samplers: functions of (D, x, sigmas) that yield their steps.

sigmas: (steps + 1,), descending to 0, float64 on the CPU. `noise` draws standard normal noise of
the shape of x, and is called only where a step adds some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Denoise, Predict
from ddpm_cli.core.diffusion.schedules import step_variances
from ddpm_cli.core.errors import UsageError


@dataclass(frozen=True)
class SamplerStep:
    """Where a sampler stands after one step."""

    index: int  # 0-based
    sigma: float  # the noise level left behind
    sigma_next: float  # the noise level of x
    x: Tensor  # the state x0 + sigma_next n, (B, C, H, W)
    x0: Tensor  # what D saw in the state before, (B, C, H, W)


def ddim(
    predict: Predict,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float,
    noise: Callable[[], Tensor],
    variance: str = "fixed-small",
) -> Iterator[SamplerStep]:
    """DDIM (Song et al. 2021, equation 12) in x = x0 + sigma n.

    eta 0 is the deterministic DDIM, which is Euler's method on the probability flow; eta 1 is
    DDPM's ancestral sampling. Whatever the variance of the fresh noise, eta alone says how much of
    the old noise is kept, as in improved DDPM, where only the posterior's mean is fixed.
    """
    for i, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        x0, fraction = predict(x, sigmas[i].expand(len(x)))
        up, down = ancestral_split(sigma, after, eta)
        x = x0 + (down / sigma) * (x - x0)
        if up > 0:
            x = x + eta * posterior_std(sigma, after, variance, fraction) * noise()
        yield SamplerStep(i, sigma, after, x, x0)


def ancestral_split(sigma: float, after: float, eta: float) -> tuple[float, float]:
    """Fresh noise `up` and kept noise `down` of the next level: up^2 + down^2 = after^2."""
    up = eta * after * math.sqrt(max(0.0, 1 - (after / sigma) ** 2))
    return up, math.sqrt(max(0.0, after**2 - up**2))


def posterior_std(
    sigma: float, after: float, variance: str, fraction: Tensor | None
) -> float | Tensor:
    """Deviation of the noise that DDPM adds on its way from `sigma` to `after` > 0.

    fixed-small is the posterior's given x0, fixed-large that of beta (Ho et al. 2020, section 3.2);
    learned lies between their logarithms, by a fraction (B, C, H, W) that the network says (Nichol
    & Dhariwal 2021, equation 15). Raises UsageError where it says none.
    """
    small, large = step_variances(sigma, after)
    if variance == "fixed-small":
        return math.sqrt(small)
    if variance == "fixed-large":
        return math.sqrt(large)
    if fraction is None:
        raise UsageError(
            "--variance learned is for models that learned one; use fixed-small or fixed-large"
        )
    return torch.exp(0.5 * (fraction * math.log(large) + (1 - fraction) * math.log(small)))


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Callable[[], Tensor],
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[SamplerStep]:
    """Heun's method on the probability flow (Karras et al. 2022, algorithms 1 and 2).

    Two evaluations a step, one in the last. With s_churn > 0 a step between s_min and s_max first
    goes up to a higher noise level, by fresh noise of deviation s_noise.
    """
    most = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for i, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        level = sigma * (1 + most) if s_min <= sigma <= s_max else sigma
        if level > sigma:
            x = x + s_noise * math.sqrt(level**2 - sigma**2) * noise()
        x0 = denoise(x, torch.full_like(sigmas[:1], level).expand(len(x)))
        end = x0 + (after / level) * (x - x0)  # Euler's step, which ends at D itself
        if after > 0:
            slope_there = (end - denoise(end, sigmas[i + 1].expand(len(x)))) / after
            end = x + (after - level) * ((x - x0) / level + slope_there) / 2
        x = end
        yield SamplerStep(i, sigma, after, x, x0)


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[SamplerStep]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x0 is extrapolated in log sigma.

    Order 2 with one evaluation a step. The first and the last step are of order 1.
    """
    before, h_before = x, math.inf  # nothing is known of x0's change at first
    for i, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigmas[i].expand(len(x)))
        h = math.log(sigma / after) if after > 0 else 0.0
        middle = x0 + h / (2 * h_before) * (x0 - before)
        x = middle + (after / sigma) * (x - middle)
        before, h_before = x0, h
        yield SamplerStep(i, sigma, after, x, x0)


# Of the newest slope and those before it (Adams & Bashforth).
_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[SamplerStep]:
    """Improved PNDM (Zhang & Chen 2023, equation 38) of order 3: the slopes of three steps.

    One evaluation a step. The last step ends at D: nothing of older slopes is left at sigma 0.
    """
    slopes: list[Tensor] = []  # the newest first
    for i, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigmas[i].expand(len(x)))
        slopes = [(x - x0) / sigma, *slopes][: len(_WEIGHTS)]
        for weight, slope in zip(_WEIGHTS[len(slopes) - 1], slopes, strict=True):
            x = x + (after - sigma) * weight * slope
        x = x if after > 0 else x0
        yield SamplerStep(i, sigma, after, x, x0)
