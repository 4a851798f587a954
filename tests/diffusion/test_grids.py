"""Timesteps of the steps: the sequences of the reference implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import grids, schedules
from ddpm_cli.core.diffusion.settings import SPACINGS
from ddpm_cli.core.errors import UsageError

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
COSINE = schedules.from_config(DiffusionConfig("cosine", 1000))
OF_TIMESTEPS = SPACINGS[:4]


@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [
        ("leading", [980, 960, 940], [40, 20, 0]),  # improved DDPM's "ddim50"
        ("trailing", [999, 979, 959], [59, 39, 19]),  # diffusers
        ("linspace", [999, 979, 958], [41, 20, 0]),  # improved DDPM's "50"
    ],
)
def test_fifty_of_a_thousand(spacing: str, first: list[int], last: list[int]) -> None:
    steps = grids.timesteps(1000, 50, spacing).tolist()
    assert len(steps) == 50
    assert steps[:3] == first
    assert steps[-3:] == last


@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [
        ("leading", [900, 800], [200, 100, 0]),
        ("trailing", [999, 899], [299, 199, 99]),
        ("linspace", [999, 888], [222, 111, 0]),
        ("quadratic", [800, 632], [39, 9, 0]),  # the DDIM repository's "quad"
    ],
)
def test_ten_of_a_thousand(spacing: str, first: list[int], last: list[int]) -> None:
    steps = grids.timesteps(1000, 10, spacing).tolist()
    assert (steps[:2], steps[-3:]) == (first, last)


def test_quadratic_is_the_ddim_repositorys() -> None:
    expected = [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
    assert grids.timesteps(1000, 10, "quadratic").tolist() == expected[::-1]


def with_levels(sigma: np.ndarray) -> schedules.Schedule:
    """A schedule of these noise levels."""
    return schedules.Schedule("levels", sigma)


def test_karras_is_edms() -> None:
    schedule = with_levels(np.geomspace(0.002, 80, 50))
    # As printed by EDM's formula, with seven digits.
    golden = [
        80.0, 57.58598, 40.78557, 28.37458, 19.35245, 12.91008, 8.400935, 5.315195, 3.256822,
        1.92334, 1.088171, 0.5853481, 0.2964423, 0.1395165, 0.05994731, 0.02293452, 0.00752802,
        0.002, 0.0,
    ]  # fmt: skip
    np.testing.assert_allclose(grids.sigmas(schedule, 18, "karras"), golden, rtol=1e-6)
    assert grids.sigmas(schedule, 1, "karras").tolist() == pytest.approx([80, 0])


def test_karras_is_within_the_schedule_and_below_80() -> None:
    for schedule in (LINEAR, COSINE):
        visited = grids.sigmas(schedule, 12, "karras").numpy()
        assert visited[0] == pytest.approx(80)
        assert visited[-2] == pytest.approx(schedule.sigma[0])


@pytest.mark.parametrize("spacing", OF_TIMESTEPS)
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_grids_for_ode_solvers_are_scaled_below_80(spacing: str, steps: int) -> None:
    free = grids.sigmas(COSINE, steps, spacing).numpy()
    bound = grids.sigmas(COSINE, steps, spacing, 80).numpy()
    assert len(bound) == steps + 1
    assert (np.diff(bound) < 0).all()
    assert bound[0] <= 80 * (1 + 1e-12)
    assert (bound <= free * (1 + 1e-12)).all()
    # A schedule that is below is unchanged.
    np.testing.assert_array_equal(
        grids.sigmas(LINEAR, steps, spacing, 200), grids.sigmas(LINEAR, steps, spacing)
    )


@pytest.mark.parametrize("name", ["cosine", "sigmoid-abar", "flow"])
@pytest.mark.parametrize("spacing", ["leading", "quadratic"])
def test_a_grid_below_80_is_the_same_for_ode_solvers(name: str, spacing: str) -> None:
    schedule = schedules.from_config(DiffusionConfig(name, 1000))
    free = grids.sigmas(schedule, 10, spacing)
    assert free[0] < 80 < schedule.sigma[-1]
    np.testing.assert_array_equal(grids.sigmas(schedule, 10, spacing, 80), free)


@pytest.mark.parametrize("spacing", OF_TIMESTEPS)
def test_a_grid_from_above_80_starts_there(spacing: str) -> None:
    schedule = with_levels(np.geomspace(0.01, 1e6, 100))
    bound = grids.sigmas(schedule, 10, spacing, 80)
    assert bound[0].item() == pytest.approx(80, rel=1e-12)


@pytest.mark.parametrize("spacing", OF_TIMESTEPS)
@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_any_number_of_steps_descends_without_repeats(spacing: str, total: int) -> None:
    for steps in {1, 2, 3, 7, total // 3, total - 1, total} & set(range(1, total + 1)):
        visited = grids.timesteps(total, steps, spacing)
        assert len(visited) == steps
        assert (np.diff(visited) < 0).all()
        assert 0 <= visited[-1] <= visited[0] < total


@pytest.mark.parametrize("spacing", OF_TIMESTEPS)
def test_all_steps_are_all_timesteps(spacing: str) -> None:
    assert grids.timesteps(10, 10, spacing).tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(UsageError, match="1000"):
        grids.sigmas(LINEAR, steps)


def test_sigmas_are_the_schedules_own_and_end_at_zero() -> None:
    sigmas = grids.sigmas(LINEAR, 50).numpy()
    assert sigmas[-1] == 0
    assert (sigmas[:-1] == LINEAR.sigma[grids.timesteps(1000, 50, "trailing")]).all()


def levels_of(timesteps: list[int]) -> list[float]:
    return [LINEAR.sigma[t] for t in timesteps]


def improved_ddpms(total: int, counts: list[int]) -> list[int]:
    """timestep_respacing, in our words: in a section the next is a stride on, then rounded."""
    chosen, first = [], 0
    for i, count in enumerate(counts):
        length = total // len(counts) + (i < total % len(counts))
        position = 0.0
        for _ in range(count):
            chosen.append(first + round(position))
            position += (length - 1) / (count - 1) if count > 1 else 1
        first += length
    return chosen


def test_sections_are_improved_ddpms() -> None:
    of_300 = with_levels(np.arange(1, 301.0))
    golden = grids.in_sections(of_300, [10, 15, 20])[::-1] - 1
    assert golden[:6].tolist() == [0, 11, 22, 33, 44, 55]  # as their function prints them
    assert golden[-4:].tolist() == [283, 289, 294, 299]
    for total in (10, 100, 999, 1000):
        schedule = with_levels(np.arange(1, total + 1.0))
        for counts in ([1], [2, 3], [10], [1, 1, 1], [3, 2, 1], [5, 5], [3, 1], [total // 3] * 3):
            visited = grids.in_sections(schedule, counts)[::-1] - 1
            assert visited.tolist() == improved_ddpms(total, counts), (total, counts)
    for count in range(1, 101):  # ties are rounded as theirs
        schedule = with_levels(np.arange(1, 101.0))
        visited = grids.in_sections(schedule, [count])[::-1] - 1
        assert visited.tolist() == improved_ddpms(100, [count])


def test_sections_that_are_too_short() -> None:
    with pytest.raises(UsageError, match="501 steps do not fit into a section of 500 timesteps"):
        grids.in_sections(LINEAR, [501, 2])


def test_given_levels_must_be_the_schedules() -> None:
    assert grids.at_timesteps(LINEAR, (999, 3)).tolist() == levels_of([999, 3])
    assert grids.at_sigmas(LINEAR, (157.41, 0.01)).tolist() == [157.41, 0.01]  # ends, rounded
    for wrong in (157.6, 0.009):
        with pytest.raises(UsageError, match=rf"--sigmas {wrong}.* 0.01 to 157.41"):
            grids.at_sigmas(LINEAR, (100.0, wrong))
    with pytest.raises(UsageError, match=r"--timesteps 1000 .* 0 to 999"):
        grids.at_timesteps(LINEAR, (1000, 3))


def test_exponential_is_even_in_log_sigma() -> None:
    """k-diffusion's formula: exp(linspace(ln sigma_max, ln sigma_min))."""
    for schedule in (LINEAR, COSINE):
        expected = np.exp(np.linspace(np.log(80), np.log(schedule.sigma[0]), 12))
        np.testing.assert_allclose(grids.sigmas(schedule, 12, "exponential")[:-1], expected)


def test_beta_is_dense_at_both_ends() -> None:
    """Timesteps at quantiles of Beta(0.6, 0.6) (Lee et al. 2024)."""
    for steps in (1, 2, 9, 1000):
        quantiles = beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6)
        visited = LINEAR.timestep(grids.sigmas(LINEAR, steps, "beta")[:-1])
        np.testing.assert_allclose(visited, 999 * quantiles, atol=1e-3)  # float32 timesteps
    apart = -np.diff(LINEAR.timestep(grids.sigmas(LINEAR, 9, "beta")[:-1]))
    assert apart[0] < apart[1] < apart[3] == pytest.approx(apart[4], abs=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 999])
def test_the_final_level_may_be_the_smallest(spacing: str, steps: int) -> None:
    smallest = LINEAR.sigma[0]
    sigmas = grids.sigmas(LINEAR, steps, spacing, final=smallest)
    assert len(sigmas) == steps + 1
    assert sigmas[-1] == smallest < sigmas[-2]
    assert (sigmas.diff() < 0).all()
    with pytest.raises(UsageError, match=r"1000 timesteps, less one .*, not 1000"):
        grids.sigmas(LINEAR, 1000, spacing, final=smallest)


def test_no_step_is_left_to_the_final_level() -> None:
    with pytest.raises(UsageError, match="leave one of the two out"):
        grids.ending_at(0.01, np.array([1.0, 0.01]))
