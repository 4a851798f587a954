"""The sampler without a network: on Gaussian data the exact denoiser and answer are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config import DiffusionConfig
from ddpm_cli.core.diffusion import grids, samplers, schedules

STD = 0.5  # of the data, whose mean is 0
LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
COSINE = schedules.from_config(DiffusionConfig("cosine", 1000))


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(0, STD^2)."""
    return x * (STD**2 / (STD**2 + sigma**2))[:, None, None, None]


def final(steps) -> Tensor:  # type: ignore[no-untyped-def]
    return list(steps)[-1].x


def karras(n: int) -> Tensor:
    """Karras et al. (2022), equation 5, with its defaults; and 0."""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def error(n: int) -> float:
    x = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    exact = 80 * STD / math.sqrt(STD**2 + 80**2)
    out = final(samplers.ddim(gaussian, x, karras(n), eta=0, noise=lambda: x))
    return abs(out.item() / exact - 1)


def test_eta_0_is_eulers_method() -> None:
    # Relative errors of Euler's method on this flow, computed independently.
    expected = {18: 0.15392060267993127, 36: 0.07798956040015458, 72: 0.039242256727217935}
    for n, value in expected.items():
        assert error(n) == pytest.approx(value, rel=1e-9)
    assert math.log2(error(128) / error(256)) == pytest.approx(1, abs=0.02)  # order 1


@pytest.mark.parametrize(("n", "std"), [(16, 0.356), (64, 0.456), (256, 0.488)])
def test_eta_1_loses_variance_with_few_steps_only(n: int, std: float) -> None:
    """The exact standard deviation after ancestral steps, by propagating the variance."""
    levels = karras(n)
    variance = 80.0**2 + STD**2
    for sigma, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        gain, up = linear_step(sigma, after, eta=1)
        variance = gain**2 * variance + up**2
    assert math.sqrt(variance) == pytest.approx(std, abs=5e-4)


def linear_step(sigma: float, after: float, eta: float) -> tuple[float, float]:
    """On this data a step is x -> gain x + up n; read both off the sampler."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    levels = torch.tensor([sigma, after], dtype=torch.float64)
    without = final(samplers.ddim(gaussian, one, levels, eta=eta, noise=lambda: 0 * one)).item()
    with_noise = final(samplers.ddim(gaussian, one, levels, eta=eta, noise=lambda: one)).item()
    return without, with_noise - without


def vp_step(x: Tensor, x0: Tensor, abar: float, before: float, eta: float, noise: Tensor) -> Tensor:
    """Song et al. (2021), equation 12, as printed: x_t to x_{t-1}, in variance-preserving form."""
    eps = (x - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
    sigma = eta * math.sqrt((1 - before) / (1 - abar)) * math.sqrt(1 - abar / before)
    return math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps + sigma * noise


@pytest.mark.parametrize("eta", [0, 0.3, 1])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda s: s.name)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_equals_the_published_formula(
    schedule: schedules.Schedule, steps: int, eta: float, noise: Callable[..., Tensor]
) -> None:
    visited = grids.timesteps(1000, steps, "linspace")
    abar = [*schedule.alpha_bar[visited], 1.0]
    draws = [noise(2, 1, 3, 3) for _ in range(steps)]
    start = noise(2, 1, 3, 3)

    x_vp = start
    for i in range(steps):
        scale = math.sqrt(abar[i])
        sigma = torch.full((2,), math.sqrt(1 / abar[i] - 1), dtype=torch.float64)
        x0 = gaussian(x_vp / scale, sigma).clamp(-1, 1)
        x_vp = vp_step(x_vp, x0, abar[i], abar[i + 1], eta, draws[i])

    # The noise is not drawn in the last step, where it would be multiplied by 0.
    queue = iter(draws)
    out = final(
        samplers.ddim(
            lambda x, s: gaussian(x, s).clamp(-1, 1),
            start / math.sqrt(abar[0]),
            grids.sigmas(schedule, steps, "linspace"),
            eta=eta,
            noise=lambda: next(queue),
        )
    )
    torch.testing.assert_close(out, x_vp, rtol=1e-9, atol=1e-9)


def test_eta_1_over_all_timesteps_is_ddpm_with_the_posterior_variance() -> None:
    """Ho et al. (2020), equations 6 and 7: mean and variance of q(x_{t-1} | x_t, x0)."""
    abar, beta = LINEAR.alpha_bar, LINEAR.beta
    x0, x_t, one = 0.3, -0.7, torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def step(t: int, noise: Tensor) -> Tensor:
        state, levels = one * x_t / math.sqrt(abar[t]), torch.from_numpy(LINEAR.sigma[[t, t - 1]])
        steps = samplers.ddim(lambda x, s: x0 * one, state, levels, eta=1, noise=lambda: noise)
        return final(steps) * math.sqrt(abar[t - 1])

    for t in (1, 10, 500, 999):
        before = abar[t - 1]
        of_x0, of_x_t = math.sqrt(before) * beta[t], math.sqrt(1 - beta[t]) * (1 - before)
        mean = (of_x0 * x0 + of_x_t * x_t) / (1 - abar[t])
        std = math.sqrt(beta[t] * (1 - before) / (1 - abar[t]))
        assert step(t, 0 * one).item() == pytest.approx(mean, rel=1e-9)
        assert (step(t, one) - step(t, 0 * one)).item() == pytest.approx(std, rel=1e-9)


def test_the_steps_tell_where_they_are(noise: Callable[..., Tensor]) -> None:
    sigmas = grids.sigmas(LINEAR, 5)
    steps = list(samplers.ddim(gaussian, noise(2, 1, 3, 3), sigmas, eta=0, noise=lambda: noise(1)))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert np.allclose([s.sigma for s in steps], sigmas[:-1])
    assert steps[-1].sigma_next == 0
    assert all(torch.isfinite(step.x).all() for step in steps)
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)  # at sigma 0 the state is the picture
