"""Noise schedules: the noise levels of T timesteps, in float64.

A DDPM state x_t = sqrt(abar) x0 + sqrt(1 - abar) n, divided by sqrt(abar), is x = x0 + sigma n with
sigma^2 = (1 - abar) / abar: the form used throughout this package. Index 0 is one step of noise
(t = 1 of Ho et al.).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.diffusion import BETA_RANGED, DiffusionConfig
from ddpm_cli.core.errors import UsageError

Table = NDArray[np.float64]

SIGMA_MIN, SIGMA_MAX = 1e-18, 1e37  # float32 holds sigma^-2 of the first and sigma n of the last
_ROUNDING = 1e-6  # relative: float32 rounds by up to 6e-8, levels of 20,000 lie 1.5e-4 apart
Sigma = TypeVar("Sigma", float, Tensor)


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise schedule of a DDPM: a table of noise levels, and quantities derived from it."""

    name: str
    sigma: Table  # (T,), ascending: noise relative to the signal, sqrt((1 - abar) / abar)
    time_scale: float = 1.0  # c_noise per timestep

    def __len__(self) -> int:
        return len(self.sigma)

    @cached_property
    def alpha_bar(self) -> Table:
        """abar: the product of 1 - beta over t + 1 steps."""
        return 1 / (1 + self.sigma**2)

    @cached_property
    def beta(self) -> Table:
        """Variance of the noise added in a step: 1 - abar_t / abar_(t - 1)."""
        variance = self.sigma**2
        return np.diff(variance, prepend=0.0) / (1 + variance)

    @cached_property
    def snr(self) -> Table:
        """Signal-to-noise ratio abar / (1 - abar) = 1 / sigma^2."""
        return 1 / self.sigma**2

    def timestep(self, sigma: Tensor) -> Tensor:
        """Timesteps of levels (B,): float32, interpolated in log sigma, exact on the table."""
        t = np.interp(np.log(sigma.numpy()), np.log(self.sigma), np.arange(len(self)))
        nearest = t.round()
        return torch.from_numpy(np.where(abs(t - nearest) < 1e-6, nearest, t)).float()

    def index(self, sigma: Tensor) -> Tensor:
        """The timesteps of levels of the table (B,), int64, exact or rounded to float32.

        Raises ValueError for noise levels that are not in the table.
        """
        levels = sigma.double().numpy()
        nearest = np.interp(np.log(levels), np.log(self.sigma), np.arange(len(self))).round()
        index: NDArray[np.int64] = nearest.astype(np.int64)
        off = abs(levels / self.sigma[index] - 1) > _ROUNDING
        if off.any():
            raise ValueError(f"sigma {levels[off][0]:g} is not a level of schedule {self.name}")
        return torch.from_numpy(index)

    def below(self, sigma: Tensor) -> Tensor:
        """The next lower noise levels of the table, for levels of it (B,); 0 below the lowest.

        Raises ValueError for noise levels that are not in the table.
        """
        return torch.from_numpy(np.append(0.0, self.sigma))[self.index(sigma)]

    def sigma_at(self, u: Tensor) -> Tensor:
        """Noise levels for u (B,) in (0, 1): those of timesteps floor(u T)."""
        index = (u * len(self)).long().clamp_(max=len(self) - 1)
        return torch.from_numpy(self.sigma)[index]

    def c_noise(self, sigma: Tensor) -> Tensor:
        """The network's noise level input for noise levels (B,): scaled timesteps, float32 (B,)."""
        return self.timestep(sigma) * self.time_scale

    def prior_std(self, sigma_max: float) -> float:
        """Standard deviation of the initial x: x_T ~ N(0, 1) is x ~ N(0, 1 + sigma_max^2)."""
        return math.sqrt(1 + sigma_max**2)


def step_variances(sigma: Sigma, below: Sigma) -> tuple[Sigma, Sigma]:
    """Small and large variance of DDPM's step from a noise level to a lower one.

    The posterior's given x0, and beta (Ho et al. 2020, section 3.2), both times 1 / abar of the
    lower level, since x = x0 + sigma n.
    """
    a, b = sigma**2, below**2
    return b * (a - b) / a, (a - b) * (1 + b) / (1 + a)


_SIGMA_MIN, _SIGMA_MAX, _RHO = 0.002, 80.0, 7.0  # Karras et al. (2022), table 1


class KarrasSchedule(Schedule):
    """Continuous noise levels from 0.002 to 80; the table is Karras et al. (2022), equation 5."""

    def sigma_at(self, u: Tensor) -> Tensor:
        """Noise levels for u (B,) in (0, 1), uniform in sigma^(1/7)."""
        low, high = _SIGMA_MIN ** (1 / _RHO), _SIGMA_MAX ** (1 / _RHO)
        levels: Tensor = (low + u * (high - low)) ** _RHO
        return levels

    def c_noise(self, sigma: Tensor) -> Tensor:
        """ln(sigma) / 4 (Karras et al. 2022, table 1)."""
        return (sigma.log() / 4).float()

    def prior_std(self, sigma_max: float) -> float:
        """Sampling starts from pure noise (Karras et al. 2022, algorithm 1)."""
        return sigma_max


class FlowSchedule(Schedule):
    """Rectified flow (Liu et al. 2023): x_t = (1 - t) x0 + t n, which is sigma = t / (1 - t)."""

    def sigma_at(self, u: Tensor) -> Tensor:
        """Noise levels at t = u (B,)."""
        return u / (1 - u)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """1000 t, the range of DDPM's timesteps."""
        return (1000 * sigma / (1 + sigma)).float()


def linear(c: DiffusionConfig) -> Table:
    """Evenly spaced betas (Ho et al. 2020, section 4), scaled by 1000 / T as improved DDPM does."""
    return 1000 / c.timesteps * linear_fixed(c)


def linear_fixed(c: DiffusionConfig) -> Table:
    """Evenly spaced betas with the same bounds for any T, as in diffusers."""
    return np.linspace(c.beta_min, c.beta_max, c.timesteps)


def quadratic(c: DiffusionConfig) -> Table:
    """Evenly spaced sqrt(beta) ("quad" in Ho et al.'s code, "scaled linear" in diffusers)."""
    return np.linspace(c.beta_min**0.5, c.beta_max**0.5, c.timesteps) ** 2


def sigmoid(c: DiffusionConfig) -> Table:
    """Betas along a sigmoid from -6 to 6 (Xu et al. 2022's code, and diffusers)."""
    ramp = 1 / (1 + np.exp(-np.linspace(-6, 6, c.timesteps)))
    return c.beta_min + ramp * (c.beta_max - c.beta_min)


def cosine(c: DiffusionConfig) -> Table:
    """abar = cos^2 of an angle linear in t (Nichol & Dhariwal 2021, equation 17)."""
    t = np.arange(c.timesteps + 1) / c.timesteps
    s = c.cosine_offset
    return _betas(np.cos((t + s) / (1 + s) * np.pi / 2) ** 2)


def sigmoid_abar(c: DiffusionConfig) -> Table:
    """abar along a sigmoid from 3 to -3, rescaled to 1 and 0 (Jabri et al. 2022, algorithm 1)."""
    t = np.arange(c.timesteps + 1) / c.timesteps
    curve = 1 / (1 + np.exp(6 * t - 3))
    return _betas((curve - curve[-1]) / (curve[0] - curve[-1]))


def _betas(alpha_bar: Table) -> Table:
    """abar at t = 0 … T -> the T betas."""
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


BETAS: dict[str, Callable[[DiffusionConfig], Table]] = {
    "linear": linear,
    "linear-fixed": linear_fixed,
    "quadratic": quadratic,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "sigmoid-abar": sigmoid_abar,
}


def from_betas(name: str, beta: Table) -> Schedule:
    """The schedule of a DDPM's betas (T,). Raises UsageError where its levels are out of range."""
    if not (len(beta) and ((beta > 0) & (beta <= 1)).all()):
        raise UsageError(f"schedule {name} has betas that are not above 0 and at most 1")
    sigmas = _sigmas(beta)
    if sigmas[-1] > SIGMA_MAX:
        raise _no_signal(name, sigmas, "smaller betas, or fewer timesteps")
    if sigmas[0] < SIGMA_MIN:
        raise UsageError(
            f"schedule {name} starts with sigma = {sigmas[0]:.1e}, less than float32 computes with "
            f"({SIGMA_MIN:g}); use a larger --beta-min"
        )
    return Schedule(name, sigmas)


def _sigmas(beta: Table) -> Table:
    """Noise levels (T,) of betas (T,); infinity where no signal is left.

    sigma^2 = 1 / abar - 1 = exp(-sum ln(1 - beta)) - 1, which is exact at both ends: abar itself
    rounds to 1 at the first.
    """
    with np.errstate(divide="ignore", over="ignore"):
        sigmas: Table = np.sqrt(np.expm1(-np.cumsum(np.log1p(-beta))))
    return sigmas


def _no_signal(name: str, sigmas: Table, remedy: str) -> UsageError:
    size = "infinity" if sigmas[-1] == np.inf else f"{sigmas[-1]:.1e}"
    return UsageError(
        f"schedule {name} with {len(sigmas)} timesteps leaves no signal at its end (zero terminal "
        f"SNR, sigma = {size}; float32 computes up to {SIGMA_MAX:g}); use {remedy}"
    )


def edm(c: DiffusionConfig) -> Schedule:
    """Karras et al. (2022), equation 5, with T levels."""
    low, high = _SIGMA_MIN ** (1 / _RHO), _SIGMA_MAX ** (1 / _RHO)
    return KarrasSchedule(c.schedule, np.linspace(high, low, c.timesteps)[::-1] ** _RHO)


def flow(c: DiffusionConfig) -> Schedule:
    """t = 1 / (T + 1) … T / (T + 1), without t = 1, which is sigma = infinity."""
    t = np.arange(1, c.timesteps + 1) / (c.timesteps + 1)
    return FlowSchedule(c.schedule, t / (1 - t))


def from_config(config: DiffusionConfig) -> Schedule:
    """The schedule a run is trained with. Raises UsageError where its levels are out of range."""
    if config.schedule not in BETAS:
        return {"edm": edm, "flow": flow}[config.schedule](config)
    beta = capped_betas(config)
    sigmas = _sigmas(beta)
    if sigmas[-1] > SIGMA_MAX:
        fits = f"--timesteps {_largest_timesteps(config)} or fewer, or a smaller --beta-max"
        raise _no_signal(config.schedule, sigmas, fits)
    return replace(from_betas(config.schedule, beta), time_scale=config.time_scale)


def capped_betas(config: DiffusionConfig) -> Table:
    """The config's betas (T,), at most beta_cap."""
    return np.minimum(BETAS[config.schedule](config), config.beta_cap)


def _largest_timesteps(config: DiffusionConfig) -> int:
    """The largest number of timesteps below the config's with which signal is left."""

    def is_too_long(timesteps: int) -> bool:
        shorter = replace(config, timesteps=timesteps)
        return bool(_sigmas(capped_betas(shorter))[-1] > SIGMA_MAX)

    return bisect_left(range(1, config.timesteps), True, key=is_too_long)


def clipping_notice(name: str, beta: Sequence[float] | Table, cap: float = 0.999) -> str | None:
    """A sentence where more of a schedule's betas (T,) were cut to `cap` than its formula intends.

    A schedule of abar ends at abar = 0, so its last beta is always cut.
    """
    clipped = int((np.asarray(beta) > cap * (1 - 1e-6)).sum())
    if clipped <= (0 if name in BETA_RANGED else 1):
        return None
    betas = "1 beta is" if clipped == 1 else f"{clipped} betas are"
    of_any_length = name in BETA_RANGED and name != "linear"
    few = f"{len(beta)} timesteps are too few for this schedule"
    return f"{name}: {betas} clipped to {cap:g}: {'lower --beta-max' if of_any_length else few}"
