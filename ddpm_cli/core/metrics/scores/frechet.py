"""The Frechet distance of two Gaussians."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from ddpm_cli.core.errors import DdpmError

Floats = NDArray[np.float64]


class Gaussian:
    """A Gaussian in a Frechet distance; the root of its covariance is computed once."""

    def __init__(self, mean: Floats, covariance: Floats) -> None:
        self.mean, self.covariance = mean, covariance  # (d,), (d, d)

    @cached_property
    def root(self) -> torch.Tensor:
        """R (d, rank) with R R^T = covariance: Cholesky's factor, pivoted (Higham 1990).

        It ends where what is left of the covariance is rounding errors, so that its cost and size
        are those of the rank: at most n - 1 for n images.
        """
        factor, order, rank, _ = lapack.dpstrf(self.covariance, lower=1)
        root = np.zeros((len(order), rank))
        root[order - 1] = np.tril(factor)[:, :rank]
        return torch.from_numpy(root)

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


@dataclass(frozen=True)
class RootGaussian:
    """A Gaussian by a root of its covariance, which for n rows of d > n features is small."""

    mean: torch.Tensor  # (d,)
    root: torch.Tensor  # (d, r): root root^T is the covariance

    @classmethod
    def of_rows(cls, rows: torch.Tensor) -> RootGaussian:
        """Fitted to rows (n, d), n at least 2: the root is the centred rows over sqrt(n - 1)."""
        mean = rows.double().mean(dim=0)
        return cls(mean, (rows.double() - mean).T / math.sqrt(len(rows) - 1))

    @classmethod
    def of_moments(cls, mean: Floats, covariance: Floats) -> RootGaussian:
        """From a mean (d,) and a covariance (d, d)."""
        return cls(torch.from_numpy(mean), Gaussian(mean, covariance).root)

    def distance(self, other: RootGaussian) -> float:
        """Frechet distance, as `frechet_distance`.

        S1 S2 = A A^T B B^T has the eigenvalues of (A^T B)(A^T B)^T, so that the trace of its root
        is the sum of the singular values of A^T B, whose size is that of the roots.
        """
        product = self.root.T @ other.root
        small = product @ product.T if len(product) <= product.shape[1] else product.T @ product
        with _one_thread():
            trace = torch.linalg.eigvalsh(small).clamp(min=0).sqrt().sum()
        gap = self.mean - other.mean
        traces = self.root.square().sum() + other.root.square().sum()
        return max(0.0, float(gap @ gap + traces - 2 * trace))


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
