"""The noise levels that a sampler visits: a subsequence of the schedule's, or Karras et al.'s."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule, Table
from ddpm_cli.core.errors import UsageError

# Karras et al. (2022), table 1. The cosine schedule starts at 20,291 and goes to 642 in one step.
ODE_SIGMA_MAX = 80.0

_RHO = 7  # Karras et al. (2022), equation 5


def sigmas(
    schedule: Schedule, steps: int, spacing: str = "trailing", largest: float = math.inf
) -> Tensor:
    """The noise levels to visit and a final 0: float64 (steps + 1,), descending.

    They are the schedule's own, unless the first is above `largest`: then the timesteps are scaled
    so that the first is at that level. `karras` interpolates between the schedule's smallest
    and largest level, at most 80. Raises UsageError where the schedule has fewer timesteps.
    """
    total = len(schedule)
    if not 1 <= steps <= total:
        raise UsageError(
            f"--steps must be between 1 and the model's {total} timesteps, not {steps}"
        )
    if spacing == "karras":
        visited = _karras(schedule, steps)
    else:
        chosen = timesteps(total, steps, spacing)
        visited = schedule.sigma[chosen]
        if visited[0] > largest:
            visited = _scaled(schedule, chosen, largest)
    return torch.from_numpy(np.append(visited, 0.0))


def timesteps(total: int, steps: int, spacing: str) -> NDArray[np.int64]:
    """`steps` of the timesteps 0..total-1, descending.

    trailing: the ends of equal intervals, including the last timestep; leading: their starts,
    including 0 (DDIM, and diffusers' default); linspace: both ends (improved DDPM); quadratic: from
    80 % of the last timestep to 0, dense at low noise (DDIM, appendix D.2).
    """
    if spacing == "trailing":
        chosen = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    elif spacing == "leading":
        chosen = np.arange(steps)[::-1] * (total // steps)
    elif steps == 1:
        chosen = np.array([total - 1])
    elif spacing == "linspace":
        chosen = np.round(np.linspace(0, total - 1, steps))[::-1]
    else:
        squares = np.linspace(0, math.sqrt(0.8 * total), steps) ** 2
        # With many steps, several squares round to one timestep: take the next free ones.
        chosen = np.maximum(squares.astype(np.int64), np.arange(steps))[::-1]
    return chosen.astype(np.int64)


def _karras(schedule: Schedule, steps: int) -> Table:
    """Evenly spaced sigma^(1/7) between the schedule's bounds (Karras et al. 2022, equation 5)."""
    largest = min(schedule.sigma[-1], ODE_SIGMA_MAX)
    smallest = min(schedule.sigma[0], largest)
    roots: Table = np.linspace(largest ** (1 / _RHO), smallest ** (1 / _RHO), steps)
    return roots**_RHO


def _scaled(schedule: Schedule, chosen: NDArray[np.int64], largest: float) -> Table:
    """The levels at these timesteps, scaled by a factor that brings the first to `largest`."""
    timesteps, log_sigmas = np.arange(len(schedule)), np.log(schedule.sigma)
    factor = np.interp(math.log(largest), log_sigmas, timesteps) / chosen[0]
    levels: Table = np.exp(np.interp(chosen * factor, timesteps, log_sigmas))
    return levels
