"""How likely a model finds pictures: the variational bound of a DDPM, in bits per dimension.

Ho et al. (2020), equation 5: a KL divergence at the noisiest level (the prior), one for each step
down from level a to level b, and the decoder's -log p for the last step, from level 0 to a picture.
In x = x0 + sigma n the two Gaussians of a step have means (b/a)^2 x + (1 - (b/a)^2) x0 and the same
with D for x0, so all that counts is the error of D and the ratio of their variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Predict, Prediction, expand_to_image
from ddpm_cli.core.diffusion.schedules import Schedule, step_variances

_LEAST = 1e-12  # no bin is less probable; as in the reference systems, so that results compare


def bound(
    predict: Predict,
    schedule: Schedule,
    x0: Tensor,
    noise: Callable[[], Tensor],
    variance: str,
) -> Iterator[Tensor]:
    """The T terms of the bound for pictures (B, C, H, W), t = 0 first: each (B,) bits/dim.

    x0: multiples of 1/127.5 in [-1, 1]. The first term is the decoder's. `noise` draws standard
    normal noise of that shape, once a term. D is clipped to [-1, 1], as when sampling.
    """
    for sigma in torch.from_numpy(schedule.sigma):
        levels = sigma.expand(len(x0))
        seen = predict(x0 + float(sigma) * noise(), levels)
        fraction = seen.fraction
        if variance != "learned":
            # The last step has no small variance of its own, and takes the next step's either way:
            # the decoder of Ho et al.'s code.
            large = variance == "fixed-large" and sigma > schedule.sigma[0]
            fraction = torch.full_like(x0, float(large))
        yield variational_term(schedule, x0, levels, Prediction(seen.x0.clamp(-1, 1), fraction))


def prior_term(schedule: Schedule, x0: Tensor) -> Tensor:
    """KL of the noisiest level from the prior N(0, 1), for pictures (B, C, H, W): (B,) bits/dim."""
    abar = float(schedule.alpha_bar[-1])
    nats = 0.5 * (abar * x0.double().square() - abar - math.log1p(-abar))
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def variational_term(schedule: Schedule, x0: Tensor, sigma: Tensor, seen: Prediction) -> Tensor:
    """L_t of the step down from levels sigma (B,), for pictures (B, C, H, W): (B,) bits/dim.

    Without a fraction the variance is the small one.
    """
    below = schedule.below(sigma)
    log_small, log_large = log_variances(schedule, sigma, below)
    fraction = torch.zeros_like(x0) if seen.fraction is None else seen.fraction
    gap = expand_to_image(log_large - log_small, x0) * fraction
    kept = torch.where(below > 0, below, sigma)  # any number: the decoder's rows have no KL
    gained = expand_to_image(kept**-2 - sigma**-2, x0)  # signal-to-noise ratio
    divergence = 0.5 * (gap - 1 + (-gap).exp() * (1 + gained * (x0 - seen.x0).square()))
    log_std = 0.5 * (expand_to_image(log_small, x0) + gap)
    nats = torch.where(expand_to_image(below, x0) > 0, divergence, surprise(x0, seen.x0, log_std))
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def log_variances(schedule: Schedule, sigma: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """ln of the small and the large variance of steps sigma -> below, float64 (B,).

    The posterior's and beta (Ho et al. 2020, section 3.2); with the factor 1 / abar of the level
    below, which x = x0 + sigma n brings.
    """
    small, large = step_variances(sigma, below)
    return torch.where(below > 0, small, _second_small(schedule)).log(), large.log()


def _second_small(schedule: Schedule) -> float:
    """The small variance of the second step, in DDPM's scale; the first step's own would be 0."""
    if len(schedule) == 1:
        return float(schedule.beta[0])
    first, second = float(schedule.sigma[0]), float(schedule.sigma[1])
    return step_variances(second, first)[0] / (1 + first**2)


def surprise(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-ln of the probability of each pixel's grey level, of 256 (Ho et al. 2020, equation 13).

    The levels at both ends reach to infinity. The normal distribution function is approximated with
    a tanh, as in the reference systems.
    """
    inverse, half = (-log_std).exp(), 1 / 255
    upper = _normal_cdf((x0 - mean + half) * inverse)
    lower = _normal_cdf((x0 - mean - half) * inverse)
    one, zero = torch.ones_like(upper), torch.zeros_like(lower)
    upper = torch.where(x0 > 0.999, one, upper)
    lower = torch.where(x0 < -0.999, zero, lower)
    return -(upper - lower).clamp(min=_LEAST).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Page (1977): within 3e-4 of the normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
