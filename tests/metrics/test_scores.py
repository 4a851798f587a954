"""Scores against closed forms and scipy's matrix root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import shuffled
from ddpm_cli.core.metrics.scores.frechet import frechet_distance, trace_of_root
from ddpm_cli.core.metrics.scores.inception_score import inception_score
from ddpm_cli.core.metrics.scores.score import digits

Floats = NDArray[np.float64]


def gaussian(n: int, d: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    return x.mean(axis=0), np.cov(x, rowvar=False)


@pytest.mark.parametrize("n", [30, 500])
def test_the_distance_to_itself_is_zero(n: int) -> None:
    x = gaussian(n, 64, 0)
    distance = frechet_distance(*x, *x)
    assert 0 <= distance < 1e-9 * np.trace(x[1])


def test_unit_gaussians_one_apart_in_every_dimension() -> None:
    eye = np.eye(2048)
    distance = frechet_distance(np.zeros(2048), eye, np.ones(2048), eye)
    assert distance == pytest.approx(2048, abs=1e-8)


def test_diagonal_covariances() -> None:
    rng = np.random.default_rng(1)
    a, b, gap = rng.random(40), rng.random(40), rng.standard_normal(40)
    expected = (gap**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    got = frechet_distance(gap, np.diag(a), np.zeros(40), np.diag(b))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("counts", [(600, 500), (20, 500), (500, 20), (20, 25)])
def test_general_covariances_of_any_rank(counts: tuple[int, int]) -> None:
    (m1, s1), (m2, s2) = gaussian(counts[0], 48, 2), gaussian(counts[1], 48, 3)
    root = scipy.linalg.sqrtm(s1 @ s2)
    full = min(counts) > 48  # of a singular product scipy's root keeps only half the digits
    assert trace_of_root(s1, s2) == pytest.approx(np.trace(root).real, rel=1e-10 if full else 1e-5)
    forwards, backwards = frechet_distance(m1, s1, m2, s2), frechet_distance(m2, s2, m1, s1)
    assert forwards == pytest.approx(backwards, rel=1e-10 if full else 1e-7)


def test_rank_deficient_covariances_by_singular_values() -> None:
    """For centred samples A, B: Tr (S1 S2)^(1/2) is |A B^T|_* / sqrt((n - 1) (m - 1))."""
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((12, 60)), rng.standard_normal((17, 60))
    centred = (a - a.mean(axis=0)) @ (b - b.mean(axis=0)).T
    expected = scipy.linalg.svdvals(centred).sum() / np.sqrt(11 * 16)
    got = trace_of_root(np.cov(a, rowvar=False), np.cov(b, rowvar=False))
    assert got == pytest.approx(expected, rel=1e-7)


def test_zero_covariances() -> None:
    """Equal images have a covariance of zeros."""
    zero, one = np.zeros((8, 8)), np.eye(8)
    assert frechet_distance(np.zeros(8), zero, np.zeros(8), zero) == 0
    assert frechet_distance(np.zeros(8), zero, np.zeros(8), one) == pytest.approx(8)
    assert frechet_distance(np.zeros(8), one, np.zeros(8), zero) == pytest.approx(8)


def test_the_thread_count_is_restored() -> None:
    threads = torch.get_num_threads()
    trace_of_root(np.eye(3), np.eye(3))
    assert torch.get_num_threads() == threads


def test_different_features_cannot_be_compared() -> None:
    with pytest.raises(DdpmError, match="3 and 4 features"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_a_distance_beyond_float64_is_refused(size: float) -> None:
    with pytest.raises(DdpmError, match="too large"):
        frechet_distance(np.full(3, size), np.eye(3), np.zeros(3), np.eye(3))
    with pytest.raises(DdpmError, match="too large"):
        frechet_distance(np.zeros(3), size * np.eye(3), np.zeros(3), size * np.eye(3))


def one_hot(labels: NDArray[np.intp], classes: int) -> Floats:
    return np.where(np.arange(classes) == labels[:, None], 0.0, -1e4)


def score(logits: NDArray[np.floating], splits: int = 10) -> tuple[float, float]:
    return inception_score(logits.__getitem__, len(logits), splits)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_inception_score_of_confident_uniform_classes_is_their_number(classes: int) -> None:
    logits = one_hot(np.arange(1000) % classes, classes)
    mean, std = score(logits, splits=1)
    assert mean == pytest.approx(classes, rel=1e-9)
    assert std == 0


def test_inception_score_of_equal_predictions_is_one() -> None:
    logits = np.tile(np.random.default_rng(0).standard_normal(50), (40, 1))
    assert score(logits, splits=4) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_inception_score_by_the_definition() -> None:
    logits = np.random.default_rng(0).standard_normal((103, 7)).astype(np.float32) * 3
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    scores = []
    for part in np.split(p[np.random.RandomState(2020).permutation(103)], [20, 41, 61, 82]):
        marginal = part.mean(axis=0)
        scores.append(np.exp((part * np.log(part / marginal)).sum(axis=1).mean()))
    mean, std = score(logits, splits=5)
    assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert std == pytest.approx(np.std(scores), rel=1e-9)


def test_sorted_files_score_as_shuffled_ones() -> None:
    """In the order of the files, splits of one class each would score 1 (improved-gan's trap)."""
    by_class = one_hot(np.sort(np.arange(2000) % 10), 10)
    assert score(by_class)[0] == pytest.approx(10, rel=0.05)


def test_the_order_is_torch_fidelitys() -> None:
    assert shuffled(5).tolist() == np.random.RandomState(2020).permutation(5).tolist()
    assert sorted(shuffled(100).tolist()) == list(range(100))
    assert shuffled(100).tolist() != list(range(100))


def test_too_few_images_for_the_splits() -> None:
    with pytest.raises(DdpmError, match="9 images cannot be divided into 10 splits"):
        score(np.zeros((9, 4)))
    assert score(np.zeros((10, 4)))[0] == pytest.approx(1)


def test_logits_must_be_finite() -> None:
    with pytest.raises(DdpmError, match="NaN"):
        score(np.full((20, 3), np.nan))


@pytest.mark.parametrize(
    ("distance", "text"),
    [(3.412, "3.4120"), (0.0002393, "0.000239"), (0.0, "0.0000"), (1e-13, "0.0000")],
)
def test_small_distances_keep_their_digits(distance: float, text: str) -> None:
    """Frechet distances in a classifier's features are small, and 0.0000 says nothing."""
    assert digits(distance) == text
