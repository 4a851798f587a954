"""Averages of the weights with power profiles: their lengths, decays and combinations.

After t images the average with exponent gamma is the mean of the weights theta(tau) so far, each
weighted by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), its profile. Its length sigma_rel is the
standard deviation of p relative to t. Karras et al. (2024), section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ddpm_cli.core.errors import UsageError

Array = npt.NDArray[np.float64]

LONGEST = 12**-0.5
"""The sigma_rel of gamma = 0: the plain mean of all weights. Profiles are shorter."""


class Profile(NamedTuple):
    """The profile of an average."""

    images: int  # seen in training, t
    sigma_rel: float  # above 0 and at most LONGEST

    @property
    def gamma(self) -> float:
        """Its exponent."""
        return gamma(self.sigma_rel)


class Fit(NamedTuple):
    """A profile as a linear combination of others."""

    coefficients: Array  # (n,); they sum to 1
    error: float  # |fit - profile| / |profile|, in the L2 norm over the images seen


def sigma_rel(exponent: float) -> float:
    """The length of the profile with this exponent gamma (equation 123)."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


def gamma(length: float) -> float:
    """The exponent of the profile with this sigma_rel: the inverse of `sigma_rel`, at least 0.

    The largest root of the cubic in equation 126, by trigonometry. Raises UsageError for a length
    that is not above 0 and at most LONGEST.
    """
    if not 0 < length <= LONGEST:
        raise UsageError(
            f"sigma_rel {length:g}: lengths are above 0 and at most {LONGEST:.4f}, which is the "
            "plain mean of all weights"
        )
    inverse = length**-2
    b, c = 16 - inverse, 12 - inverse  # gamma^3 + 7 gamma^2 + b gamma + c = 0
    p, q = b - 49 / 3, 686 / 27 - 7 * b / 3 + c  # y^3 + p y + q = 0 of y = gamma + 7/3; p < 0
    angle = math.acos(min(1.0, max(-1.0, 1.5 * q / p * math.sqrt(-3 / p))))
    return max(0.0, 2 * math.sqrt(-p / 3) * math.cos(angle / 3) - 7 / 3)


def decay(profile: Profile, batch: int) -> float:
    """beta of the step after which `profile.images` images are seen, `batch` of them in it.

    Equation 127; 0 at the first step, so that the initial weights count for nothing.
    """
    return float((1 - min(batch, profile.images) / profile.images) ** (profile.gamma + 1))


def inner_products(one: Sequence[Profile], other: Sequence[Profile]) -> Array:
    """The integrals of products of profiles (n, m), in 1 / images (equation 151)."""
    t, g = _columns(one)
    u, h = (values.T for values in _columns(other))
    shorter, longer = np.minimum(t, u), np.maximum(t, u)
    exponent = np.where(t < u, h, g)  # of the one that goes on for longer
    product = (g + 1) * (h + 1) * (shorter / longer) ** exponent
    return np.asarray(product / ((g + h + 1) * longer))


def fit(stored: Sequence[Profile], wanted: Profile) -> Fit:
    """The combination of stored profiles that is closest to the one wanted, in the L2 norm.

    The paper solves A x = b without a constraint (equations 141 to 143). Here the coefficients sum
    to 1, so that weights that do not change are rebuilt exactly: without it a few stored averages
    give weights that are too small or too large as a whole.
    """
    norms = np.sqrt(np.diag(inner_products(stored, stored)))
    norm = math.sqrt(inner_products([wanted], [wanted]).item())
    # Of profiles of norm 1, whose coefficients are y = x norms / norm; and the multiplier.
    gram = inner_products(stored, stored) / np.outer(norms, norms)
    target = inner_products(stored, [wanted])[:, 0] / (norms * norm)
    sums = (norm / norms)[:, None]
    system: Any = np.block([[gram, sums], [sums.T, np.zeros((1, 1))]])
    y = np.linalg.solve(system, np.append(target, 1.0))[:-1]
    squared = float(y @ gram @ y - 2 * y @ target + 1)
    return Fit(y * norm / norms, math.sqrt(max(0.0, squared)))


def _columns(profiles: Sequence[Profile]) -> tuple[Array, Array]:
    """Images and exponents, each (n, 1)."""
    images = np.array([[profile.images] for profile in profiles], np.float64)
    exponents = np.array([[profile.gamma] for profile in profiles], np.float64)
    return images, exponents
