"""The denoiser: parameterisations, targets, and D as a library interface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig, ObjectiveConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from ddpm_cli.core.diffusion.losses import training_loss
from ddpm_cli.core.diffusion.noising import Noised, stratified_uniform, training_sigmas

OBJECTIVE = ObjectiveConfig()
LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
SIGMA = torch.from_numpy(LINEAR.sigma[[0, 10, 300, 700, 999]])


def published_target(name: str, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The papers' regression targets, in their (alpha, sigma_vp) notation."""
    alpha = (1 / (1 + sigma**2)).sqrt()[:, None, None, None]
    sigma_vp = (1 - alpha**2).sqrt()
    return {
        "eps": noise,
        "x0": x0,
        "v": alpha * noise - sigma_vp * x0,
        "flow": noise - x0,
        "x0-skip": x0 - noise * 0.01**2 / sigma[:, None, None, None],  # of D(x, 0) = x
        "edm": edm_target(x0, noise, sigma[:, None, None, None]),
    }[name]


def edm_target(x0: Tensor, noise: Tensor, s: Tensor) -> Tensor:
    """(y - c_skip (y + n)) / c_out (Karras et al. 2022, equation 8) with n of deviation s."""
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    return (x0 - c_skip * (x0 + s * noise)) / c_out


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
    # x0 = x - sigma n cancels: at sigma 157 two of the sixteen digits of float64 are lost.
    torch.testing.assert_close(denoiser(noised.x, SIGMA), x0, rtol=0, atol=1e-12 * 157)
    assert training_loss(denoiser, noised, UNCONDITIONAL, OBJECTIVE).max() < 1e-12


@given(st.floats(-6, 7), st.floats(-2, 2), st.floats(-3, 3))
def test_all_parameterisations_of_one_denoiser_are_that_denoiser(
    log_sigma: float, signal: float, n: float
) -> None:
    """D = x d^2 / (d^2 + sigma^2), exact for N(0, d^2), as each paper's output."""
    sigma = torch.tensor([log_sigma], dtype=torch.float64).exp()
    s, x0 = sigma[:, None, None, None], torch.full((1, 1, 1, 1), signal, dtype=torch.float64)
    x = x0 + s * n
    denoised = x * 0.09 / (0.09 + s**2)
    noise = (x - denoised) / s
    for name in PARAMETERISATIONS:
        output = published_target(name, denoised, noise, sigma)
        made = Denoiser(lambda x, c, k, output=output: output, LINEAR, name)(x, sigma)
        # The rounding error of D is 1e-16 of the state, which is at most 3,300.
        torch.testing.assert_close(made, denoised, rtol=1e-6, atol=1e-10, msg=name)


def test_edms_scalars() -> None:
    """Karras et al. (2022), table 1, at sigma 0.5 and 80: c_skip, c_out, c_in."""
    made = PARAMETERISATIONS["edm"](torch.tensor([0.5, 80.0], dtype=torch.float64))
    expected = [
        [0.5, 3.906097418069607e-05],
        [0.35355339059327373, 0.49999023466109294],
        [1.414213562373095, 0.012499755866527323],
    ]
    torch.testing.assert_close(torch.stack(made), torch.tensor(expected, dtype=torch.float64))


def test_a_learned_variance_is_the_last_half_of_the_channels(noise: Callable[..., Tensor]) -> None:
    x, output = noise(5, 3, 4, 4), noise(5, 6, 4, 4)
    prediction = Denoiser(lambda x, c, k: output, LINEAR, "x0").predict(x, SIGMA)
    assert torch.equal(prediction.x0, output[:, :3])
    assert prediction.variance_fraction is not None
    torch.testing.assert_close(prediction.variance_fraction, (output[:, 3:] + 1) / 2)
    fixed = Denoiser(lambda x, c, k: output[:, :3], LINEAR, "x0").predict(x, SIGMA)
    assert fixed.variance_fraction is None


def test_the_network_input_is_ddpms_state_and_timestep(noise: Callable[..., Tensor]) -> None:
    inputs = {}

    def network(x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        inputs.update(x=x, c_noise=c_noise)
        return x

    x0, n = noise(5, 3, 4, 4), noise(5, 3, 4, 4)
    Denoiser(network, LINEAR, "eps")(x0 + SIGMA[:, None, None, None] * n, SIGMA)
    abar = torch.from_numpy(LINEAR.alpha_bar[[0, 10, 300, 700, 999]])[:, None, None, None]
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * n  # Ho et al. (2020), equation 4
    torch.testing.assert_close(inputs["x"], x_t.float(), rtol=1e-6, atol=1e-6)
    assert inputs["c_noise"].tolist() == [0, 10, 300, 700, 999]


@pytest.mark.parametrize("schedule", ["linear", "edm", "flow"])
@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_a_noise_level_is_a_number_or_a_tensor_of_any_dtype(schedule: str, name: str) -> None:
    denoiser = Denoiser(
        lambda x, c, k: torch.sin(x + c[:, None, None, None]),
        schedules.from_config(DiffusionConfig(schedule)),
        name,
    )
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = denoiser(x, torch.full((3,), 2.0, dtype=torch.float64))
    for sigma in (
        2,
        2.0,
        np.float64(2),
        torch.tensor(2),
        torch.tensor(2.0),
        torch.full((3,), 2),
        torch.full((3,), 2.0, dtype=torch.float16),
        torch.full((3,), 2.0, requires_grad=True),
    ):
        assert torch.equal(denoiser(x, sigma), expected), sigma
        assert torch.equal(denoiser.predict(x, sigma).x0, expected), sigma
    exact = denoiser(x, torch.full((3,), 0.1, dtype=torch.float64))
    assert torch.equal(denoiser(x, 0.1), exact)  # not rounded to float32
    x0, n = x, x.flip(0)
    each = denoiser.target(x0, n, torch.full((3,), 2.0, dtype=torch.float64))
    assert torch.equal(denoiser.target(x0, n, 2.0), each)


def test_each_image_has_its_noise_level() -> None:
    denoiser = Denoiser(lambda x, c, k: torch.sin(x), LINEAR, "eps")
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = [denoiser(x[i : i + 1], sigma) for i, sigma in enumerate((0.5, 2.0, 30.0))]
    torch.testing.assert_close(denoiser(x, torch.tensor([0.5, 2.0, 30.0])), torch.cat(alone))


@pytest.mark.parametrize("shape", [(1,), (2,), (4,), (3, 1), (3, 1, 1, 1)])
def test_noise_levels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    denoiser = Denoiser(lambda x, c, k: x, LINEAR, "eps")
    x = torch.zeros(3, 2, 4, 4)
    for call in (denoiser, denoiser.output, lambda x, s: denoiser.target(x, x, s)):
        with pytest.raises(ValueError, match=r"shape \(.*\) for 3 images: give one"):
            call(x, torch.ones(shape))


def test_outputs_of_another_number_of_channels_are_refused() -> None:
    denoiser = Denoiser(lambda x, c, k: x[:, :2], LINEAR, "eps")
    with pytest.raises(ValueError, match="2 channels for images of 3: it should return 3, or 6"):
        denoiser(torch.zeros(1, 3, 4, 4), 1.0)


class LinearNetwork(nn.Module):
    """F = gain c_in x."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        return self.gain * x


@pytest.mark.parametrize("name", PARAMETERISATIONS)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 40.0])
def test_gradients_flow_to_the_image_and_the_network(name: str, sigma: float) -> None:
    """D = (c_skip + gain c_out c_in) x: its derivatives in x and in the gain."""
    network = LinearNetwork()
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    level = torch.tensor(sigma, requires_grad=True)
    denoiser = Denoiser(network, LINEAR, name)
    denoiser(x, level).sum().backward()
    c_skip, c_out, c_in = (
        scalar.item() for scalar in denoiser.scalings(torch.tensor([sigma], dtype=torch.float64))
    )
    torch.testing.assert_close(x.grad, torch.full_like(x, c_skip + 0.7 * c_out * c_in))
    assert network.gain.grad is not None
    torch.testing.assert_close(network.gain.grad, c_out * c_in * x.detach().sum())
    assert level.grad is None


def uniform(count: int, generator: torch.Generator) -> Tensor:
    return training_sigmas(LINEAR, OBJECTIVE, stratified_uniform(count, generator))


def test_training_noise_levels_are_uniform_over_timesteps() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([uniform(50, generator) for _ in range(400)])
    t = np.searchsorted(LINEAR.sigma, drawn.numpy())
    counts = np.histogram(t, bins=20, range=(0, 1000))[0]
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()  # five standard deviations of a Poisson count
    first = torch.stack([uniform(50, generator) for _ in range(400)])[:, 0]
    timesteps = np.searchsorted(LINEAR.sigma, first.numpy())
    assert 400 < timesteps.mean() < 600  # any single sample covers all timesteps too
    assert timesteps.std() > 230  # a uniform's is 289
