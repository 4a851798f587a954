"""Timesteps of the steps: the sequences of the reference implementations."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import grids, schedules
from ddpm_cli.core.diffusion.settings import SPACINGS
from ddpm_cli.core.errors import UsageError

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
COSINE = schedules.from_config(DiffusionConfig("cosine", 1000))
OF_TIMESTEPS = [spacing for spacing in SPACINGS if spacing != "karras"]


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
