"""The samplers without a network: on Gaussian data the exact denoiser and answer are known."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import grids, samplers, schedules
from ddpm_cli.core.diffusion.denoiser import Denoise, Predict, Prediction
from ddpm_cli.core.errors import UsageError

STD = 0.5  # of the data, whose mean is 0
LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
COSINE = schedules.from_config(DiffusionConfig("cosine", 1000))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] for x0 ~ N(0, STD^2)."""
    return x * (STD**2 / (STD**2 + sigma**2))


def predicting(denoise: Denoise, fraction: Tensor | None = None) -> Predict:
    return lambda x, sigma: Prediction(denoise(x, sigma), fraction)


def final(steps) -> Tensor:  # type: ignore[no-untyped-def]
    return list(steps)[-1].x


def karras(n: int) -> Tensor:
    """Karras et al. (2022), equation 5, with its defaults; and 0."""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


Solver = Callable[[Tensor, Tensor], object]
FLOW: dict[str, Solver] = {
    "euler": lambda x, s: samplers.ddim(predicting(gaussian), x, s, eta=0, noise=no_noise),
    "heun": lambda x, s: samplers.heun(gaussian, x, s, noise=no_noise),
    "dpmpp-2m": lambda x, s: samplers.dpmpp(gaussian, x, s, order=2, noise=no_noise),
    "dpmpp-3m": lambda x, s: samplers.dpmpp(gaussian, x, s, order=3, noise=no_noise),
    "ipndm": lambda x, s: samplers.ipndm(gaussian, x, s),
}


def error(name: str, n: int) -> float:
    """Relative to the flow's end x(0) = x(80) STD / sqrt(STD^2 + 80^2)."""
    x = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    exact = 80 * STD / math.sqrt(STD**2 + 80**2)
    return abs(final(FLOW[name](x, karras(n))).item() / exact - 1)


# Relative errors of the published algorithms on this flow, computed independently.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("euler", {18: 0.15392060267993127, 36: 0.07798956040015458, 72: 0.039242256727217935}),
        ("heun", {18: 0.05526988413820806, 36: 0.01221395296139873, 72: 0.0028708392287466965}),
    ],
)
def test_errors_are_the_published_methods(name: str, expected: dict[int, float]) -> None:
    for n, value in expected.items():
        assert error(name, n) == pytest.approx(value, rel=1e-9)


# Errors at n = 16, 32, 64, 128, 256 as far as they were printed: two digits, so 5 %.
@pytest.mark.parametrize(
    ("name", "errors", "order"),
    [
        ("euler", [1.7e-1, 8.8e-2, 4.4e-2, 2.2e-2, 1.1e-2], 1.00),
        ("heun", [7.2e-2, 1.6e-2, 3.7e-3, 8.8e-4, 2.1e-4], 2.06),
        ("dpmpp-2m", [8.0e-2, 1.7e-2, 3.8e-3, 9.0e-4, 2.1e-4], 2.08),
    ],
)
def test_orders_of_convergence(name: str, errors: list[float], order: float) -> None:
    measured = [error(name, n) for n in (16, 32, 64, 128, 256)]
    assert measured == pytest.approx(errors, rel=0.05)
    assert math.log2(measured[-2] / measured[-1]) == pytest.approx(order, abs=0.03)


def test_dpmpp_3m_is_better_than_2m_where_no_step_goes_to_0() -> None:
    """Both of order 2: the authors' 3M has half of the curvature that order 3 needs."""
    x = torch.full((1, 1, 1, 1), math.sqrt(10**2 + STD**2), dtype=torch.float64)
    exact = math.sqrt(0.05**2 + STD**2)
    errors: dict[int, list[float]] = {2: [], 3: []}
    for order, measured in errors.items():
        for n in (64, 128, 256):
            levels = torch.logspace(1, math.log10(0.05), n + 1, dtype=torch.float64)
            steps = samplers.dpmpp(gaussian, x, levels, order=order, noise=no_noise)
            measured.append(abs(final(steps).item() / exact - 1))
        assert math.log2(measured[1] / measured[2]) == pytest.approx(2, abs=0.1)
    assert errors[3][-1] < errors[2][-1] / 3


def k_diffusions(order: int, x: Tensor, levels: list[float], eta: float, draws: list[Tensor]):  # type: ignore[no-untyped-def]
    """sample_dpmpp_2m_sde ("midpoint") and 3m_sde of k-diffusion, in our words.

    Over a step h in log sigma x decays at the rate 1 + eta towards a polynomial of x0 in log sigma.
    One thing is diffusers': the second step of order 3 is 2m's, where k-diffusion has phi_2 first.
    """
    h_1 = h_2 = 0.0
    d_1 = d_2 = x
    for i, (sigma, after) in enumerate(itertools.pairwise(levels)):
        d = gaussian(x, sigma)
        if after == 0:
            return d
        h = math.log(sigma) - math.log(after)
        rate = h * (1 + eta)
        x = math.exp(-rate) * x - math.expm1(-rate) * d
        phi_2 = math.expm1(-rate) / rate + 1
        phi_3 = phi_2 / rate - 0.5
        first = (d - d_1) * h / h_1 if i else 0 * d
        if order == 2 or i < 2:
            x = x + 0.5 * -math.expm1(-rate) * first
        else:
            r_0, r_1 = h_1 / h, h_2 / h
            second = (d_1 - d_2) / r_1
            bend = (first - second) / (r_0 + r_1)
            x = x + phi_2 * (first + r_0 * bend) - phi_3 * bend
        x = x + draws[i] * after * math.sqrt(-math.expm1(-2 * eta * h))
        d_1, d_2, h_1, h_2 = d, d_1, h, h_1
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_the_sdes_solvers_are_k_diffusions(
    order: int, eta: float, noise: Callable[..., Tensor]
) -> None:
    draws = [noise(2, 1, 3, 3) for _ in range(21)]
    queue = iter(draws)
    levels, x = karras(20), 80 * draws[-1]
    steps = samplers.dpmpp(gaussian, x, levels, order=order, eta=eta, noise=lambda: next(queue))
    expected = k_diffusions(order, x, levels.tolist(), eta, draws)
    torch.testing.assert_close(final(steps), expected, rtol=1e-9, atol=1e-12)


def test_ipndm_is_of_order_2_where_it_matters() -> None:
    # Its weights are those of equal steps, which Karras' grid has only nearly.
    for n in (8, 16, 32, 64):
        assert error("ipndm", n) < 0.5 * error("dpmpp-2m", n)
    assert math.log2(error("ipndm", 128) / error("ipndm", 256)) > 1.9


@pytest.mark.parametrize("name", FLOW)
def test_one_step_ends_at_the_denoised_image(name: str) -> None:
    x = torch.full((2, 1, 1, 1), 3.0, dtype=torch.float64)
    levels = torch.tensor([2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(final(FLOW[name](x, levels)), gaussian(x, 2.0))


def test_adams_and_bashforths_weights_are_exact_for_parabolas() -> None:
    """Integrate slopes 1, u, u^2 over the step from 0 to 1, known at 0, -1 and -2."""
    for order, weights in enumerate(samplers.ADAMS_BASHFORTH, start=1):
        for power in range(order):
            integral = sum(w * (-k) ** power for k, w in enumerate(weights))
            assert integral == pytest.approx(1 / (power + 1), rel=1e-14)


@pytest.mark.parametrize(("n", "std"), [(16, 0.356), (64, 0.456), (256, 0.488)])
def test_eta_1_loses_variance_with_few_steps_only(n: int, std: float) -> None:
    """The exact standard deviation sigma_next ancestral steps, by propagating the variance."""
    levels = karras(n)
    variance = 80.0**2 + STD**2
    for sigma, sigma_next in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        gain, up = linear_step(sigma, sigma_next, eta=1)
        variance = gain**2 * variance + up**2
    assert math.sqrt(variance) == pytest.approx(std, abs=5e-4)


def linear_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """On this data a step is x -> gain x + up n; read both off the sampler."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    levels = torch.tensor([sigma, sigma_next], dtype=torch.float64)
    without = final(
        samplers.ddim(predicting(gaussian), one, levels, eta=eta, noise=lambda: 0 * one)
    ).item()
    with_noise = final(
        samplers.ddim(predicting(gaussian), one, levels, eta=eta, noise=lambda: one)
    ).item()
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
        sigma = math.sqrt(1 / abar[i] - 1)
        x0 = gaussian(x_vp / scale, sigma).clamp(-1, 1)
        x_vp = vp_step(x_vp, x0, abar[i], abar[i + 1], eta, draws[i])

    # The noise is not drawn in the last step, where it would be multiplied by 0.
    queue = iter(draws)
    out = final(
        samplers.ddim(
            predicting(lambda x, s: gaussian(x, s).clamp(-1, 1)),
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
        steps = samplers.ddim(
            predicting(lambda x, s: x0 * one), state, levels, eta=1, noise=lambda: noise
        )
        return final(steps) * math.sqrt(abar[t - 1])

    for t in (1, 10, 500, 999):
        before = abar[t - 1]
        of_x0, of_x_t = math.sqrt(before) * beta[t], math.sqrt(1 - beta[t]) * (1 - before)
        mean = (of_x0 * x0 + of_x_t * x_t) / (1 - abar[t])
        std = math.sqrt(beta[t] * (1 - before) / (1 - abar[t]))
        assert step(t, 0 * one).item() == pytest.approx(mean, rel=1e-9)
        assert (step(t, one) - step(t, 0 * one)).item() == pytest.approx(std, rel=1e-9)


def improved_variance(abar: float, before: float, fraction: float) -> float:
    """Nichol & Dhariwal (2021), equation 15, with the betas of respaced steps, for x_{t-1}."""
    beta = 1 - abar / before
    smallest = (1 - before) / (1 - abar) * beta
    return math.exp(fraction * math.log(beta) + (1 - fraction) * math.log(smallest))


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda s: s.name)
@pytest.mark.parametrize("eta", [0.4, 1])
@pytest.mark.parametrize(
    ("variance", "fraction"),
    [("fixed-small", 0.0), ("fixed-large", 1.0), ("learned", 0.3), ("learned", -0.1)],
)
def test_the_fresh_noise_has_improved_ddpms_variance(
    schedule: schedules.Schedule, eta: float, variance: str, fraction: float
) -> None:
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    predict = predicting(gaussian, fraction * one if variance == "learned" else None)
    for t, s in ((999, 998), (999, 979), (500, 250), (20, 0)):
        levels = torch.from_numpy(schedule.sigma[[t, s]])

        def step(noise: Tensor, levels: Tensor = levels) -> Tensor:
            steps = samplers.ddim(
                predict, one, levels, eta=eta, noise=lambda: noise, variance=variance
            )
            return final(steps)

        std = (step(one) - step(0 * one)).item() * math.sqrt(schedule.alpha_bar[s])
        expected = improved_variance(schedule.alpha_bar[t], schedule.alpha_bar[s], fraction)
        # At cosine's last level abar is 2.4e-9: 1 - beta keeps 7 of float64's 16 digits.
        assert std == pytest.approx(eta * math.sqrt(expected), rel=1e-6)
        plain = samplers.ddim(predicting(gaussian), one, levels, eta=eta, noise=lambda: 0 * one)
        torch.testing.assert_close(step(0 * one), final(plain))  # eta alone sets the kept noise


def test_a_variance_that_was_not_learned() -> None:
    one = torch.ones(1, 1, 1, 1)
    steps = samplers.ddim(
        predicting(gaussian), one, karras(4), eta=1, noise=lambda: one, variance="learned"
    )
    with pytest.raises(UsageError, match="use fixed-small"):
        list(steps)


def test_stochastic_heun_keeps_the_datas_variance(noise: Callable[..., Tensor]) -> None:
    def deviation(**churn: float) -> float:
        start = 80 * noise(40_000, 1, 1, 1)
        draw = lambda: noise(40_000, 1, 1, 1)  # noqa: E731
        return final(samplers.heun(gaussian, start, karras(100), noise=draw, **churn)).std().item()

    # The standard error from 40,000 samples is 0.0018; 100 steps of Heun err by 0.0007.
    assert deviation(s_churn=20) == pytest.approx(STD, abs=0.008)
    # At most a factor sqrt(2) up a step, which makes each step larger: an error of 0.007.
    assert deviation(s_churn=1e9) == pytest.approx(STD, abs=0.015)
    assert deviation(s_churn=20, s_noise=1.2) > STD + 0.01  # more noise than is taken away


def test_churn_is_between_its_bounds(noise: Callable[..., Tensor]) -> None:
    levels, drawn = karras(18), []

    def draw() -> Tensor:
        drawn.append(1)
        return noise(1, 1, 1, 1)

    start = 80 * noise(1, 1, 1, 1)
    list(samplers.heun(gaussian, start, levels, noise=draw, s_churn=10, s_min=0.05, s_max=50))
    assert len(drawn) == ((levels >= 0.05) & (levels <= 50)).sum()


MEANS, WEIGHTS = (-0.8, 0.1, 0.6), (0.5, 0.2, 0.3)  # of a mixture of Gaussians
NARROW = 0.05  # their deviation


def mixture(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] of the mixture: the components' means, weighted by their posterior probability."""
    means = torch.tensor(MEANS, dtype=x.dtype)
    variance = NARROW**2 + sigma**2
    logits = torch.tensor(WEIGHTS, dtype=x.dtype).log() - (x[..., None] - means) ** 2 / (
        2 * variance
    )
    own = (sigma**2 * means + NARROW**2 * x[..., None]) / variance
    return (logits.softmax(-1) * own).sum(-1)


MIXTURE: dict[str, Callable[[Tensor, Tensor, Callable[[], Tensor]], object]] = {
    "ddim": lambda x, s, n: samplers.ddim(predicting(mixture), x, s, eta=0, noise=n),
    "ddim, eta 0.5": lambda x, s, n: samplers.ddim(predicting(mixture), x, s, eta=0.5, noise=n),
    "ddpm": lambda x, s, n: samplers.ddim(predicting(mixture), x, s, eta=1, noise=n),
    "heun": lambda x, s, n: samplers.heun(mixture, x, s, noise=n),
    "stochastic heun": lambda x, s, n: samplers.heun(mixture, x, s, noise=n, s_churn=30),
    "dpmpp-2m": lambda x, s, n: samplers.dpmpp(mixture, x, s, order=2, noise=n),
    "dpmpp-3m": lambda x, s, n: samplers.dpmpp(mixture, x, s, order=3, noise=n),
    "dpmpp-2m-sde": lambda x, s, n: samplers.dpmpp(mixture, x, s, order=2, noise=n, eta=1),
    "dpmpp-3m-sde": lambda x, s, n: samplers.dpmpp(mixture, x, s, order=3, noise=n, eta=1),
    "ipndm": lambda x, s, n: samplers.ipndm(mixture, x, s),
}


@pytest.mark.parametrize("name", MIXTURE)
def test_a_mixture_is_sampled_from(name: str, noise: Callable[..., Tensor]) -> None:
    count = 10_000
    draw = lambda: noise(count, 1, 1, 1)  # noqa: E731
    x = final(MIXTURE[name](80 * draw(), karras(100), draw))
    assert torch.isfinite(x).all()
    # Fractions of 10,000 samples have a standard error of 0.005.
    fractions = [(abs(x - mean) < 4 * NARROW).double().mean().item() for mean in MEANS]
    assert fractions == pytest.approx(WEIGHTS, abs=0.02)
    widths = [x[abs(x - mean) < 4 * NARROW].std().item() for mean in MEANS]
    # 100 steps change the variance slightly, as on a single Gaussian.
    assert widths == pytest.approx([NARROW] * 3, rel=0.12)


def test_the_steps_are_indexed_by_noise_level(noise: Callable[..., Tensor]) -> None:
    sigmas = grids.sigmas(LINEAR, 5)
    steps = list(
        samplers.ddim(
            predicting(gaussian), noise(2, 1, 3, 3), sigmas, eta=0, noise=lambda: noise(1)
        )
    )
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert np.allclose([s.sigma for s in steps], sigmas[:-1])
    assert steps[-1].sigma_next == 0
    assert all(torch.isfinite(step.x).all() for step in steps)
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)  # at sigma 0 the state is the image


def test_the_final_state_is_found_without_keeping_the_others() -> None:
    def steps() -> Iterator[samplers.SamplerStep]:
        made = list[weakref.ref[Tensor]]()
        for i in range(5):
            x = torch.full((1,), float(i))
            made.append(weakref.ref(x))
            assert sum(state() is not None for state in made) <= 2
            yield samplers.SamplerStep(i, 1.0, 0.5, x, x)

    assert samplers.final_state(steps()).tolist() == [4]
    with pytest.raises(ValueError, match="no step"):
        samplers.final_state([])
