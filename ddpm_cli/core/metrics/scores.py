"""Frechet distance and Inception Score as functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from ddpm_cli.core.errors import DdpmError

Floats = NDArray[np.float64]


class Gaussian:
    """A Gaussian in a Frechet distance; the root of its covariance is computed once."""

    def __init__(self, mean: Floats, covariance: Floats) -> None:
        self.mean, self.covariance = mean, covariance  # (d,), (d, d)

    @cached_property
    def root(self) -> torch.Tensor:
        """R (d, rank) with R R^T = covariance: by Cholesky, or by eigenvectors if singular."""
        covariance = torch.from_numpy(self.covariance)
        factor: torch.Tensor
        factor, info = torch.linalg.cholesky_ex(covariance)
        if not info:
            return factor
        with _one_thread():
            values, vectors = torch.linalg.eigh(covariance)
        # eigenvalues below the tolerance are rounding errors of 0
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        root: torch.Tensor = vectors[:, kept] * values[kept].sqrt()
        return root

    def distance(self, mean: Floats, covariance: Floats) -> float:
        """Frechet distance to another Gaussian, as `frechet_distance`."""
        if self.mean.shape != mean.shape:
            counts = f"{len(self.mean)} and {len(mean)}"
            raise DdpmError(f"REAL and FAKE have {counts} features: different networks made them")
        gap = self.mean - mean
        with np.errstate(over="ignore", invalid="ignore"):
            traces = np.trace(self.covariance) + np.trace(covariance)
            distance = float(gap @ gap + traces - 2 * self.trace_of_root(covariance))
        if not math.isfinite(distance):
            raise DdpmError("the features are too large: their squares are not finite in float64")
        return max(0.0, distance)

    def trace_of_root(self, covariance: Floats) -> float:
        """Tr((S1 S2)^(1/2)) of this covariance and another (d, d), of any rank.

        With S1 = R R^T, S1 S2 has the eigenvalues of R^T S2 R: a symmetric eigenvalue problem,
        which always converges and stays real, where a general matrix root may do neither.
        Eigenvalues that rounding made negative count as 0. Infinity beyond float64.
        """
        similar = self.root.T @ torch.from_numpy(covariance) @ self.root
        if not bool(torch.isfinite(similar).all()):
            return math.inf
        with _one_thread():
            return float(torch.linalg.eigvalsh(similar).clamp(min=0).sqrt().sum())


def frechet_distance(mean1: Floats, sigma1: Floats, mean2: Floats, sigma2: Floats) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6; Dowson and Landau 1982).

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means (d,) and covariances (d, d), never below 0.
    Raises DdpmError where the two have different numbers of features.
    """
    return Gaussian(mean1, sigma1).distance(mean2, sigma2)


def trace_of_root(s1: Floats, s2: Floats) -> float:
    """Tr((S1 S2)^(1/2)) of two covariances (d, d), of any rank."""
    return Gaussian(np.zeros(len(s1)), s1).trace_of_root(s2)


@contextmanager
def _one_thread() -> Iterator[None]:
    # LAPACK's tridiagonal reduction is bound by memory bandwidth: a second thread saves a fifth of
    # the time on an idle machine, and takes ten times as long on a busy one (20 s instead of 2 s).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def shuffled(n: int) -> NDArray[np.intp]:
    """A fixed permutation of n indices: torch-fidelity's generator and seed."""
    return np.random.RandomState(2020).permutation(n)


def inception_score(
    logits: Callable[[NDArray[np.intp]], NDArray[np.floating]], n: int, splits: int = 10
) -> tuple[float, float]:
    """Inception Score (Salimans et al. 2016): mean and population deviation over equal splits.

    exp(E_x KL(p(y|x) || p(y))) of logits without bias. `logits` maps indices of the n images to
    (len(indices), classes), so that one split is in memory at a time. Images are shuffled first:
    files are often sorted by class, and a split of one class scores 1. Raises DdpmError where
    n < splits.
    """
    if not 1 <= splits <= n:
        raise DdpmError(
            f"{n} images cannot be divided into {splits} splits; choose fewer (--splits)"
        )
    order = shuffled(n)
    bounds = [i * n // splits for i in range(splits + 1)]
    scores = [_split_score(logits(order[start:end])) for start, end in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(logits: NDArray[np.floating]) -> float:
    """exp(E_x KL(p(y|x) || p(y))) of one split's logits (n, classes), in float64.

    Raises DdpmError where they are not finite.
    """
    if not np.isfinite(logits).all():
        raise DdpmError("logits hold NaN or infinity: are the weights damaged?")
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    used = marginal > 0  # a class of probability 0 everywhere contributes 0, not 0 * log 0
    divergence = p[:, used] * (log_p[:, used] - np.log(marginal[used]))
    return float(np.exp(divergence.sum(axis=1).mean()))
