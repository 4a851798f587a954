"""Samplers: functions of (D, x, sigmas) that yield their steps.

sigmas: (steps + 1,), descending to 0, float64 on the CPU. `noise` draws standard normal noise of
the shape of x, and is called only in steps that add noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Denoise, Predict
from ddpm_cli.core.diffusion.schedules import step_variances
from ddpm_cli.core.errors import UsageError


@dataclass(frozen=True)
class SamplerStep:
    """The result of one step from noise level sigma to sigma_next."""

    index: int  # 0-based
    sigma: float
    sigma_next: float  # the noise level of x
    x: Tensor  # the state x0 + sigma_next n, (B, C, H, W)
    x0: Tensor  # D of the state before the step, (B, C, H, W)


def final_state(steps: Iterable[SamplerStep]) -> Tensor:
    """x of the last step; earlier steps are let go of. Raises ValueError where there is none."""
    x = None
    for step in steps:
        x = step.x
    if x is None:
        raise ValueError("no step is taken")
    return x


def ddim(
    predict: Predict,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float,
    noise: Callable[[], Tensor],
    variance: str = "fixed-small",
    unclipped_eps: bool = False,
) -> Iterator[SamplerStep]:
    """DDIM (Song et al. 2021, equation 12) in x = x0 + sigma n.

    eta 0 is the deterministic DDIM, which is Euler's method on the probability flow ODE; eta 1 is
    DDPM's ancestral sampling. The variance of the fresh noise does not change the coefficient of
    the predicted noise, which eta alone sets: as in improved DDPM, only the posterior's mean is
    fixed. The predicted noise is that of the thresholded x0 (Ho et al., improved DDPM), or with
    unclipped_eps the network's own (diffusers' DDIM).
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        x0, fraction, unclipped = predict(x, sigma)
        noiseless = unclipped if unclipped_eps and unclipped is not None else x0
        sigma_up, sigma_down = ancestral_split(sigma, sigma_next, eta)
        x = x0 + (sigma_down / sigma) * (x - noiseless)
        if sigma_up > 0:
            x = x + eta * posterior_std(sigma, sigma_next, variance, fraction) * noise()
        yield SamplerStep(i, sigma, sigma_next, x, x0)


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Deviations (sigma_up, sigma_down) of fresh and kept noise; squares sum to sigma_next^2."""
    sigma_up = eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))
    return sigma_up, math.sqrt(max(0.0, sigma_next**2 - sigma_up**2))


def posterior_std(
    sigma: float, sigma_next: float, variance: str, fraction: Tensor | None
) -> float | Tensor:
    """Standard deviation of the noise that DDPM adds in a step from sigma to sigma_next > 0.

    fixed-small is the posterior's given x0, fixed-large that of beta (Ho et al. 2020, section 3.2);
    learned interpolates between their logarithms by the network's fraction (B, C, H, W) (Nichol &
    Dhariwal 2021, equation 15). Raises UsageError for learned without a fraction.
    """
    small, large = step_variances(sigma, sigma_next)
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
    """Heun's method on the probability flow ODE (Karras et al. 2022, algorithms 1 and 2).

    Two evaluations per step, one in the last. With s_churn > 0, steps between s_min and s_max first
    raise the noise level to sigma_hat by fresh noise of standard deviation s_noise.
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        sigma_hat = sigma * (1 + gamma) if s_min <= sigma <= s_max else sigma
        if sigma_hat > sigma:
            x = x + s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise()
        x0 = denoise(x, sigma_hat)
        x_next = x0 + (sigma_next / sigma_hat) * (x - x0)  # Euler step, exactly x0 at sigma_next 0
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma_hat) * ((x - x0) / sigma_hat + slope_next) / 2
        x = x_next
        yield SamplerStep(i, sigma, sigma_next, x, x0)


def dpmpp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    order: int,
    noise: Callable[[], Tensor],
    eta: float = 0.0,
) -> Iterator[SamplerStep]:
    """DPM-Solver++ of order 2 or 3, multistep (Lu et al. 2022): x0 is extrapolated in log sigma.

    One evaluation per step. eta > 0 adds noise: 1 solves the reverse SDE (their appendix D.3), and
    values between as k-diffusion. The first steps are of lower order, with less than 15 steps the
    last ones too; a step to 0 ends at x0 = D.
    """
    steps = len(sigmas) - 1
    past: list[tuple[Tensor, float]] = []  # x0 and the step from it in log sigma, newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigma)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        possible = min(order, steps - i) if steps < 15 else order
        mean_x0 = _mean_x0(x0, past[: possible - 1], h, eta) if sigma_next > 0 else x0
        x = mean_x0 + (sigma_next / sigma) ** (1 + eta) * (x - mean_x0)
        if eta > 0 and sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - (sigma_next / sigma) ** (2 * eta)) * noise()
        past = [(x0, h), *past][: order - 1]
        yield SamplerStep(i, sigma, sigma_next, x, x0)


def _mean_x0(x0: Tensor, past: list[tuple[Tensor, float]], h: float, eta: float) -> Tensor:
    """The mean of x0 over a step h in log sigma, extrapolated from earlier ones.

    With two it is as in the authors' code, whose curvature is half of the Taylor series'.
    """
    if not past:
        return x0
    (x0_last, h_last), *older = past
    if not older:
        return x0 + h / (2 * h_last) * (x0 - x0_last)
    x0_older, h_older = older[0]
    slope = (x0 - x0_last) / h_last
    curvature = (slope - (x0_last - x0_older) / h_older) / (h_last + h_older)
    slope = slope + h_last * curvature
    decay = (1 + eta) * h
    kept = -math.expm1(-decay)
    phi = 1 - kept / decay
    return x0 + phi / kept * h * slope + (1 / 2 - phi / decay) / kept * h**2 * curvature


ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))
"""Coefficients of order 1 to 3, of the newest slope first."""


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[SamplerStep]:
    """Improved PNDM (Zhang & Chen 2023, equation 38) of order 3: a linear multistep method.

    One evaluation per step. The last step ends at x0 = D, without the older slopes.
    """
    slopes: list[Tensor] = []  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigma)
        slopes = [(x - x0) / sigma, *slopes][: len(ADAMS_BASHFORTH)]
        for coefficient, slope in zip(ADAMS_BASHFORTH[len(slopes) - 1], slopes, strict=True):
            x = x + (sigma_next - sigma) * coefficient * slope
        x = x if sigma_next > 0 else x0
        yield SamplerStep(i, sigma, sigma_next, x, x0)


def consistency(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: Callable[[], Tensor]
) -> Iterator[SamplerStep]:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): x0, then noise again.

    One evaluation per step; with one step it is D of the first state.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigma)
        x = x0 + sigma_next * noise() if sigma_next > 0 else x0
        yield SamplerStep(i, sigma, sigma_next, x, x0)
