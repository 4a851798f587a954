"""Noise levels of training: their distributions, and unbiased importance sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddpm_cli.core.config.diffusion import DiffusionConfig, ObjectiveConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.diffusion.noising import stratified_uniform, training_sigmas

COUNT = 20_000
U = stratified_uniform(COUNT, torch.Generator().manual_seed(0))


def levels(schedule: str, **objective: object) -> np.ndarray:
    table = schedules.from_config(DiffusionConfig(schedule))
    return training_sigmas(table, ObjectiveConfig(**objective), U).numpy()  # type: ignore[arg-type]


def ks_distance(sample: np.ndarray, law: stats.rv_continuous) -> float:
    """Kolmogorov-Smirnov; for stratified samples 1/COUNT, and 1e-5 is cut off at both ends."""
    return float(stats.kstest(sample, law.cdf).statistic)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"noise_levels": "log-normal"}, -1.2, 1.2),
        ({"noise_levels": "log-normal", "noise_mean": -0.4, "noise_std": 1.0}, -0.4, 1.0),
        ({"noise_levels": "logit-normal"}, 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("schedule", ["edm", "flow"])
def test_normal_in_the_logarithm(
    schedule: str, settings: dict[str, object], mean: float, std: float
) -> None:
    sigma = levels(schedule, **settings)
    assert ks_distance(np.log(sigma), stats.norm(mean, std)) < 2e-4
    t = sigma / (1 + sigma)
    assert ks_distance(np.log(t / (1 - t)), stats.norm(mean, std)) < 2e-4  # the logit of flow's t


def test_uniform_in_the_schedules_time() -> None:
    sigma = levels("flow")
    assert ks_distance(sigma / (1 + sigma), stats.uniform()) < 2e-4
    root = levels("edm") ** (1 / 7)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert ks_distance((root - low) / (high - low), stats.uniform()) < 2e-4
    table = schedules.from_config(DiffusionConfig("linear")).sigma
    counts = np.bincount(np.searchsorted(table, levels("linear")), minlength=1000)
    assert (
        abs(counts - COUNT / 1000).max() <= 2
    )  # strata overlap a timestep's interval at both ends


def warm(losses: torch.Tensor) -> LossHistory:
    """A history with ten equal losses per timestep."""
    table = schedules.from_config(DiffusionConfig("linear", len(losses)))
    history = LossHistory(table)
    for _ in range(10):
        history.record(torch.from_numpy(table.sigma), losses)
    return history


def test_uniform_until_every_timestep_has_ten_losses() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    table = schedules.from_config(DiffusionConfig("linear", 4))
    history = LossHistory(table)
    for _ in range(9):
        history.record(torch.from_numpy(table.sigma), losses)
    assert history.probabilities().tolist() == [0.25] * 4
    history.record(torch.from_numpy(table.sigma), losses)
    expected = 0.999 * losses.double() / 10 + 0.001 / 4
    torch.testing.assert_close(history.probabilities(), expected)


def test_the_last_ten_losses_count_by_their_mean_square() -> None:
    table = schedules.from_config(DiffusionConfig("linear", 2))
    history, losses = LossHistory(table), np.random.default_rng(0).uniform(0.1, 3, (2, 25))
    for a, b in losses.T:
        history.record(torch.from_numpy(table.sigma), torch.tensor([a, b]))
    bad = torch.tensor([np.nan, np.inf])
    history.record(torch.from_numpy(table.sigma), bad)  # is ignored
    root = np.sqrt((losses[:, -10:] ** 2).mean(axis=1))
    np.testing.assert_allclose(history.probabilities(), 0.999 * root / root.sum() + 0.0005)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_importance_leaves_the_mean_loss_as_it_is(losses: list[float]) -> None:
    """E[loss_t / (T p_t)] with t ~ p is the mean of loss_t, here by evenly spread samples."""
    known = torch.tensor(losses, dtype=torch.float64)
    history = warm(known)
    p = history.probabilities()
    assert p.sum().item() == pytest.approx(1)
    sigma, weights = history.sample_sigmas((torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT)
    table = schedules.from_config(DiffusionConfig("linear", len(losses)))
    t = np.searchsorted(table.sigma, sigma.numpy())
    counts = np.bincount(t, minlength=len(losses))
    assert abs(counts - COUNT * p.numpy()).max() <= 1
    np.testing.assert_allclose(weights, 1 / (len(losses) * p.numpy()[t]))
    np.testing.assert_allclose((p * known / (len(losses) * p)).sum(), known.mean())


def test_a_history_is_saved_and_restored() -> None:
    one = warm(torch.tensor([1.0, 5.0, 2.0]))
    other = LossHistory(schedules.from_config(DiffusionConfig("linear", 3)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.probabilities(), other.probabilities())
