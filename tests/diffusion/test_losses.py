"""Losses against the literal formulas of the papers, in their own notation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL
from ddpm_cli.core.config.diffusion import (
    PARAMETERISATIONS,
    SCHEDULES,
    DiffusionConfig,
    ObjectiveConfig,
)
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, Prediction
from ddpm_cli.core.diffusion.likelihood import variational_term
from ddpm_cli.core.diffusion.losses import training_loss, weight
from ddpm_cli.core.diffusion.noising import Noised, training_sigmas

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
CHOSEN = np.array([0, 1, 10, 300, 700, 999])
SIGMA = torch.from_numpy(LINEAR.sigma[CHOSEN])
SNR = LINEAR.alpha_bar[CHOSEN] / (1 - LINEAR.alpha_bar[CHOSEN])
TIMES = {"eps": 1 / SNR, "x0": np.ones(6), "v": 1 / (SNR + 1)}  # error of F over that of x0


def constant(value: float, channels: int = 1) -> Callable[..., Tensor]:
    """A network with a constant output."""
    return lambda x, c, k: torch.full_like(x, value).repeat(1, channels, 1, 1)


def weights(parameterisation: str, **objective: object) -> Tensor:
    denoiser = Denoiser(constant(0), LINEAR, parameterisation)
    return weight(denoiser, SIGMA, ObjectiveConfig(**objective))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "far", "near"), [("l2", 9, 0.25), ("l1", 3, 0.5), ("huber", 2.5, 0.125)]
)
def test_distances(loss: str, far: float, near: float) -> None:
    zero = torch.zeros(6, 3, 2, 2)
    for value, expected in ((3.0, far), (0.5, near)):
        denoiser = Denoiser(constant(value), LINEAR, "x0")
        made = training_loss(
            denoiser, Noised(zero, zero, SIGMA), UNCONDITIONAL, ObjectiveConfig(loss=loss)
        )
        torch.testing.assert_close(made, torch.full((6,), float(expected)))


def test_min_snr_in_each_parameterisations_published_form() -> None:
    for gamma in (None, 1.5):
        least = np.minimum(SNR, gamma or 5)
        published = {"eps": least / SNR, "x0": least, "v": least / (SNR + 1)}
        for name, expected in published.items():
            made = weights(name, weighting="min-snr", weighting_gamma=gamma)
            np.testing.assert_allclose(made, expected, rtol=1e-10)


def test_p2_multiplies_the_error_of_eps() -> None:
    for k, gamma in ((1.0, None), (1.0, 0.5), (2.0, 1.5)):
        expected = 1 / (k + SNR) ** (gamma or 1)
        made = weights("eps", weighting="p2", weighting_k=k, weighting_gamma=gamma)
        np.testing.assert_allclose(made, expected, rtol=1e-10)


def test_the_bounds_weight_is_equation_12_clipped() -> None:
    """beta^2 / (2 sigma^2 alpha (1 - abar)) on eps (Ho et al. 2020), sigma^2 the posterior's."""
    beta, abar = LINEAR.beta, LINEAR.alpha_bar
    before = np.append(1.0, abar[:-1])
    posterior = beta * (1 - before) / (1 - abar)
    with np.errstate(divide="ignore"):
        of_eps = beta**2 / (2 * posterior * (1 - beta) * (1 - abar))
    for name, times in TIMES.items():
        exact = 1000 * of_eps[CHOSEN] * SNR * times  # a sum over timesteps is T times a mean
        for gamma in (None, 7.0):
            made = weights(name, weighting="vlb", weighting_gamma=gamma)
            np.testing.assert_allclose(made, np.minimum(exact, gamma or 50), rtol=1e-8)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("weighting", ["plain", "min-snr", "p2", "edm", "velocity", "vlb"])
def test_a_weighting_is_the_same_error_of_x0_whatever_the_parameterisation(
    parameterisation: str, weighting: str, noise: Callable[..., Tensor]
) -> None:
    noised = Noised(noise(6, 3, 4, 4), noise(6, 3, 4, 4), SIGMA)
    network = Denoiser(lambda x, c, k: x.double(), LINEAR, parameterisation)
    gamma = 1e12 if weighting == "vlb" else None
    objective = ObjectiveConfig(weighting=weighting, weighting_gamma=gamma)
    error = (network(noised.x, SIGMA) - noised.x0).square().mean(dim=(1, 2, 3))
    s = SIGMA
    below = LINEAR.below(s)
    c_out = {"eps": s, "x0": s**0, "v": s / (1 + s**2).sqrt(), "flow": s / (1 + s),
             "edm": 0.5 * s / (s**2 + 0.25).sqrt(),
             "x0-skip": s**2 / (s**2 + 0.01**2)}[parameterisation]  # fmt: skip
    published = {
        "plain": c_out**-2,
        "min-snr": (s**-2).clamp(max=5),
        "p2": s**-2 / (1 + s**-2),
        "edm": (s**2 + 0.25) / (s * 0.5) ** 2,
        "velocity": (1 + 1 / s).square().clamp(max=400),
        "vlb": torch.minimum(500 * (below**-2 - s**-2), 1e12 / c_out**2),
    }[weighting]
    # The network's input is float32, and x0 = x - sigma F cancels at sigma 157.
    made = training_loss(network, noised, UNCONDITIONAL, objective)
    torch.testing.assert_close(made, published * error, rtol=1e-4, atol=0)


def test_edm_under_edms_weighting_is_plain() -> None:
    np.testing.assert_allclose(weights("edm", weighting="edm"), np.ones(6), rtol=1e-12)


def test_x0_under_the_velocity_weighting_is_the_loss_of_jit() -> None:
    """Li & He (2025), section 4.3: v = (x - x_t) / max(1 - t, .05) of image and prediction."""
    t = torch.tensor([0.02, 0.3, 0.5, 0.9, 0.97], dtype=torch.float64)  # the image's share
    x, e = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    share = t[:, None, None, None]
    x_t, predicted = share * x + (1 - share) * e, torch.randn_like(x)
    v, v_predicted = ((y - x_t) / (1 - share).clamp(min=0.05) for y in (x, predicted))
    schedule = schedules.from_config(DiffusionConfig(schedule="flow", parameterisation="x0"))
    denoiser = Denoiser(lambda x, c, k: predicted, schedule, "x0")
    noised = Noised(x, e, (1 - t) / t)  # x_t / t = x + sigma e
    objective = ObjectiveConfig(weighting="velocity")
    made = training_loss(denoiser, noised, UNCONDITIONAL, objective)
    # The prediction is compared in float32.
    expected = (v_predicted - v).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=0)


def test_jits_noise_levels_are_logit_normal_with_its_mean_negated() -> None:
    """t = sigmoid(N(-.8, .8^2)) of the image is 1 - t = sigmoid(N(.8, .8^2)) of the noise."""
    objective = updated(RunConfig(), PRESETS["jit-s/4-32"].settings).objective
    u = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    schedule = schedules.from_config(DiffusionConfig(schedule="flow"))
    sigma = training_sigmas(schedule, objective, u)
    image = torch.sigmoid(-0.8 + 0.8 * torch.special.ndtri(1 - u))
    torch.testing.assert_close(1 / (1 + sigma), image)


def gaussian_kl(mean_q: float, var_q: float, mean_p: float, var_p: float) -> float:
    """KL(q || p) in bits by summing over a fine grid."""
    y = np.linspace(-14, 14, 40_001) * var_q**0.5 + mean_q
    log_q = -0.5 * (np.log(2 * np.pi * var_q) + (y - mean_q) ** 2 / var_q)
    log_p = -0.5 * (np.log(2 * np.pi * var_p) + (y - mean_p) ** 2 / var_p)
    return float(np.trapezoid(np.exp(log_q) * (log_q - log_p), y) / math.log(2))


@given(
    t=st.integers(1, 999), x0=st.floats(-1, 1), denoised=st.floats(-1, 1), v=st.floats(-1.5, 1.5),
    n=st.floats(-3, 3),
)  # fmt: skip
def test_the_bounds_term_is_the_divergence_of_ddpms_two_gaussians(
    t: int, x0: float, denoised: float, v: float, n: float
) -> None:
    """Written in DDPM's scale with DDPM's coefficients (Ho et al. 2020, equations 6 and 7)."""
    beta, abar, before = LINEAR.beta[t], LINEAR.alpha_bar[t], LINEAR.alpha_bar[t - 1]
    x_t = abar**0.5 * x0 + (1 - abar) ** 0.5 * n
    of_x0 = before**0.5 * beta / (1 - abar)
    of_x_t = (1 - beta) ** 0.5 * (1 - before) / (1 - abar)
    posterior = beta * (1 - before) / (1 - abar)
    fraction = (v + 1) / 2
    var = math.exp(fraction * math.log(beta) + (1 - fraction) * math.log(posterior))
    expected = gaussian_kl(
        of_x0 * x0 + of_x_t * x_t, posterior, of_x0 * denoised + of_x_t * x_t, var
    )
    full = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    made = variational_term(
        LINEAR,
        x0 * full,
        torch.tensor([LINEAR.sigma[t]]),
        Prediction(denoised * full, fraction * full),
    )
    # The grid's sum is exact to about 1e-9 of the divergence.
    assert made.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_hybrid_loss_adds_a_thousandth_of_the_whole_bound(noise: Callable[..., Tensor]) -> None:
    noised = Noised(noise(6, 3, 4, 4).clamp(-1, 1), noise(6, 3, 4, 4), SIGMA)
    hybrid = Denoiser(constant(0.3, 2), LINEAR, "eps")
    plain = Denoiser(constant(0.3), LINEAR, "eps")
    prediction = hybrid.predict(noised.x, SIGMA)
    assert prediction.variance_fraction is not None
    torch.testing.assert_close(prediction.variance_fraction, torch.full_like(noised.x0, 0.65))
    bound = variational_term(LINEAR, noised.x0, SIGMA, prediction)
    for weight_given, factor in ((None, 1.0), (0.002, 2.0)):
        objective = ObjectiveConfig(vlb_weight=weight_given)
        added = training_loss(hybrid, noised, UNCONDITIONAL, objective)
        added = added - training_loss(plain, noised, UNCONDITIONAL, objective)
        torch.testing.assert_close(added, factor * 1000 / 1000 * bound, rtol=1e-6, atol=1e-6)


def test_the_hybrid_bound_trains_the_variance_alone_and_the_full_bound_both() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, n = (torch.randn(6, 3, 4, 4, generator=generator).clamp(-1, 1) for _ in range(2))
    output = torch.zeros(6, 6, 4, 4, requires_grad=True)
    denoiser = Denoiser(lambda x, c, k: output, LINEAR, "eps")
    noised = Noised(x0, n, SIGMA)

    def gradient(objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
        (found,) = torch.autograd.grad(
            training_loss(denoiser, noised, UNCONDITIONAL, objective).sum(), output
        )
        return found[:, :3], found[:, 3:]

    of_mean, of_variance = gradient(ObjectiveConfig())
    torch.testing.assert_close(of_mean, -2 * n / n[0].numel())  # of L_simple and nothing else
    assert of_variance.abs().amax(dim=(1, 2, 3)).min() > 0
    of_mean, of_variance = gradient(ObjectiveConfig(loss="vlb"))
    assert of_mean.abs().amax(dim=(1, 2, 3)).min() > 0
    assert of_variance.abs().amax(dim=(1, 2, 3)).min() > 0


def test_the_bound_as_a_loss_is_all_its_timesteps() -> None:
    small = schedules.from_config(DiffusionConfig("cosine", 7))
    sigma = torch.from_numpy(small.sigma)
    noised = Noised(torch.zeros(7, 1, 2, 2), torch.ones(7, 1, 2, 2), sigma)
    denoiser = Denoiser(constant(0.1), small, "x0")
    loss = training_loss(denoiser, noised, UNCONDITIONAL, ObjectiveConfig(loss="vlb")).mean()
    prediction = Prediction(torch.full((7, 1, 2, 2), 0.1))
    terms = variational_term(small, noised.x0, sigma, prediction)
    torch.testing.assert_close(loss, terms.sum())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("timesteps", [1, 2, 4000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_loss_is_ever_nan_or_infinite(
    schedule: str, timesteps: int, precision: torch.dtype
) -> None:
    table = schedules.from_config(DiffusionConfig(schedule, timesteps))
    sigma = torch.from_numpy(table.sigma[[0, timesteps // 2, -1]])
    generator = torch.Generator().manual_seed(0)
    x0, n = (torch.randn(3, 1, 2, 2, generator=generator).clamp(-1, 1) for _ in range(2))
    output = torch.randn(3, 2, 2, 2, generator=generator).to(precision).requires_grad_()
    objectives = [
        *(ObjectiveConfig(loss=loss) for loss in ("l1", "l2", "huber", "vlb")),
        *(ObjectiveConfig(weighting=name) for name in ("min-snr", "p2", "edm", "vlb")),
    ]
    for parameterisation in PARAMETERISATIONS:
        denoiser = Denoiser(lambda x, c, k: output, table, parameterisation)
        assert denoiser(Noised(x0, n, sigma).x, sigma).isfinite().all()
        for objective in objectives:
            loss = training_loss(denoiser, Noised(x0, n, sigma), UNCONDITIONAL, objective)
            (gradient,) = torch.autograd.grad(loss.sum(), output)
            assert loss.isfinite().all(), (parameterisation, objective)
            assert gradient.isfinite().all(), (parameterisation, objective)
