"""Bits per dimension: against closed forms, and as a command."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import NoiseLevels, Prediction
from ddpm_cli.core.diffusion.likelihood import bound, discretised_gaussian_nll, prior_term
from tests.support.cli import Result

SHORT = ("--images", 8, "--preview", 0)  # a step
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))


@given(mean=st.floats(-1.5, 1.5), log_std=st.floats(-6, 1))
def test_the_decoders_bins_sum_to_one(mean: float, log_std: float) -> None:
    log_stds = torch.full_like(LEVELS, log_std)
    nats = discretised_gaussian_nll(LEVELS, torch.full_like(LEVELS, mean), log_stds)
    # Each probability is clamped to at least 1e-12.
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_a_bins_probability_is_the_normals() -> None:
    std = 0.05
    normal = stats.norm(0.3, std)
    edges = np.concatenate([[-np.inf], LEVELS[:-1].numpy() + 1 / 255, [np.inf]])
    expected = np.diff(normal.cdf(edges))
    nats = discretised_gaussian_nll(
        LEVELS, torch.full_like(LEVELS, 0.3), torch.full_like(LEVELS, math.log(std))
    )
    # The distribution function's approximation is within 3e-4, a difference within twice that.
    np.testing.assert_allclose((-nats).exp(), expected, atol=6e-4)


@pytest.mark.parametrize(
    ("name", "timesteps", "golden"),
    [
        ("linear", 1000, (5.874784e-10, 7.278677e-06, 2.911295e-05)),
        ("linear", 4000, (6.504594e-10, 7.658931e-06, 3.063377e-05)),
        ("cosine", 1000, (0.0, 4.379963e-10, 1.751985e-09)),
        ("cosine", 4000, (0.0, 2.737479e-11, 1.094991e-10)),
        ("quadratic", 1000, (1.940991e-07, 1.324554e-04, 5.292394e-04)),
        ("sigmoid", 1000, (5.679489e-10, 7.156664e-06, 2.862495e-05)),
        ("sigmoid-abar", 1000, (3.251478e-14, 5.415145e-08, 2.166057e-07)),
    ],
)
def test_the_priors_golden_values(name: str, timesteps: int, golden: tuple[float, ...]) -> None:
    schedule = schedules.from_config(DiffusionConfig(name, timesteps))
    x0 = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None]
    # Seven digits are given, of numbers that were themselves rounded at about 1e-16.
    np.testing.assert_allclose(prior_term(schedule, x0), golden, rtol=1e-6, atol=1e-15)


def draws(x0: Tensor) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(x0.shape, generator=generator, dtype=x0.dtype)


def test_an_exact_denoiser_has_the_decoder_term_alone() -> None:
    x0 = LEVELS[torch.arange(48) * 5].reshape(1, 3, 4, 4)
    terms = torch.cat(
        list(bound(lambda x, s: Prediction(x0), LINEAR, x0, draws(x0), "fixed-small"))
    )
    assert len(terms) == 1000
    assert terms[1:].abs().max() < 1e-12  # D is right and the variance is the posterior's
    beta, abar = LINEAR.beta[1], LINEAR.alpha_bar
    std = (beta * (1 - abar[0]) / (1 - abar[1])) ** 0.5  # the second posterior's, as published
    inside, end = stats.norm.cdf(1 / 255 / std) * 2 - 1, stats.norm.cdf(1 / 255 / std)
    expected = -(47 * math.log2(inside) + math.log2(end)) / 48  # level 0 is among the 48
    assert terms[0].item() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("variance", ["fixed-small", "fixed-large", "learned"])
def test_normal_data_under_its_exact_denoiser(variance: str) -> None:
    """x0 ~ N(0, d^2): D = x d^2 / (d^2 + sigma^2) errs by d^2 sigma^2 / (d^2 + sigma^2) on average.

    So every KL is known, and the best of the variances reaches the entropy of the data.
    """
    d = 0.2  # five deviations fit into [-1, 1]
    schedule = schedules.from_config(DiffusionConfig("cosine", 200))
    generator = torch.Generator().manual_seed(1)
    x0 = d * torch.randn(1, 3, 160, 160, generator=generator, dtype=torch.float64)
    x0 = ((x0 + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    a = schedule.sigma**2
    b = np.append(0.0, a[:-1])
    error = d**2 * a / (d**2 + a)
    # The variance that fits: the posterior's and what the error of D adds to the mean.
    true = np.log(np.append(1.0, (b * (a - b) / a + (1 - b / a) ** 2 * error)[1:]))
    small = np.log(np.append(1.0, (b * (a - b) / a)[1:]))
    large = np.log((a - b) * (1 + b) / (1 + a))
    best = (true - small) / (large - small)
    best[0] = 1  # beta is near the error of D there
    fraction = {"fixed-small": 0 * best, "fixed-large": best**0, "learned": best}[variance]

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        s = float(sigma)
        t = int(np.searchsorted(schedule.sigma, s))
        return Prediction(x * d**2 / (d**2 + s**2), torch.full_like(x, fraction[t]))

    terms = torch.cat(list(bound(predict, schedule, x0, draws(x0), variance))).numpy()
    gap = fraction * (large - small)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = 1 / b - 1 / a
        nats = 0.5 * (gap - 1 + np.exp(-gap) * (1 + gained * error))
    # A sum of 76,800 squares of normal numbers is off by sqrt(2 / 76,800) = 0.5 %: five deviations.
    scale = 0.5 * np.exp(-gap) * gained * error
    assert (abs(terms * math.log(2) - nats) < 0.026 * scale + 1e-3 * d**2)[1:].all()
    entropy = 0.5 * math.log2(2 * math.pi * math.e * d**2) + math.log2(127.5)
    total = terms.sum() + prior_term(schedule, x0).item()
    assert total > entropy - 0.02  # a bound, up to the sampling of x0 and of the noise
    if variance == "learned":
        assert total == pytest.approx(entropy, abs=0.05)  # what 200 steps and the last one cost


@pytest.fixture
def run(train_tiny: Callable[..., Result]) -> Path:
    """A tiny model of 12 timesteps of the photos, with a learned variance."""
    made = train_tiny(*SHORT, "--out", "run", "--timesteps", 12, "--learned-variance")
    assert made.code == 0, made.err
    return Path("run")


def test_the_command(ddpm: Callable[..., Result], run: Path, photos: Path) -> None:
    first = ddpm("nll", run, "-n", 5, "--json")
    assert first.code == 0, first.err
    whole = first.json()
    assert (whole["n"], whole["timesteps"], len(whole["terms"])) == (5, 12, 12)
    assert whole["variance"] == "learned"
    parts = whole["prior"] + whole["kl"] + whole["decoder"]
    assert whole["total"] == pytest.approx(parts)
    assert whole["terms"][0] == whole["decoder"]
    again = ddpm("nll", run, "--data", photos, "-n", 5, "--batch", 2, "--json").json()
    assert again["total"] == pytest.approx(whole["total"], rel=1e-5)  # another order of sums
    shown = ddpm("nll", run, "-n", 5)
    assert f"{whole['total']:.4f} bits/dim" in shown.out
    assert "5 of 24 images, 12 evaluations each" in shown.err
    others = {
        kind: ddpm("nll", run, "-n", 5, "--variance", kind, "--json").json()["total"]
        for kind in ("fixed-small", "fixed-large")
    }
    assert len({whole["total"], *others.values()}) == 3
    assert ddpm("nll", run, "-n", 100, "--json").json()["n"] == 24
    two = ddpm("nll", run, "-n", 5, "--seed", 2, "--json").json()
    assert two["total"] != whole["total"]


def test_what_the_command_refuses(
    ddpm: Callable[..., Result], run: Path, tmp_path: Path, train_tiny: Callable[..., Result]
) -> None:
    grey, small, cats = tmp_path / "grey", tmp_path / "small", tmp_path / "cats"
    files.write_png(grey / "dark" / "0.png", np.zeros((1, 8, 8), dtype=np.uint8))
    files.write_png(small / "dark" / "0.png", np.full((3, 4, 4), [[[9]], [[1]], [[5]]], np.uint8))
    for name in ("dark", "cat"):
        colour = np.full((3, 8, 8), [[[9]], [[1]], [[5]]], np.uint8)
        files.write_png(cats / name / "0.png", colour)
    for arguments, code, words in (
        (("nowhere",), 1, "nowhere"),
        ((run, "--data", grey), 1, "8x8x1 (grey), and run"),
        ((run, "--data", small), 1, "4x4x3 (colour), and run"),
        ((run, "--data", cats / "cat"), 1, "has no classes, and run"),
        ((run, "--data", cats), 1, "has a class 'cat', and run"),
        ((run, "--variance", "huge"), 2, "fixed-small, fixed-large, learned"),
        ((run, "-n", 0), 2, "-n"),
    ):
        result = ddpm("nll", *arguments)
        assert (result.code, words in result.err) == (code, True), (arguments, result.err)
        assert "Traceback" not in result.err
    assert train_tiny(*SHORT, "--out", "flow", "--schedule", "flow").code == 0
    refused = ddpm("nll", "flow")
    assert (refused.code, "continuous noise levels" in refused.err) == (1, True)
    assert train_tiny(*SHORT, "--out", "fixed", "--timesteps", 3).code == 0
    refused = ddpm("nll", "fixed", "--variance", "learned")
    assert (refused.code, "has no learned variance" in refused.err) == (2, True)
    plain = ddpm("nll", "fixed", "-n", 2, "--json").json()
    assert plain["variance"] == "fixed-large"
