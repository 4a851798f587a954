"""FID-infinity: sizes as dgm-eval's, an exact line, and Gaussians of a known distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores import infinity
from ddpm_cli.core.metrics.scores.fid import fid_spread
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.infinity import fid_infinity, subset_sizes
from ddpm_cli.core.runtime.reporting import Silent


def store(rows: np.ndarray) -> FeatureStore:
    result = FeatureStore(rows.shape[1])
    result.append(torch.from_numpy(rows))
    return result


@pytest.mark.parametrize(("n", "first"), [(50_000, 5000), (10_000, 1000), (100_000, 5000), (50, 5)])
def test_sizes_are_those_of_dgm_eval(n: int, first: int) -> None:
    expected = np.linspace(min(5000, max(n // 10, 2)), n, 15).astype("int32")
    assert subset_sizes(n).tolist() == expected.tolist()
    assert (expected[0], expected[-1], len(set(expected))) == (first, n, 15)


def test_of_an_exact_line_it_is_the_intercept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear(Gaussian):
        """FID that is 3 + 40 / N of the N images, which it is told by the mean."""

        def distance(self, mean: np.ndarray, covariance: np.ndarray) -> float:
            return float(3 + 40 / round(mean[0]))

    class Counted:
        def __init__(self, count: int) -> None:
            self.mean, self.covariance = np.array([float(count)]), np.eye(1)

    monkeypatch.setattr(infinity, "_moments_of", lambda s, chosen, *_: Counted(len(chosen)))
    line = fid_infinity(Linear(np.zeros(1), np.eye(1)), store(np.ones((60, 1))), Silent(), 0.25)
    assert line.value == pytest.approx(3, rel=1e-9)
    assert line.fit_std < 1e-9
    assert line.std == pytest.approx(0.25)
    assert line.fids[0] == pytest.approx(3 + 40 / 6)


def test_subsets_are_what_their_rows_are_however_they_are_computed() -> None:
    """Of subsets of more than half, the moments are all moments without the others'."""
    rng = np.random.default_rng(0)
    fake = rng.standard_normal((200, 6))
    real = Gaussian(np.zeros(6), np.eye(6))
    result = fid_infinity(real, store(fake), Silent())
    draws = np.random.RandomState(2020)
    x = fake.astype(np.float32).astype(np.float64)
    for size, value in zip(result.sizes, result.fids, strict=True):
        rows = x[draws.choice(200, size, replace=False)]
        expected = real.distance(rows.mean(axis=0), np.cov(rows, rowvar=False))
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    slope, intercept = np.polyfit(1 / np.array(result.sizes), result.fids, 1)
    assert result.value == pytest.approx(intercept, rel=1e-9)
    assert slope > 0
    spread = fid_spread(real, store(fake), Silent())
    assert spread is not None
    assert result.std == pytest.approx(np.hypot(result.fit_std, spread))
    assert fid_infinity(real, store(fake), Silent()) == result  # seeded


def test_it_is_nearer_to_the_true_distance_than_fid_is_and_within_its_error() -> None:
    """Over 40 draws of 1000 fakes of 16 features, whose bias is several times the deviation.

    The deviation of 40 values is known to 11 %, two such are allowed beside the 0.93 of 200 draws
    (tests/benchmarks/infinity_error.py).
    """
    mixing = np.random.default_rng(1).standard_normal((16, 16)) / 4
    covariance = mixing @ mixing.T + 0.2 * np.eye(16)
    shift = np.full(16, 0.05)
    real = Gaussian(np.zeros(16), np.eye(16))
    truth = real.distance(shift, covariance)
    factor = np.linalg.cholesky(covariance)
    errors, biases, stds = [], [], []
    for seed in range(40):
        fake = np.random.default_rng(seed).standard_normal((1000, 16)) @ factor.T + shift
        result = fid_infinity(real, store(fake), Silent())
        errors.append(result.value - truth)
        biases.append(result.fids[-1] - truth)
        stds.append(result.std)
    assert abs(np.mean(errors)) < 0.3 * abs(np.mean(biases))
    error = np.mean(np.square(stds)) ** 0.5
    assert 0.73 < error / np.std(errors, ddof=1) < 1.2
    within = np.mean(np.abs(errors) < 2 * np.array(stds))
    assert within >= 0.85  # 0.95 of a right error, less 3 deviations of so few draws


def test_constant_fakes_lie_on_a_flat_line() -> None:
    real = Gaussian(np.zeros(4), np.eye(4))
    result = fid_infinity(real, store(np.ones((60, 4))), Silent())
    assert result.value == pytest.approx(8, rel=1e-9)  # |1|^2 + trace of the real covariance
    assert result.std == pytest.approx(0, abs=1e-9)


def test_few_fakes_are_told_that_the_line_bends() -> None:
    real = Gaussian(np.zeros(8), np.eye(8))
    rows = np.random.default_rng(0).standard_normal((90, 8))
    few, many = (fid_infinity(real, store(rows[:n]), Silent()) for n in (60, 90))
    assert "fewer than 8" in few.notices(str)[0]
    assert "from 80 fakes on" in few.notices(str)[0]
    assert many.notices(str) == []
    assert few.line(str).startswith("FID-infinity ")
    assert few.line(str).endswith("(a line in 1/N of 15 sizes from 6 to 60)")
