"""The forward process: pictures hidden under noise of random strength."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.config.run import NORMALS, ObjectiveConfig
from ddpm_cli.core.diffusion.schedules import Schedule

_INSIDE = 1e-5  # shares are kept this far from 0 and 1, where noise levels may be 0 or infinite


class Noised(NamedTuple):
    """Pictures and what hides them."""

    x0: Tensor  # (B, C, H, W) in [-1, 1]
    noise: Tensor  # (B, C, H, W), standard normal
    sigma: Tensor  # (B,) float64, on the CPU

    @property
    def x(self) -> Tensor:
        """The state x0 + sigma n."""
        sigma = self.sigma.to(self.x0.device, self.x0.dtype)[:, None, None, None]
        return self.x0 + sigma * self.noise


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1), float64 (count,), on the CPU.

    Drawn in strata, one to each 1/count and in random order, which leaves every single draw uniform
    and makes the batch's mean less noisy (Kingma et al. 2021, appendix I.1).
    """
    within = torch.rand((), generator=generator, dtype=torch.float64)
    strata = torch.randperm(count, generator=generator)
    return ((strata + within) / count).clamp_(_INSIDE, 1 - _INSIDE)


def training_sigmas(schedule: Schedule, objective: ObjectiveConfig, u: Tensor) -> Tensor:
    """The noise levels to train at for shares u (B,): float64 (B,), on the CPU.

    uniform: in the schedule's time, so uniform timesteps (Ho et al. 2020, algorithm 1) or flow's t.
    log-normal: Karras et al. (2022), table 1. logit-normal: the same law, told of flow's t, as
    ln sigma = logit t (Esser et al. 2024, equation 19).
    """
    if objective.noise_levels in NORMALS:
        mean, std = objective.normal
        normal: Tensor = torch.special.ndtri(u)
        return (mean + std * normal).exp()
    return schedule.at(u)
