"""Noise schedules against the published formulas' values, in float64."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm_cli.core.config.diffusion import CONTINUOUS, SCHEDULES, DiffusionConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.errors import UsageError

STABLE = {"beta_min": 0.00085, "beta_max": 0.012}  # Stable Diffusion's "scaled linear"
LENGTHS = (1, 2, 10, 1000, 4000)

# name, T, settings: beta[0], beta[T/2], beta[-1], abar[0], abar[T/2-1], abar[T/2], abar[-1]
GOLDEN = [
    ("linear", 1000, {}, (
        1e-4, 0.01005995996, 0.02, 0.9999, 0.07858724288, 0.07779665837, 4.035829765e-05
    )),
    ("linear", 4000, {}, (
        2.5e-5, 0.002513122031, 0.005, 0.999975, 0.07894487332, 0.07874647522, 4.246652276e-05
    )),
    ("cosine", 1000, {}, (
        4.128422482e-05, 0.003155691442, 0.999, 0.9999587158, 0.4938435904, 0.4922851724,
        2.428766907e-09,
    )),
    ("cosine", 4000, {}, (
        9.865818814e-06, 0.0007889355535, 0.999, 0.9999901342, 0.4938435904, 0.4934539797,
        1.517980469e-10,
    )),
    ("quadratic", 1000, {}, (
        1e-4, 0.005742071068, 0.02, 0.9999, 0.3331877674, 0.3312745795, 0.0007334124596
    )),
    ("quadratic", 1000, STABLE, (
        0.00085, 0.004814954142, 0.012, 0.99915, 0.2776696505, 0.2763326838, 0.004660098513
    )),
    ("sigmoid", 1000, {}, (
        0.0001492052008, 0.01007987979, 0.0199507948, 0.9998507948, 0.3019310566, 0.2988876278,
        3.968181991e-05,
    )),
    ("sigmoid-abar", 1000, {}, (
        0.0003002791997, 0.003314364236, 0.999, 0.9996997208, 0.5, 0.4983428179, 3.002791997e-07
    )),
]  # fmt: skip


def make(name: str, timesteps: int, **settings: float) -> schedules.Schedule:
    return schedules.from_config(DiffusionConfig(name, timesteps, **settings))


@pytest.mark.parametrize(("name", "timesteps", "settings", "golden"), GOLDEN)
def test_golden_values(
    name: str, timesteps: int, settings: dict[str, float], golden: tuple[float, ...]
) -> None:
    s, half = make(name, timesteps, **settings), timesteps // 2
    values = (*s.beta[[0, half, -1]], *s.alpha_bar[[0, half - 1, half, -1]])
    # The golden values are printed with ten digits.
    np.testing.assert_allclose(values, golden, rtol=1e-9)


def test_linear_scales_with_the_number_of_timesteps_and_linear_fixed_does_not() -> None:
    np.testing.assert_allclose(make("linear", 1000).beta, make("linear-fixed", 1000).beta)
    np.testing.assert_allclose(make("linear", 500).beta[[0, -1]], (2e-4, 0.04))
    np.testing.assert_allclose(make("linear-fixed", 500).beta[[0, -1]], (1e-4, 0.02))
    np.testing.assert_allclose(make("linear", 1000, beta_max=0.01).beta[-1], 0.01)


def test_cosines_offset_and_cap() -> None:
    s, T = 0.1, 50
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    made = make("cosine", T, cosine_offset=s, beta_cap=0.5)
    expected = [min(1 - b / a, 0.5) for a, b in pairwise(f)]
    np.testing.assert_allclose(made.beta, expected, rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_every_length_is_a_noise_schedule(name: str, timesteps: int) -> None:
    s = make(name, timesteps)
    assert len(s) == timesteps
    assert ((s.beta > 0) & (s.beta < 1)).all()
    assert (np.diff(s.sigma) > 0).all()
    assert np.isfinite(s.sigma).all()
    np.testing.assert_allclose(np.cumprod(1 - s.beta), s.alpha_bar, rtol=1e-9)
    np.testing.assert_allclose(s.snr * s.sigma**2, 1, rtol=1e-12)
    np.testing.assert_allclose(s.alpha_bar * (1 + s.sigma**2), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta_cap": 1.0}, "zero terminal SNR"),
        ({"beta_min": 0.03}, "from 0.03 to 0.02"),
        ({"beta_min": 0.0}, "--beta-min must be more than 0"),
        ({"beta_max": math.nan}, "at most 1"),
        ({"schedule": "zero-snr"}, "sigmoid-abar"),
        ({"timesteps": 10**12}, "--timesteps must be more than 0 and less than 1000001"),
    ],
)
def test_invalid_schedules_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DiffusionConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "timesteps", "settings"),
    [
        ("linear", 1000, {}),
        ("linear", 1000, {"beta_min": 1e-17}),
        ("linear", 1, {"beta_max": 0.999999}),
        ("linear-fixed", 16_000, {}),
        ("cosine", 1, {}),
        ("cosine", 4, {}),
        ("quadratic", 50, {"beta_min": 1e-17, "beta_max": 1e-17}),
    ],
)
def test_noise_levels_keep_their_digits_at_both_ends(
    name: str, timesteps: int, settings: dict[str, float]
) -> None:
    """sigma^2 = (1 - abar) / abar with 400 digits."""
    config = DiffusionConfig(name, timesteps, **settings)  # type: ignore[arg-type]
    expected, abar = [], Decimal(1)
    with localcontext(prec=400):
        for beta in schedules.capped_betas(config).tolist():
            abar *= 1 - Decimal(beta)
            expected.append(float(((1 - abar) / abar).sqrt()))
    made = schedules.from_config(config)
    np.testing.assert_allclose(made.sigma, expected, rtol=1e-12)
    assert (np.diff(made.sigma) > 0).all()
    np.testing.assert_allclose(made.beta, schedules.capped_betas(config), rtol=1e-9)


def test_a_schedule_without_signal_at_its_end_is_refused() -> None:
    with pytest.raises(UsageError, match="zero terminal SNR, sigma = infinity"):
        make("linear-fixed", 4000, beta_max=0.999)  # abar underflows
    with pytest.raises(UsageError, match="zero terminal SNR"):
        schedules.from_betas("mine", np.array([0.1, 1.0]))
    with pytest.raises(UsageError, match="betas that are not above 0 and at most 1"):
        schedules.from_betas("mine", np.array([0.1, 1.5]))
    with pytest.raises(UsageError, match=r"starts with sigma = 1\.0e-150.*larger --beta-min"):
        make("linear", 1000, beta_min=1e-300)


@pytest.mark.parametrize("name", ["linear-fixed", "quadratic", "sigmoid"])
def test_the_refusal_names_the_largest_number_of_timesteps(name: str) -> None:
    with pytest.raises(UsageError, match=f"schedule {name} with 100000 timesteps") as refused:
        make(name, 100_000)
    largest = int(str(refused.value).split("--timesteps ")[1].split()[0])
    assert 1e36 < make(name, largest).sigma[-1] < 1e37
    with pytest.raises(UsageError, match="float32 computes up to 1e\\+37"):
        make(name, largest + 1)


@pytest.mark.parametrize(
    ("config", "notice"),
    [
        (DiffusionConfig("linear", 1000), None),
        (DiffusionConfig("linear", 10), "linear: 5 betas are clipped to 0.999: 10 timesteps are"),
        (DiffusionConfig("linear", 2), "linear: 1 beta is clipped to 0.999: 2 timesteps are too"),
        (DiffusionConfig("cosine", 1), None),  # its last beta is 1 by definition
        (
            DiffusionConfig("cosine", 50, beta_cap=0.5),
            "clipped to 0.5: 50 timesteps are too few",
        ),
        (
            DiffusionConfig("linear-fixed", 100, beta_max=1.0),
            "1 beta is clipped to 0.999: lower --beta-max",
        ),
        (DiffusionConfig("edm", 2), None),
    ],
)
def test_clipped_betas_are_said(config: DiffusionConfig, notice: str | None) -> None:
    beta = schedules.from_config(config).beta
    said = schedules.clipping_notice(config.schedule, beta, config.beta_cap)
    assert said is None if notice is None else notice in (said or "")


def test_edms_table_is_karras_grid() -> None:
    published = [
        80.0,
        57.58598,
        40.78557,
        28.37458,
        19.35245,
        12.91008,
        8.400935,
        5.315195,
        3.256822,
    ]
    published += [1.92334, 1.088171, 0.5853481, 0.2964423, 0.1395165, 0.05994731, 0.02293452]
    published += [0.00752802, 0.002]  # fmt: skip
    np.testing.assert_allclose(make("edm", 18).sigma[::-1], published, rtol=1e-6)


def test_flows_table_is_even_in_its_time() -> None:
    sigma = make("flow", 9).sigma
    np.testing.assert_allclose(sigma / (1 + sigma), np.arange(1, 10) / 10, rtol=1e-12)


def test_the_prior_is_a_unit_normal_in_ddpm_form_and_pure_noise_in_edms() -> None:
    s = make("linear", 1000)
    std = s.prior_std(float(s.sigma[-1]))
    assert std * s.alpha_bar[-1] ** 0.5 == pytest.approx(1, rel=1e-12)
    assert make("edm", 18).prior_std(80.0) == 80


def test_c_noise_of_continuous_levels() -> None:
    sigma = torch.tensor([0.002, 0.5, 1.0, 80.0], dtype=torch.float64)
    published = [
        -1.5536520246055479,
        -0.17328679513998632,
        0.0,
        1.0955066586684703,
    ]  # ln(sigma) / 4
    torch.testing.assert_close(make("edm", 18).c_noise(sigma), torch.tensor(published))
    expected = torch.tensor([1000 * s / (1 + s) for s in sigma.tolist()])  # 1000 t
    torch.testing.assert_close(make("flow", 18).c_noise(sigma), expected)


def test_timestep_is_exact_on_the_table_and_between_its_neighbours_off_it() -> None:
    s = make("cosine", 1000)
    on = s.timestep(torch.from_numpy(s.sigma))
    assert on.tolist() == list(range(1000))
    between = s.timestep(torch.from_numpy((s.sigma[:-1] * s.sigma[1:]) ** 0.5))
    np.testing.assert_allclose(between, np.arange(999) + 0.5, rtol=0, atol=1e-3)


@given(name=st.sampled_from(SCHEDULES), total=st.integers(1, 300), u=st.floats(1e-5, 1 - 1e-5))
def test_any_u_gives_a_noise_level(name: str, total: int, u: float) -> None:
    s = make(name, total)
    level = s.sigma_at(torch.tensor([u], dtype=torch.float64))
    assert 0 < level.item() < math.inf
    assert s.c_noise(level).isfinite().all()
    if name not in CONTINUOUS:
        t = int(u * total)
        assert level.item() == s.sigma[t]
        assert s.below(level).item() == (s.sigma[t - 1] if t else 0)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid-abar", "edm", "flow"])
@pytest.mark.parametrize("total", [4, 1000, 4000])
def test_levels_of_the_table_are_found_in_any_precision(name: str, total: int) -> None:
    """A rounded level is still that level: float32 rounds up or down."""
    s = make(name, total)
    exact = torch.from_numpy(s.sigma)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), exact[:-1]])
    assert torch.equal(s.below(exact), below)
    assert torch.equal(s.below(exact.float()), below)
    history = LossHistory(s)
    history.record(exact.float(), torch.arange(1.0, total + 1))
    assert history.state_dict()["losses"][:, 0].tolist() == list(range(1, total + 1))


@pytest.mark.parametrize("factor", [0.5, 1.0001, 2.0])
def test_levels_off_the_table_have_no_level_below(factor: float) -> None:
    s = make("linear", 1000)
    level = torch.tensor([factor * s.sigma[500], s.sigma[3]], dtype=torch.float64)
    with pytest.raises(ValueError, match="not a level of schedule linear"):
        s.below(level)
