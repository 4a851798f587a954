"""The noise process and the training objective, as settings."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_cli.core.config.consistency import ConsistencyConfig
from ddpm_cli.core.config.fields import (
    Settings,
    above_zero,
    choice,
    choices,
    finite,
    number,
    setting,
)
from ddpm_cli.core.errors import UsageError

BETA_RANGED = ("linear", "linear-fixed", "quadratic", "sigmoid")  # from beta_min to beta_max
CONTINUOUS = ("edm", "flow")  # schedules of continuous noise levels, without timesteps
SCHEDULES = (*BETA_RANGED, "cosine", "sigmoid-abar", *CONTINUOUS)
PARAMETERISATIONS = ("eps", "x0", "v", "edm", "flow", "x0-skip")
CONSISTENCY = "consistency"  # the loss of what ddpm distill trains
LOSSES = ("l2", "l1", "huber", "vlb")
WEIGHTINGS = {  # their gamma
    "plain": None,
    "min-snr": 5.0,
    "p2": 1.0,
    "edm": None,
    "velocity": 400.0,
    "vlb": 50.0,
    "learned": None,
}
NORMALS = {"log-normal": (-1.2, 1.2), "logit-normal": (0.0, 1.0)}  # mean, std of ln sigma
NOISE_LEVELS = ("uniform", *NORMALS, "importance")

_PANEL = "Diffusion"
_TOO_MANY = 1_000_001  # timesteps: c_noise is float32, and tables of them are held in memory


@dataclass(frozen=True)
class DiffusionConfig(Settings):
    """The noise process, and what the network's output means."""

    schedule: str = setting(
        "linear",
        f"Noise schedule: {choices(SCHEDULES)}. linear is scaled by 1000 / T, linear-fixed is not. "
        "edm and flow have continuous noise levels, and set their own parameterisation and noise "
        "levels.",
        panel=_PANEL,
        check=choice(*SCHEDULES),
    )
    timesteps: int = setting(
        1000,
        "Timesteps T; for edm and flow, the noise levels that sampling chooses from.",
        panel=_PANEL,
        check=number(below=_TOO_MANY),
    )
    parameterisation: str = setting(
        "eps",
        f"What the network predicts: {choices(PARAMETERISATIONS)}.",
        panel=_PANEL,
        check=choice(*PARAMETERISATIONS),
    )
    beta_min: float = setting(
        1e-4,
        f"Variance beta of the first timestep, for {choices(BETA_RANGED)}.",
        panel=_PANEL,
        check=above_zero,
    )
    beta_max: float = setting(0.02, "Variance beta of the last timestep.", panel=_PANEL)
    cosine_offset: float = setting(
        0.008,
        "Offset s of the cosine schedule (Nichol & Dhariwal 2021, equation 17).",
        check=above_zero,
    )
    beta_cap: float = setting(
        0.999, "Largest beta, which keeps alpha_bar above zero (Nichol & Dhariwal 2021)."
    )
    time_scale: float = setting(
        1.0,
        "The network's timesteps are multiplied by this; 1000 / T in improved DDPM.",
        check=above_zero,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta_min <= self.beta_max <= 1:
            raise UsageError(
                f"betas go up from beta_min to beta_max, at most 1; not from {self.beta_min:g} to "
                f"{self.beta_max:g}"
            )
        if not 0 < self.beta_cap < 1:
            raise UsageError(
                f"beta_cap must be more than 0 and less than 1, not {self.beta_cap:g}: a beta of 1 "
                "leaves no signal at all (zero terminal SNR, sigma = infinity)"
            )


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """The training objective, and the noise levels that it is evaluated at."""

    loss: str = setting(
        "l2",
        f"{choices(LOSSES)}: a distance of the network's output to its target, but vlb: the "
        "variational bound itself, in bits/dim.",
        panel=_PANEL,
        check=choice(*LOSSES, CONSISTENCY),
    )
    weighting: str = setting(
        "plain",
        f"Weight of the loss at each noise level: {choices(WEIGHTINGS)}.",
        panel=_PANEL,
        check=choice(*WEIGHTINGS),
    )
    weighting_gamma: float | None = setting(
        None,
        "min-snr's largest SNR, p2's exponent, velocity's and vlb's largest weight.",
        panel=_PANEL,
        default_text="5, 1, 400, 50",
        check=above_zero,
    )
    weighting_k: float = setting(1.0, "P2's k (Choi et al. 2022, equation 8).", check=above_zero)
    vlb_weight: float | None = setting(
        None,
        "Weight of the variational bound (bits/dim) that trains a learned variance.",
        panel=_PANEL,
        default_text="0.001",
        check=above_zero,
    )
    noise_levels: str = setting(
        "uniform",
        "Distribution of the noise levels in training: uniform (timesteps, or flow's t), "
        "log-normal or logit-normal (edm and flow only), or importance: timesteps of large losses "
        "more often.",
        panel=_PANEL,
        check=choice(*NOISE_LEVELS),
    )
    noise_mean: float | None = setting(
        None,
        "Mean of ln sigma, for log-normal and logit-normal.",
        panel=_PANEL,
        default_text="-1.2 log-normal, 0 logit-normal",
        check=finite,
    )
    noise_std: float | None = setting(
        None,
        "Standard deviation of ln sigma.",
        panel=_PANEL,
        default_text="1.2 log-normal, 1 logit-normal",
        check=above_zero,
    )
    consistency: ConsistencyConfig | None = None  # of the loss of that name

    @property
    def is_tuning(self) -> bool:
        """Whether it compares two outputs of the network: consistency tuning."""
        return self.consistency is not None and not self.consistency.calls

    @property
    def gamma(self) -> float:
        """The weighting's gamma: as set, or its paper's."""
        return self.weighting_gamma or WEIGHTINGS[self.weighting] or 0.0

    @property
    def bound_weight(self) -> float:
        """Weight of the variational bound: as set, or that of Nichol & Dhariwal (2021)."""
        return 0.001 if self.vlb_weight is None else self.vlb_weight

    @property
    def normal(self) -> tuple[float, float]:
        """Mean and standard deviation of ln sigma, where training's noise levels are normal."""
        mean, std = NORMALS[self.noise_levels]
        return (
            mean if self.noise_mean is None else self.noise_mean,
            std if self.noise_std is None else self.noise_std,
        )
