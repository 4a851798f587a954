"""The denoiser: every parameterisation is the same D, and F's target is what D inverts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config import DiffusionConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from ddpm_cli.core.diffusion.losses import simple_loss
from ddpm_cli.core.diffusion.noising import Noised, uniform_sigmas

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
SIGMA = torch.from_numpy(LINEAR.sigma[[0, 10, 300, 700, 999]])


def published_target(name: str, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What the papers regress, in their own (alpha, sigma_vp) notation."""
    alpha = (1 / (1 + sigma**2)).sqrt()[:, None, None, None]
    sigma_vp = (1 - alpha**2).sqrt()
    return {"eps": noise, "x0": x0, "v": alpha * noise - sigma_vp * x0}[name]


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_targets_are_the_published_ones(name: str, noise: Callable[..., Tensor]) -> None:
    x0, n = noise(5, 3, 4, 4), noise(5, 3, 4, 4)
    denoiser = Denoiser(lambda x, c, k: x, LINEAR, name)
    torch.testing.assert_close(
        denoiser.target(x0, n, SIGMA), published_target(name, x0, n, SIGMA), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_a_network_that_outputs_the_target_denoises_perfectly(
    name: str, noise: Callable[..., Tensor]
) -> None:
    x0, n = noise(5, 3, 4, 4), noise(5, 3, 4, 4)
    target = published_target(name, x0, n, SIGMA)
    denoiser = Denoiser(lambda x, c, k: target, LINEAR, name)
    noised = Noised(x0, n, SIGMA)
    # x0 = x - sigma n cancels: at sigma 157 two of float64's sixteen digits go.
    torch.testing.assert_close(denoiser(noised.x, SIGMA), x0, rtol=0, atol=1e-12 * 157)
    assert simple_loss(denoiser, noised, None).max() < 1e-12


def test_the_network_sees_ddpms_state_and_timestep(noise: Callable[..., Tensor]) -> None:
    seen = {}

    def network(x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        seen.update(x=x, c_noise=c_noise)
        return x

    x0, n = noise(5, 3, 4, 4), noise(5, 3, 4, 4)
    Denoiser(network, LINEAR, "eps")(x0 + SIGMA[:, None, None, None] * n, SIGMA)
    abar = torch.from_numpy(LINEAR.alpha_bar[[0, 10, 300, 700, 999]])[:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * n  # Ho et al. (2020), equation 4
    torch.testing.assert_close(seen["x"], x_t.float(), rtol=1e-6, atol=1e-6)
    assert seen["c_noise"].tolist() == [0, 10, 300, 700, 999]


def test_training_noise_levels_are_uniform_over_timesteps() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([uniform_sigmas(LINEAR, 50, generator) for _ in range(400)])
    t = np.searchsorted(LINEAR.sigma, drawn.numpy())
    counts = np.histogram(t, bins=20, range=(0, 1000))[0]
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()  # five standard deviations of a Poisson count
    first = torch.stack([uniform_sigmas(LINEAR, 50, generator) for _ in range(400)])[:, 0]
    spread = np.searchsorted(LINEAR.sigma, first.numpy())
    assert 400 < spread.mean() < 600  # any single draw covers all timesteps too
    assert spread.std() > 230  # a uniform's is 289
