"""Which noise levels a sampler visits: respacing is choosing some of the schedule's sigmas."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule, Table
from ddpm_cli.core.errors import UsageError

FLOW_SIGMA_MAX = 80.0  # Karras et al. (2022), table 1; cosine's last jump is from 20,291 to 642

_RHO = 7  # Karras et al. (2022), equation 5


def sigmas(
    schedule: Schedule, steps: int, spacing: str = "trailing", largest: float = math.inf
) -> Tensor:
    """The noise levels to visit and a final 0: float64 (steps + 1,), descending.

    They are the schedule's own, unless it goes beyond `largest`: then its timesteps are squeezed
    below that level. `karras` lies between the schedule's levels anyway, and never goes beyond 80.
    Raises UsageError where the schedule has fewer timesteps.
    """
    total = len(schedule)
    if not 1 <= steps <= total:
        raise UsageError(
            f"--steps must be between 1 and the model's {total} timesteps, not {steps}"
        )
    if spacing == "karras":
        visited = _karras(schedule, steps)
    elif schedule.sigma[-1] > largest:
        visited = _squeezed(schedule, timesteps(total, steps, spacing), largest)
    else:
        visited = schedule.sigma[timesteps(total, steps, spacing)]
    return torch.from_numpy(np.append(visited, 0.0))


def timesteps(total: int, steps: int, spacing: str) -> NDArray[np.int64]:
    """`steps` of the timesteps 0..total-1, descending.

    trailing: ends of equal stretches, always from the last one; leading: their starts, so always
    down to 0 (DDIM, and diffusers' default); linspace: both ends (improved DDPM); quadratic: from
    80 % of the last one to 0, dense where there is little noise (DDIM, appendix D.2).
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
        # With many steps several squares fall on one timestep: the next free ones are taken.
        chosen = np.maximum(squares.astype(np.int64), np.arange(steps))[::-1]
    return chosen.astype(np.int64)


def _karras(schedule: Schedule, steps: int) -> Table:
    """Equal stretches of sigma^(1/7) between the schedule's bounds (equation 5)."""
    largest = min(schedule.sigma[-1], FLOW_SIGMA_MAX)
    smallest = min(schedule.sigma[0], largest)
    roots: Table = np.linspace(largest ** (1 / _RHO), smallest ** (1 / _RHO), steps)
    return roots**_RHO


def _squeezed(schedule: Schedule, chosen: NDArray[np.int64], largest: float) -> Table:
    """The levels at those timesteps times a factor that brings the last one to `largest`."""
    every, logs = np.arange(len(schedule)), np.log(schedule.sigma)
    factor = np.interp(math.log(largest), logs, every) / every[-1]
    levels: Table = np.exp(np.interp(chosen * factor, every, logs))
    return levels
