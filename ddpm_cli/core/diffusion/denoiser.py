"""The interface between networks and samplers: D(x, sigma) -> x0 (Karras et al. 2022, section 5).

A parameterisation says what the network's output F means, as four scalars of sigma:
D(x, sigma) = c_skip x + c_out F(c_in x, c_noise, condition).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.diffusion.schedules import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""x (B, C, H, W) and sigma (B,) -> the denoised x0 (B, C, H, W). Sigmas are float64, on the CPU."""

Predict = Callable[[Tensor, Tensor], "Prediction"]
"""The same, with the variance where the network has learned one."""

NetworkFn = Callable[[Tensor, Tensor, Condition], Tensor]
"""F: scaled x (B, C, H, W), c_noise (B,), condition -> (B, C or 2 C, H, W)."""


SIGMA_DATA = 0.5  # deviation of pictures in [-1, 1] that EDM assumes


class Scalings(NamedTuple):
    """The scalars of one parameterisation at noise levels sigma, each float64 (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def _eps(s: Tensor) -> Scalings:
    """F is the noise n (Ho et al. 2020, equation 14)."""
    return Scalings(torch.ones_like(s), -s, (1 + s**2).rsqrt())


def _x0(s: Tensor) -> Scalings:
    """F is the picture x0."""
    return Scalings(torch.zeros_like(s), torch.ones_like(s), (1 + s**2).rsqrt())


def _v(s: Tensor) -> Scalings:
    """F is v = sqrt(abar) n - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
    return Scalings(1 / (1 + s**2), -s * (1 + s**2).rsqrt(), (1 + s**2).rsqrt())


def _edm(s: Tensor) -> Scalings:
    """F and its input have variance one for data of deviation 0.5 (Karras et al. 2022, table 1)."""
    total = s**2 + SIGMA_DATA**2
    return Scalings(SIGMA_DATA**2 / total, s * SIGMA_DATA * total.rsqrt(), total.rsqrt())


def _flow(s: Tensor) -> Scalings:
    """F is the velocity n - x0 of x_t = (1 - t) x0 + t n = x / (1 + sigma) (Liu et al. 2023)."""
    return Scalings(1 / (1 + s), -s / (1 + s), 1 / (1 + s))


PARAMETERISATIONS: dict[str, Callable[[Tensor], Scalings]] = {
    "eps": _eps,
    "x0": _x0,
    "v": _v,
    "edm": _edm,
    "flow": _flow,
}


class Prediction(NamedTuple):
    """What a network sees in a noisy state."""

    x0: Tensor  # the denoised picture, (B, C, H, W)
    # Where log variance stands between smallest and largest, (B, C, H, W) in about [0, 1] (Nichol &
    # Dhariwal 2021, equation 15); None where the network has no such output.
    fraction: Tensor | None = None


class Denoiser:
    """A network seen as D(x, sigma, condition), by its parameterisation and its schedule."""

    def __init__(self, network: NetworkFn, schedule: Schedule, parameterisation: str) -> None:
        self.network = network
        self.schedule = schedule
        self._scalings = PARAMETERISATIONS[parameterisation]

    def scalings(self, sigma: Tensor) -> Scalings:
        """The scalars but c_noise, at noise levels (B,)."""
        return self._scalings(sigma)

    def output(
        self, x: Tensor, sigma: Tensor, condition: Condition = UNCONDITIONAL
    ) -> tuple[Tensor, Tensor | None]:
        """F (B, C, H, W) at noise levels sigma (B,), and the fraction of a learned variance.

        The fraction is (v + 1) / 2 of the last C of 2 C channels (Nichol & Dhariwal 2021, equation
        15, as in their code); without those it is None.
        """
        c_in = expand_to_image(self.scalings(sigma).c_in, x)
        c_noise = self.schedule.c_noise(sigma).to(x.device)
        output = self.network((c_in * x).float(), c_noise, condition)
        if output.shape[1] == x.shape[1]:
            return output, None
        output, variance = output.chunk(2, dim=1)
        return output, (variance.to(x.dtype) + 1) / 2

    def to_x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised x0 that F means, in the precision of x."""
        c_skip, c_out, _ = self.scalings(sigma)
        return expand_to_image(c_skip, x) * x + expand_to_image(c_out, x) * output.to(x.dtype)

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What F should be for the picture x0 and the noise that hides it.

        (x0 - c_skip x) / c_out with x = x0 + sigma n, as a sum of x0 and n: only scalars are
        subtracted and divided, so nothing cancels where sigma is small or large.
        """
        c_skip, c_out, _ = self.scalings(sigma)
        of_x0, of_noise = (1 - c_skip) / c_out, -c_skip * sigma / c_out
        return expand_to_image(of_x0, x0) * x0 + expand_to_image(of_noise, noise) * noise

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition = UNCONDITIONAL) -> Prediction:
        """The denoised x0 and, where the network learned it, the variance's fraction."""
        output, fraction = self.output(x, sigma, condition)
        return Prediction(self.to_x0(output, x, sigma), fraction)

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """The denoised x0, in the precision of x."""
        return self.predict(x, sigma, condition).x0


def expand_to_image(scalar: Tensor, like: Tensor) -> Tensor:
    """(B,) float64 -> (B, 1, 1, 1) in the precision of `like`."""
    return scalar.to(like.device, like.dtype)[:, None, None, None]
