"""Noise schedules: how much noise each of T timesteps holds, in float64.

From DDPM's notation to ours: a DDPM state is x_t = sqrt(abar) x0 + sqrt(1 - abar) n. Divided by
sqrt(abar) it is x = x0 + sigma n with sigma^2 = (1 - abar) / abar, the form used everywhere here.
Index 0 is one step of noise (Ho et al. count it as t = 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config import DiffusionConfig

Table = NDArray[np.float64]

_LARGEST_BETA = 0.999  # Nichol & Dhariwal (2021) section 3.2: keeps abar above zero


@dataclass(frozen=True, eq=False)
class Schedule:
    """A sequence of betas, and what follows from it."""

    name: str
    beta: Table  # (T,)

    def __len__(self) -> int:
        return len(self.beta)

    @cached_property
    def alpha_bar(self) -> Table:
        """Share of the signal's variance left after t + 1 steps: the product of 1 - beta."""
        return np.cumprod(1 - self.beta, dtype=np.float64)

    @cached_property
    def sigma(self) -> Table:
        """Noise level relative to the signal, sqrt((1 - abar) / abar), ascending."""
        return np.sqrt((1 - self.alpha_bar) / self.alpha_bar)

    @cached_property
    def snr(self) -> Table:
        """Signal-to-noise ratio abar / (1 - abar) = 1 / sigma^2."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep of noise levels (B,), float32: linear in log sigma, exact on the table."""
        where = np.interp(np.log(sigma.numpy()), np.log(self.sigma), np.arange(len(self)))
        nearest = where.round()
        return torch.from_numpy(np.where(abs(where - nearest) < 1e-6, nearest, where)).float()


def prior_std(sigma_max: float) -> float:
    """Deviation of x where sampling starts: DDPM's x_T ~ N(0, 1) is x ~ N(0, 1 + sigma_max^2)."""
    return math.sqrt(1 + sigma_max**2)


def linear(timesteps: int) -> Schedule:
    """Evenly spaced betas (Ho et al. 2020, section 4), scaled by 1000 / T as improved DDPM does."""
    scale = 1000 / timesteps
    beta = np.linspace(scale * 1e-4, scale * 0.02, timesteps)
    return Schedule("linear", np.minimum(beta, _LARGEST_BETA))


def cosine(timesteps: int) -> Schedule:
    """abar = cos^2 of an angle that grows with t (Nichol & Dhariwal 2021, equation 17)."""
    offset = 0.008  # keeps the first betas from vanishing
    t = np.arange(timesteps + 1) / timesteps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return Schedule("cosine", np.minimum(1 - f[1:] / f[:-1], _LARGEST_BETA))


def from_config(config: DiffusionConfig) -> Schedule:
    """The schedule a run is trained with."""
    return {"linear": linear, "cosine": cosine}[config.schedule](config.timesteps)
