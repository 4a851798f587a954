"""Which timesteps the steps visit: the sequences of the reference systems."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm_cli.core.config import DiffusionConfig
from ddpm_cli.core.diffusion import grids, schedules
from ddpm_cli.core.errors import UsageError


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


@pytest.mark.parametrize("spacing", grids.SPACINGS)
@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_any_number_of_steps_descends_without_repeats(spacing: str, total: int) -> None:
    for steps in {1, 2, 3, 7, total // 3, total - 1, total} & set(range(1, total + 1)):
        visited = grids.timesteps(total, steps, spacing)
        assert len(visited) == steps
        assert (np.diff(visited) < 0).all()
        assert 0 <= visited[-1] <= visited[0] < total


@pytest.mark.parametrize("spacing", grids.SPACINGS)
def test_all_steps_are_all_timesteps(spacing: str) -> None:
    assert grids.timesteps(10, 10, spacing).tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(UsageError, match="1000"):
        grids.timesteps(1000, steps)


def test_sigmas_are_the_schedules_own_and_end_at_zero() -> None:
    schedule = schedules.from_config(DiffusionConfig("linear", 1000))
    sigmas = grids.sigmas(schedule, 50).numpy()
    assert sigmas[-1] == 0
    assert (sigmas[:-1] == schedule.sigma[grids.timesteps(1000, 50)]).all()
