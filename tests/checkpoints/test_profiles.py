"""Power profiles of averages, against their definitions (Karras et al. 2024, appendix C)."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from ddpm_cli.core.checkpoints import profiles
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.errors import UsageError


def density(profile: Profile, tau: float) -> float:
    g, t = profile.gamma, profile.images
    return (g + 1) * (tau / t) ** g / t if tau <= t else 0.0


@pytest.mark.parametrize(("length", "exponent"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.72)])
def test_exponents_of_the_paper(length: float, exponent: float) -> None:
    assert profiles.gamma(length) == pytest.approx(exponent, abs=0.005)


@pytest.mark.parametrize("length", [1e-4, 0.003, 0.05, 0.1, 0.2, 0.28, profiles.LONGEST])
def test_the_exponent_inverts_the_length(length: float) -> None:
    # Rounding of the cubic's terms, each of the size of 1 / sigma_rel^2, stays relative.
    assert profiles.sigma_rel(profiles.gamma(length)) == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, math.nan])
def test_lengths_that_no_profile_has(length: float) -> None:
    with pytest.raises(UsageError, match=r"at most 0\.2887"):
        profiles.gamma(length)


def test_inner_products_are_the_integrals() -> None:
    given = [Profile(40, 0.05), Profile(100, 0.1), Profile(100, 0.25)]
    products = profiles.inner_products(given, given)
    for i, one in enumerate(given):
        for j, other in enumerate(given):

            def product(tau: float, one: Profile = one, other: Profile = other) -> float:
                return density(one, tau) * density(other, tau)

            expected, _ = quad(product, 0, min(one.images, other.images), epsabs=1e-12)
            assert products[i, j] == pytest.approx(expected, rel=1e-6)


def test_decays_accumulate_to_the_profile() -> None:
    """Of theta(tau) = tau the average is its mean under the profile, t (gamma + 1) / (gamma + 2).

    In training theta is constant within a step, which raises the mean by less than one step.
    """
    batch, average = 4, 1e9  # what it begins with counts for nothing
    for images in range(batch, 4000 + batch, batch):
        beta = profiles.decay(Profile(images, 0.1), batch)
        average = beta * average + (1 - beta) * images
    g = profiles.gamma(0.1)
    assert 0 < average - 4000 * (g + 1) / (g + 2) < batch


def both(times: range) -> list[Profile]:
    return [Profile(images, length) for images in times for length in (0.05, 0.1)]


def test_a_stored_profile_is_its_own_fit() -> None:
    stored = both(range(1000, 9000, 1000))
    fit = profiles.fit(stored, Profile(6000, 0.1))
    expected = [float(one == Profile(6000, 0.1)) for one in stored]
    assert fit.coefficients == pytest.approx(expected, abs=1e-9)  # times the condition number, 80
    assert fit.error < 1e-6  # the root of rounding errors


@pytest.mark.parametrize("count", [1, 3, 16, 400])
@pytest.mark.parametrize("length", [0.03, 0.15, 0.25])
def test_coefficients_sum_to_one(count: int, length: float) -> None:
    stored = both(range(1000, 1000 * count + 1000, 1000))
    assert profiles.fit(stored, stored[-1]._replace(sigma_rel=length)).coefficients.sum() == (
        pytest.approx(1)
    )


def test_the_error_is_that_of_the_profile() -> None:
    stored, wanted = both(range(250, 1250, 250)), Profile(1000, 0.2)
    fit = profiles.fit(stored, wanted)
    taus = (np.arange(200_000) + 0.5) / 200
    made = sum(
        x * np.array(np.where(taus <= one.images, (one.gamma + 1) * (taus / one.images) ** one.gamma
                              / one.images, 0))
        for x, one in zip(fit.coefficients, stored, strict=True)
    )  # fmt: skip
    exact = (wanted.gamma + 1) * (taus / 1000) ** wanted.gamma / 1000
    error = np.linalg.norm(made - exact) / np.linalg.norm(exact)
    assert fit.error == pytest.approx(error, rel=1e-3)
    assert 0.1 < fit.error < 0.3


def test_more_stored_averages_fit_better() -> None:
    """Twice as many: a quarter of the error, in the L2 norm (the paper's O(1 / n^4) of its square).

    A tenth aside, for the beginning of training, where the number of them matters less.
    """
    errors = [
        profiles.fit(both(range(6400 // n, 6401, 6400 // n)), Profile(6400, 0.15)).error
        for n in (8, 16, 32, 64)
    ]
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([4, 4, 4], rel=0.1)
