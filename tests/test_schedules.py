"""Noise schedules against the published formulas' values, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_cli.core.config import DiffusionConfig
from ddpm_cli.core.diffusion import schedules

# name, T: beta[0], beta[T/2], beta[-1], abar[0], abar[T/2-1], abar[-1]
GOLDEN = {
    ("linear", 1000): (1e-4, 0.01005995996, 0.02, 0.9999, 0.07858724288, 4.035829765e-05),
    ("linear", 4000): (2.5e-5, 0.002513122031, 0.005, 0.999975, 0.07894487332, 4.246652276e-05),
    ("cosine", 1000): (
        4.128422482e-05, 0.003155691442, 0.999, 0.9999587158, 0.4938435904, 2.428766907e-09,
    ),
    ("cosine", 4000): (
        9.865818814e-06, 0.0007889355535, 0.999, 0.9999901342, 0.4938435904, 1.517980469e-10,
    ),
}  # fmt: skip


def make(name: str, timesteps: int) -> schedules.Schedule:
    return schedules.from_config(DiffusionConfig(name, timesteps))


@pytest.mark.parametrize(("name", "timesteps"), GOLDEN)
def test_golden_values(name: str, timesteps: int) -> None:
    s = make(name, timesteps)
    half = timesteps // 2
    seen = (
        s.beta[0],
        s.beta[half],
        s.beta[-1],
        s.alpha_bar[0],
        s.alpha_bar[half - 1],
        s.alpha_bar[-1],
    )
    # The golden values are printed with ten digits.
    np.testing.assert_allclose(seen, GOLDEN[name, timesteps], rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [1, 2, 10, 1000, 4000])
def test_every_length_is_a_noise_schedule(name: str, timesteps: int) -> None:
    s = make(name, timesteps)
    assert len(s) == timesteps
    assert ((s.beta > 0) & (s.beta < 1)).all()
    assert (np.diff(s.sigma) > 0).all()
    assert np.isfinite(s.sigma).all()
    np.testing.assert_allclose(s.snr * s.sigma**2, 1, rtol=1e-12)
    np.testing.assert_allclose(s.alpha_bar * (1 + s.sigma**2), 1, rtol=1e-12)


def test_the_prior_is_a_unit_normal_in_ddpm_form() -> None:
    s = make("linear", 1000)
    std = s.prior_std(float(s.sigma[-1]))
    assert std * s.alpha_bar[-1] ** 0.5 == pytest.approx(1, rel=1e-12)


def test_timestep_is_exact_on_the_table_and_between_its_neighbours_off_it() -> None:
    s = make("cosine", 1000)
    on = s.timestep(torch.from_numpy(s.sigma))
    assert on.tolist() == list(range(1000))
    between = s.timestep(torch.from_numpy((s.sigma[:-1] * s.sigma[1:]) ** 0.5))
    np.testing.assert_allclose(between, np.arange(999) + 0.5, rtol=0, atol=1e-3)
