"""The forward process: noise levels of training, and noisy images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.config.diffusion import NORMALS, ObjectiveConfig
from ddpm_cli.core.diffusion.grids import ODE_SIGMA_MAX, of_consistency
from ddpm_cli.core.diffusion.schedules import Schedule

_MARGIN = 1e-5  # distance of u from 0 and 1, where noise levels may be 0 or infinite


class Noised(NamedTuple):
    """Noisy images x = x0 + sigma n."""

    x0: Tensor  # images (B, C, H, W) in [-1, 1]
    noise: Tensor  # n (B, C, H, W), standard normal
    sigma: Tensor  # (B,) float64, on the CPU

    @property
    def x(self) -> Tensor:
        """The state x0 + sigma n."""
        sigma = self.sigma.to(self.x0.device, self.x0.dtype)[:, None, None, None]
        return self.x0 + sigma * self.noise


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """Stratified uniform samples u in (0, 1): float64 (count,), on the CPU.

    One in each interval of length 1/count, with a common offset and in random order. Each is
    uniform, and the batch's mean has a lower variance (Kingma et al. 2021, appendix I.1).
    """
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    strata = torch.randperm(count, generator=generator)
    return ((strata + offset) / count).clamp_(_MARGIN, 1 - _MARGIN)


def training_sigmas(schedule: Schedule, objective: ObjectiveConfig, u: Tensor) -> Tensor:
    """Noise levels of training for uniform u (B,) in (0, 1): float64 (B,), on the CPU.

    uniform: in the schedule's time, so uniform timesteps (Ho et al. 2020, algorithm 1) or flow's t.
    log-normal: Karras et al. (2022), table 1. logit-normal: flow's t is logit-normal (Esser et al.
    2024, equation 19), which is a log-normal sigma, as ln sigma = logit t. Those of consistency
    tuning are within the levels that a model of any schedule is sampled at; those of few calls are
    the calls' own, each as often as the others.
    """
    if objective.consistency is not None and (calls := objective.consistency.calls):
        few = torch.from_numpy(of_consistency(schedule, calls)).flip(0)
        return few[(u * calls).long()]
    if objective.noise_levels in NORMALS:
        mean, std = objective.normal
        normal: Tensor = torch.special.ndtri(u)
        levels = (mean + std * normal).exp()
        return levels if objective.consistency is None else levels.clamp(*bounds(schedule))
    return schedule.sigma_at(u)


def bounds(schedule: Schedule) -> tuple[float, float]:
    """The least and largest noise level of the schedule, none above the largest of ODE solvers."""
    return float(schedule.sigma[0]), min(float(schedule.sigma[-1]), ODE_SIGMA_MAX)
