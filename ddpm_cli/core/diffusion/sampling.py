"""Sampling: prior, noise levels, guidance, thresholding and sampler put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion import editing, grids, samplers
from ddpm_cli.core.diffusion.denoiser import Denoiser, NoiseLevels, Predict, Prediction
from ddpm_cli.core.diffusion.editing import Edit
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.interpolation import Towards, mixed
from ddpm_cli.core.diffusion.samplers import SamplerStep
from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.diffusion.settings import CONSISTENCY, SOLVERS, Sampling
from ddpm_cli.core.diffusion.thresholding import thresholded

_DPMPP_ORDERS = {"dpmpp-2m": 2, "dpmpp-3m": 3, "dpmpp-2m-sde": 2, "dpmpp-3m-sde": 3}


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    noise: Callable[[], Tensor],
    condition: Condition,
    sampling: Sampling,
    edit: Edit | None = None,
    towards: Towards | None = None,
    guide: Denoiser | None = None,
) -> Iterator[SamplerStep]:
    """Sample one batch, yielding every step; `x` of the last step is the images in [-1, 1].

    noise: draws standard normal noise (B, C, H, W). condition: that of the B images. edit: begins
    at B images in place of pure noise; without a step that is taken, nothing is yielded. towards:
    a condition that is mixed with the first. guide: a worse D of the same images, for settings with
    one.
    """
    sigmas = visited(denoiser.schedule, sampling, edit)
    predict = guided(denoiser, condition, sampling, guide)
    if towards is not None:
        other = guided(denoiser, towards.condition, sampling, guide)
        predict = mixed(predict, other, towards.t)
    predict = thresholded(predict, sampling.threshold)
    first = noise()
    start = first * denoiser.schedule.prior_std(float(sigmas[0]))
    if edit is None:
        yield from _steps(predict, start, sigmas, sampling, noise)
        return

    def sampler(predict: Predict, x: Tensor, sigmas: Tensor) -> Iterator[SamplerStep]:
        return _steps(predict, x, sigmas, sampling, noise)

    start = edit.start(float(sigmas[0]), start, first)
    yield from edit.steps(sampler, edit.keep(predict), start, sigmas, noise)


def grid(schedule: Schedule, sampling: Sampling) -> Tensor:
    """The noise levels that the sampler visits, and the final one: float64 (steps + 1,).

    Raises UsageError where the schedule has fewer timesteps than there are steps, or not the levels
    asked for.
    """
    final = float(schedule.sigma[0]) if sampling.final_sigma == "sigma-min" else 0.0
    if sampling.timesteps:
        return grids.ending_at(final, grids.at_timesteps(schedule, sampling.timesteps))
    if sampling.sigmas:
        return grids.ending_at(final, grids.at_sigmas(schedule, sampling.sigmas))
    if sampling.sections:
        return grids.ending_at(final, grids.in_sections(schedule, sampling.sections))
    steps = sampling.with_default_steps(len(schedule)).steps
    if sampling.sampler == CONSISTENCY:
        assert steps is not None
        return grids.ending_at(final, grids.of_consistency(schedule, steps))
    largest = grids.ODE_SIGMA_MAX if sampling.sampler in SOLVERS else math.inf
    return grids.sigmas(schedule, steps, sampling.spacing, largest, final)


def visited(schedule: Schedule, sampling: Sampling, edit: Edit | None = None) -> Tensor:
    """The levels of the grid, or with an edit those from its strength on; one is no step."""
    sigmas = grid(schedule, sampling)
    return sigmas if edit is None else editing.levels(edit.strength, sigmas, schedule)


def evaluations(schedule: Schedule, sampling: Sampling, edit: Edit | None = None) -> int:
    """Number of network evaluations per image (NFE).

    Those of a guide count as the model's. Of an edit its strength and resampling count.
    """
    return sum(map(sampling.calls_at, levels(schedule, sampling, edit)))


def levels(schedule: Schedule, sampling: Sampling, edit: Edit | None = None) -> list[float]:
    """The noise levels at which D is evaluated, in turn, found by sampling one pixel without it.

    They are those of the grid, and of heun's churn, which goes beyond it.
    """
    found: list[float] = []
    pixel = torch.zeros(1, 1, 1, 1)

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        found.append(float(sigma))
        return Prediction(pixel, pixel)

    def steps(predict: Predict, x: Tensor, sigmas: Tensor) -> Iterator[SamplerStep]:
        return _steps(predict, x, sigmas, sampling, lambda: pixel)

    edit = edit or Edit(pixel)
    sigmas = visited(schedule, sampling, edit)
    for _ in edit.steps(steps, predict, pixel, sigmas, lambda: pixel):
        pass
    return found


def _steps(
    predict: Predict, x: Tensor, sigmas: Tensor, sampling: Sampling, noise: Callable[[], Tensor]
) -> Iterator[SamplerStep]:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return predict(x, sigma).x0

    if sampling.sampler == "heun":
        return samplers.heun(
            denoise,
            x,
            sigmas,
            noise=noise,
            s_churn=sampling.s_churn,
            s_min=sampling.s_min,
            s_max=sampling.s_max,
            s_noise=sampling.s_noise,
        )
    if sampling.sampler in _DPMPP_ORDERS:
        order = _DPMPP_ORDERS[sampling.sampler]
        return samplers.dpmpp(denoise, x, sigmas, order=order, noise=noise, eta=sampling.eta)
    if sampling.sampler == "ipndm":
        return samplers.ipndm(denoise, x, sigmas)
    if sampling.sampler == CONSISTENCY:
        return samplers.consistency(denoise, x, sigmas, noise=noise)
    if sampling.sampler in ("ddim", "ddpm", "euler"):  # which differ by eta
        return samplers.ddim(
            predict,
            x,
            sigmas,
            eta=sampling.eta,
            noise=noise,
            variance=sampling.variance,
            unclipped_eps=sampling.unclipped_eps,
        )
    raise NotImplementedError(sampling.sampler)
