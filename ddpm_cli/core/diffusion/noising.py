"""The forward process: pictures hidden under noise of random strength."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule


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


def uniform_sigmas(schedule: Schedule, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels of uniform timesteps (Ho et al. 2020, algorithm 1): float64 (count,), CPU.

    Drawn in strata, one to each 1/count of the schedule and in random order, which leaves every
    single draw uniform and makes the batch's mean less noisy (Kingma et al. 2021, appendix I.1).
    """
    within = torch.rand((), generator=generator, dtype=torch.float64)
    strata = torch.randperm(count, generator=generator)
    t = ((strata + within) / count * len(schedule)).long().clamp_(max=len(schedule) - 1)
    return torch.from_numpy(schedule.sigma)[t]
