"""Gaussian images, of which the denoised mean and the end of the probability flow are known.

Images are N(m, s^2) in every pixel, so the denoised mean is D = m + s^2 / (s^2 + sigma^2) (x - m),
and the probability flow ODE leads from x at sigma to f = m + s / sqrt(s^2 + sigma^2) (x - m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, Scalings

MEAN, STD = 0.25, 0.3
EDM = schedules.from_config(DiffusionConfig(schedule="edm", parameterisation="edm"))


class Exact(Denoiser):
    """An exact function of Gaussian images in place of a network: F is the function's value."""

    def __init__(self, power: float, schedule: schedules.Schedule = EDM) -> None:
        """power: 1 is the denoised mean D, 1/2 the consistency function f."""
        super().__init__(self._value, schedule, "x0")
        self._power, self.calls = power, 0

    def scalings(self, sigma: Tensor) -> Scalings:
        """The identity: the value is a function of x itself."""
        one = torch.ones_like(sigma)
        return Scalings(0 * one, one, one)

    def _value(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        sigma = (4 * c_noise.double()).exp()  # c_noise is ln(sigma) / 4
        shrink = (STD**2 / (STD**2 + sigma**2)) ** self._power
        return MEAN + shrink.to(x.dtype)[:, None, None, None] * (x - MEAN)
