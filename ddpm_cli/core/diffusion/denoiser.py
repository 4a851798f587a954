"""The denoiser D(x, sigma) -> x0, the interface between networks and samplers.

A parameterisation defines the meaning of the network's output F by scalars of the noise level
(Karras et al. 2022, section 5): D(x, sigma) = c_skip x + c_out F(c_in x, c_noise, condition).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.diffusion.schedules import Schedule

NoiseLevels = Tensor | float
"""A noise level for the whole batch, or one for each image: a number, or a tensor () or (B,)."""

Denoise = Callable[[Tensor, float], Tensor]
"""x (B, C, H, W) and its noise level sigma -> the denoised x0 (B, C, H, W)."""

Predict = Callable[[Tensor, NoiseLevels], "Prediction"]
"""The same, with the learned variance where there is one; of one noise level, or one per image."""

NetworkFn = Callable[[Tensor, Tensor, Condition], Tensor]
"""F: c_in x float32 (B, C, H, W), c_noise float32 (B,), condition -> (B, C or 2 C, H, W).

Any nn.Module or other callable of this signature; c_noise is on the device of x.
"""

SIGMA_DATA = 0.5  # standard deviation of images in [-1, 1] that EDM assumes
SKIP_BELOW = 0.01  # the noise level at which half of D is x, with x0-skip


class Scalings(NamedTuple):
    """The scalars of a parameterisation at noise levels sigma () or (B,), float64 of that shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def _eps(s: Tensor) -> Scalings:
    """F is the noise n (Ho et al. 2020, equation 14)."""
    return Scalings(torch.ones_like(s), -s, (1 + s**2).rsqrt())


def _x0(s: Tensor) -> Scalings:
    """F is the image x0."""
    return Scalings(torch.zeros_like(s), torch.ones_like(s), (1 + s**2).rsqrt())


def _v(s: Tensor) -> Scalings:
    """F is v = sqrt(abar) n - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
    return Scalings(1 / (1 + s**2), -s * (1 + s**2).rsqrt(), (1 + s**2).rsqrt())


def _edm(s: Tensor) -> Scalings:
    """F and its input have unit variance for sigma_data = 0.5 (Karras et al. 2022, table 1)."""
    total = s**2 + SIGMA_DATA**2
    return Scalings(SIGMA_DATA**2 / total, s * SIGMA_DATA * total.rsqrt(), total.rsqrt())


def _flow(s: Tensor) -> Scalings:
    """F is the velocity n - x0 of x_t = (1 - t) x0 + t n = x / (1 + sigma) (Liu et al. 2023)."""
    return Scalings(1 / (1 + s), -s / (1 + s), 1 / (1 + s))


def _x0_skip(s: Tensor) -> Scalings:
    """F is x0, but D(x, 0) = x, as a consistency function needs (Song et al. 2023, equation 5).

    c_skip is Karras et al.'s (2022) for a deviation of the data of 0.01: with the same F, D differs
    from that of x0 by c_skip sigma n, where F is the image: by a root mean square of 0.005 at most,
    which is less than a grey level of 256.
    """
    c_skip = SKIP_BELOW**2 / (s**2 + SKIP_BELOW**2)
    return Scalings(c_skip, s**2 / (s**2 + SKIP_BELOW**2), (1 + s**2).rsqrt())


PARAMETERISATIONS: dict[str, Callable[[Tensor], Scalings]] = {
    "eps": _eps,
    "x0": _x0,
    "v": _v,
    "edm": _edm,
    "flow": _flow,
    "x0-skip": _x0_skip,
}


class Prediction(NamedTuple):
    """What a model predicts from a noisy image."""

    x0: Tensor  # the denoised image, (B, C, H, W)
    # Interpolates log variance between its smallest (0) and largest (1) value, (B, C, H, W) (Nichol
    # & Dhariwal 2021, equation 15); None without a learned variance.
    variance_fraction: Tensor | None = None
    unclipped: Tensor | None = None  # x0 before it was thresholded, where it was


class Denoiser:
    """A network as D(x, sigma, condition), by its parameterisation and noise schedule.

    Noise levels sigma are numbers, or tensors () or (B,) of any dtype and device; c_noise and the
    scalars are computed from them in float64 on the CPU. Those of one level for the whole batch
    reach the device as arguments of its kernels, without a copy that waits. Gradients flow to x and
    to the network's parameters, but not to sigma. Raises ValueError for noise levels of another
    shape, and for outputs of another number of channels.
    """

    def __init__(self, network: NetworkFn, schedule: Schedule, parameterisation: str) -> None:
        self.network = network
        self.schedule = schedule
        self._scalings = PARAMETERISATIONS[parameterisation]

    def scalings(self, sigma: Tensor) -> Scalings:
        """The scalars but c_noise, at noise levels float64 () or (B,)."""
        return self._scalings(sigma)

    def output(
        self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
    ) -> tuple[Tensor, Tensor | None]:
        """F (B, C, H, W) for noisy images x (B, C, H, W), and the learned variance's fraction.

        The fraction is (v + 1) / 2 of the last C of 2 C output channels (Nichol & Dhariwal 2021,
        equation 15, as in their code), or None where the output has C channels.
        """
        sigma = noise_levels(sigma, x)
        c_in = expand_to_image(self.scalings(sigma).c_in, x)
        return self.evaluate(c_in * x, self._c_noise(sigma, x), condition)

    def evaluate(
        self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL
    ) -> tuple[Tensor, Tensor | None]:
        """F and the variance's fraction for scaled images c_in x (B, C, H, W) and c_noise (B,)."""
        output = self.network(x.float(), c_noise, condition)
        channels = x.shape[1]
        if output.shape[1] == channels:
            return output, None
        if output.shape[1] != 2 * channels:
            raise ValueError(
                f"the network returned {output.shape[1]} channels for images of {channels}: it "
                f"should return {channels}, or {2 * channels} with a learned variance"
            )
        output, variance = output.chunk(2, dim=1)
        return output, (variance.to(x.dtype) + 1) / 2

    def _c_noise(self, sigma: Tensor, x: Tensor) -> Tensor:
        """The network's noise level input for images x (B, …): (B,), on their device."""
        if sigma.ndim == 0:
            value = float(self.schedule.c_noise(sigma[None]))
            return torch.full((len(x),), value, device=x.device)
        return self.schedule.c_noise(sigma).to(x.device, non_blocking=x.is_cuda)

    def to_x0(self, output: Tensor, x: Tensor, sigma: NoiseLevels) -> Tensor:
        """The denoised x0 of an output F, in the precision of x."""
        c_skip, c_out, _ = self.scalings(noise_levels(sigma, x))
        return expand_to_image(c_skip, x) * x + expand_to_image(c_out, x) * output.to(x.dtype)

    def target(self, x0: Tensor, noise: Tensor, sigma: NoiseLevels) -> Tensor:
        """The regression target of F for images x0 and noise n, both (B, C, H, W)."""
        of_x0, of_noise = self.target_scalars(noise_levels(sigma, x0))
        return expand_to_image(of_x0, x0) * x0 + expand_to_image(of_noise, noise) * noise

    def target_scalars(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of x0 and of the noise n in the target of F, at sigma () or (B,), float64.

        The target is (x0 - c_skip x) / c_out with x = x0 + sigma n (Karras et al. 2022, equation
        8), written as a linear combination of x0 and n: subtraction and division act on float64
        scalars alone, which avoids cancellation at small and large sigma.
        """
        c_skip, c_out, _ = self.scalings(sigma)
        return (1 - c_skip) / c_out, -c_skip * sigma / c_out

    def predict(
        self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
    ) -> Prediction:
        """The denoised x0 and, where the network learned it, the variance's fraction."""
        output, fraction = self.output(x, sigma, condition)
        return Prediction(self.to_x0(output, x, sigma), fraction)

    def __call__(
        self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
    ) -> Tensor:
        """The denoised x0 of noisy images x (B, C, H, W), in the precision of x."""
        return self.predict(x, sigma, condition).x0


def noise_levels(sigma: NoiseLevels, x: Tensor) -> Tensor:
    """Noise levels for the images x (B, …): float64 () or (B,), on the CPU, without gradient."""
    if not isinstance(sigma, Tensor):
        sigma = torch.tensor(sigma, dtype=torch.float64)
    sigma = sigma.detach().cpu().double()
    if sigma.shape not in ((), (len(x),)):
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)} for {len(x)} images: give one noise level, or "
            "one per image"
        )
    return sigma


def expand_to_image(scalar: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1) on the device and in the precision of `like`; () stays on the CPU."""
    if scalar.ndim == 0:
        return scalar.to(like.dtype)
    return scalar.to(like.device, like.dtype, non_blocking=like.is_cuda)[:, None, None, None]
