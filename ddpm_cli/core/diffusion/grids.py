"""Which noise levels a sampler visits: respacing is choosing some of the schedule's sigmas."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.errors import UsageError

SPACINGS = ("trailing", "leading", "linspace")


def timesteps(total: int, steps: int, spacing: str = "trailing") -> NDArray[np.int64]:
    """`steps` of the timesteps 0..total-1, descending.

    trailing: ends of equal stretches, always from the last one; leading: their starts, so always
    down to 0 (DDIM, and diffusers' default); linspace: both ends (improved DDPM).
    """
    if not 1 <= steps <= total:
        raise UsageError(
            f"--steps must be between 1 and the model's {total} timesteps, not {steps}"
        )
    if spacing == "trailing":
        chosen = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    elif spacing == "leading":
        chosen = np.arange(steps)[::-1] * (total // steps)
    elif spacing == "linspace":
        chosen = (
            np.round(np.linspace(0, total - 1, steps))[::-1] if steps > 1 else np.array([total - 1])
        )
    else:
        raise UsageError(f"--spacing {spacing!r} is unknown; choose one of {', '.join(SPACINGS)}")
    return chosen.astype(np.int64)


def sigmas(schedule: Schedule, steps: int, spacing: str = "trailing") -> Tensor:
    """The noise levels at those timesteps and a final 0: float64 (steps + 1,), descending."""
    visited = schedule.sigma[timesteps(len(schedule), steps, spacing)]
    return torch.from_numpy(np.append(visited, 0.0))
