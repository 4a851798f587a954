"""From noise to pictures: prior, grid, guidance, threshold and sampler put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion import grids, samplers
from ddpm_cli.core.diffusion.denoiser import Denoiser, Predict, Prediction
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.samplers import SamplerStep
from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.diffusion.thresholding import thresholded
from ddpm_cli.core.runtime.seeds import ImageNoise


@torch.inference_mode()
def sample(
    denoiser: Denoiser, noise: ImageNoise, condition: Condition, how: Sampling
) -> Iterator[SamplerStep]:
    """Draw one batch, yielding every step; the last step's `x` is the pictures in [-1, 1].

    noise: draws (B, C, H, W); condition: what the B pictures should show.
    """
    sigmas = grid(denoiser.schedule, how)
    start = noise() * denoiser.schedule.prior_std(float(sigmas[0]))
    predict = thresholded(guided(denoiser, condition, how), how.threshold)
    yield from _steps(predict, start, sigmas, how, noise)


def grid(schedule: Schedule, how: Sampling) -> Tensor:
    """The noise levels that a sampler visits on this schedule, and a final 0: (steps + 1,).

    Raises UsageError where the schedule has fewer timesteps than there are steps.
    """
    largest = grids.FLOW_SIGMA_MAX if how.solves_ode else math.inf
    steps = how.with_default_steps(len(schedule)).steps
    return grids.sigmas(schedule, steps, how.spacing, largest)


def evaluations(schedule: Schedule, how: Sampling) -> int:
    """Network evaluations a picture takes (NFE), counted by drawing one empty pixel."""
    count = 0
    pixel = torch.zeros(1, 1, 1, 1)

    def predict(x: Tensor, sigma: Tensor) -> Prediction:
        nonlocal count
        count += 2 if how.guidance != 0 and how.is_guided_at(float(sigma[0])) else 1
        return Prediction(pixel, pixel)

    for _ in _steps(predict, pixel, grid(schedule, how), how, lambda: pixel):
        pass
    return count


def _steps(
    predict: Predict, x: Tensor, sigmas: Tensor, how: Sampling, noise: Callable[[], Tensor]
) -> Iterator[SamplerStep]:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return predict(x, sigma).x0

    if how.sampler == "heun":
        return samplers.heun(
            denoise,
            x,
            sigmas,
            noise=noise,
            s_churn=how.s_churn,
            s_min=how.s_min,
            s_max=how.s_max,
            s_noise=how.s_noise,
        )
    if how.sampler == "dpmpp-2m":
        return samplers.dpmpp_2m(denoise, x, sigmas)
    if how.sampler == "ipndm":
        return samplers.ipndm(denoise, x, sigmas)
    # ddpm is ddim at eta 1, and Euler's method is ddim at eta 0
    return samplers.ddim(predict, x, sigmas, eta=how.eta, noise=noise, variance=how.variance)
