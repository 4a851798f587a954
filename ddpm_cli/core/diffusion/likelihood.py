"""The variational bound on the negative log-likelihood of a DDPM, in bits per dimension.

Ho et al. (2020), equation 5: a KL divergence at the largest noise level (the prior), one for each
step from a level a to the next lower level b, and the decoder's -log p for the last step, from the
lowest level to an image. In x = x0 + sigma n the two Gaussians of a step have the means
(b/a)^2 x + (1 - (b/a)^2) x0 and the same with D for x0, so the divergence depends only on the error
of D and the ratio of the variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Predict, Prediction, expand_to_image
from ddpm_cli.core.diffusion.schedules import Schedule, step_variances

_MIN_PROBABILITY = 1e-12  # of a grey level, as in the reference code, so that results compare


def bound(
    predict: Predict,
    schedule: Schedule,
    x0: Tensor,
    noise: Callable[[], Tensor],
    variance: str,
) -> Iterator[Tensor]:
    """The T terms of the bound for images (B, C, H, W), t = 0 first: each (B,) bits/dim.

    x0: multiples of 1/127.5 in [-1, 1]. The first term is the decoder's. `noise` draws standard
    normal noise of that shape, once per term. D is clipped to [-1, 1], as in sampling.
    """
    for sigma in schedule.sigma.tolist():
        prediction = predict(x0 + sigma * noise(), sigma)
        fraction = prediction.variance_fraction
        if variance != "learned":
            # The small variance of the last step is 0, and is replaced by that of the step before
            # it under either fixed variance, as in the decoder of Ho et al.'s code.
            large = variance == "fixed-large" and sigma > schedule.sigma[0]
            fraction = torch.full_like(x0, float(large))
        clipped = Prediction(prediction.x0.clamp(-1, 1), fraction)
        levels = torch.full((len(x0),), sigma, dtype=torch.float64)
        yield variational_term(schedule, x0, levels, clipped)


def prior_term(schedule: Schedule, x0: Tensor) -> Tensor:
    """KL of the largest noise level from N(0, 1), for images (B, C, H, W): (B,) bits/dim."""
    abar = float(schedule.alpha_bar[-1])
    nats = 0.5 * (abar * x0.double().square() - abar - math.log1p(-abar))
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def variational_term(
    schedule: Schedule, x0: Tensor, sigma: Tensor, prediction: Prediction
) -> Tensor:
    """L_t of the step down from levels sigma (B,), for images (B, C, H, W): (B,) bits/dim.

    Without a variance fraction the variance is the small one.
    """
    return term(x0, step_scalars(schedule, sigma), prediction)


class StepScalars(NamedTuple):
    """What a term of the bound needs of the steps down from noise levels (B,), each (B,)."""

    log_small: Tensor  # of the variances
    log_ratio: Tensor  # of the large to the small one
    snr_gain: Tensor
    below: Tensor  # the lower noise levels; 0: the term is the decoder's


def step_scalars(schedule: Schedule, sigma: Tensor) -> StepScalars:
    """The scalars of steps down from levels sigma (B,), float64 on the CPU."""
    below = schedule.below(sigma)
    log_small, log_large = log_variances(schedule, sigma, below)
    # Where below is 0 (the decoder's rows) any other number: their KL is not used.
    nonzero = torch.where(below > 0, below, sigma)
    return StepScalars(log_small, log_large - log_small, nonzero**-2 - sigma**-2, below)


def term(x0: Tensor, step: StepScalars, prediction: Prediction) -> Tensor:
    """L_t of steps with these scalars, for images (B, C, H, W): (B,) bits/dim."""
    log_small, log_ratio, snr_gain, below = (expand_to_image(scalar, x0) for scalar in step)
    fraction = prediction.variance_fraction
    if fraction is None:
        fraction = torch.zeros_like(x0)
    log_ratio = log_ratio * fraction  # of the model's variance to the posterior's
    error = (x0 - prediction.x0).square()
    kl = 0.5 * (log_ratio - 1 + (-log_ratio).exp() * (1 + snr_gain * error))
    decoder = discretised_gaussian_nll(x0, prediction.x0, 0.5 * (log_small + log_ratio))
    nats = torch.where(below > 0, kl, decoder)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def log_variances(schedule: Schedule, sigma: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """ln of the small and the large variance of steps sigma -> below, float64 (B,).

    The posterior's and beta (Ho et al. 2020, section 3.2), both times 1 / abar of the lower level,
    since x = x0 + sigma n.
    """
    small, large = step_variances(sigma, below)
    return torch.where(below > 0, small, _second_small(schedule)).log(), large.log()


def _second_small(schedule: Schedule) -> float:
    """The small variance of the second step, in DDPM's scale; that of the first step is 0."""
    if len(schedule) == 1:
        return float(schedule.beta[0])
    first, second = float(schedule.sigma[0]), float(schedule.sigma[1])
    return step_variances(second, first)[0] / (1 + first**2)


def discretised_gaussian_nll(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-ln p of each pixel's grey level, one of 256 (Ho et al. 2020, equation 13).

    The bins of the lowest and highest level extend to infinity. The normal distribution function is
    approximated with tanh, as in the reference code.
    """
    inverse, half = (-log_std).exp(), 1 / 255
    upper = _normal_cdf((x0 - mean + half) * inverse)
    lower = _normal_cdf((x0 - mean - half) * inverse)
    one, zero = torch.ones_like(upper), torch.zeros_like(lower)
    upper = torch.where(x0 > 0.999, one, upper)
    lower = torch.where(x0 < -0.999, zero, lower)
    return -(upper - lower).clamp(min=_MIN_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Page (1977): within 3e-4 of the normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
