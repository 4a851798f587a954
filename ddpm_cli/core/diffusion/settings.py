"""Settings of the samplers, validated and free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ddpm_cli.core.errors import UsageError

SAMPLERS = ("ddim", "ddpm", "euler", "heun", "dpmpp-2m", "ipndm")
SPACINGS = ("trailing", "leading", "linspace", "quadratic", "karras")
VARIANCES = ("fixed-small", "fixed-large", "learned")
THRESHOLDS = ("static", "dynamic", "none")

_STEPS = 50


@dataclass(frozen=True)
class Sampling:
    """Sampler settings. The defaults are deterministic DDIM."""

    steps: int = 0  # 0: 50, or the model's timesteps where it has fewer
    eta: float = 0.0  # 0: DDIM, 1: DDPM's ancestral sampling
    guidance: float = 1.0  # guidance scale; 1: the conditional model, unguided
    spacing: str = "trailing"
    sampler: str = "ddim"
    variance: str = "fixed-small"  # of the noise added in each step, where eta > 0
    s_churn: float = 0.0  # of stochastic Heun (Karras et al. 2022, algorithm 2)
    s_min: float = 0.0  # noise levels with churn
    s_max: float = math.inf
    s_noise: float = 1.0  # standard deviation of the noise that churn adds
    threshold: str = "static"  # how x0 is kept in [-1, 1]
    guidance_interval: tuple[float, float] = (0.0, math.inf)  # noise levels with guidance
    guidance_rescale: float = 0.0  # phi of Lin et al. (2024), equation 16

    def __post_init__(self) -> None:
        for name, known in (
            ("sampler", SAMPLERS),
            ("spacing", SPACINGS),
            ("variance", VARIANCES),
            ("threshold", THRESHOLDS),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"--{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        self._check_ranges()
        self._check_fit()

    @property
    def solves_ode(self) -> bool:
        """Whether the sampler is a solver of the probability flow ODE."""
        return _solves_ode(self.sampler)

    def with_default_steps(self, timesteps: int) -> Sampling:
        """These settings with `steps` set, for a model of so many timesteps."""
        return self if self.steps else replace(self, steps=min(_STEPS, timesteps))

    def is_guided_at(self, sigma: float) -> bool:
        """Whether guidance is active at a noise level (Kynkäänniemi et al. 2024, equation 5)."""
        low, high = self.guidance_interval
        return self.guidance != 1 and low < sigma <= high

    def document(self) -> dict[str, Any]:
        """The settings as JSON values: pairs as lists, infinity as None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def _check_ranges(self) -> None:
        low, high = self.guidance_interval
        for valid, message in (
            (0 <= self.eta <= 1, f"--eta must be between 0 (DDIM) and 1 (DDPM), not {self.eta:g}"),
            (0 <= self.guidance < math.inf, f"--guidance must be 0 or more, not {self.guidance:g}"),
            (
                0 <= self.guidance_rescale <= 1,
                f"--guidance-rescale must be between 0 and 1, not {self.guidance_rescale:g}",
            ),
            (0 <= low < high, f"--guidance-interval {low:g},{high:g} is empty: 0 <= LOW < HIGH"),
            (0 <= self.s_churn < math.inf, f"--s-churn must be 0 or more, not {self.s_churn:g}"),
            (self.s_min >= 0, f"--s-min must be 0 or more, not {self.s_min:g}"),
            (self.s_min < self.s_max, f"--s-min {self.s_min:g} is not below --s-max"),
            (0 < self.s_noise < math.inf, f"--s-noise must be more than 0, not {self.s_noise:g}"),
        ):
            if not valid:
                raise UsageError(message)

    def _check_fit(self) -> None:
        """Refuse settings that would have no effect."""
        churn = (self.s_min, self.s_max, self.s_noise)
        for unused, message in (
            (
                self.sampler == "ddpm" and self.eta != 1,
                f"--sampler ddpm is --eta 1 and cannot take --eta {self.eta:g}; use --sampler ddim",
            ),
            (
                self.solves_ode and self.eta != 0,
                f"--sampler {self.sampler} takes no --eta; use --sampler ddim",
            ),
            (
                self.eta == 0 and self.variance != "fixed-small",
                f"--variance {self.variance} is of added noise, and there is none at --eta 0; "
                "use --sampler ddpm, or ddim with --eta",
            ),
            (
                self.sampler != "heun" and self.s_churn != 0,
                f"--sampler {self.sampler} takes no --s-churn; use --sampler heun",
            ),
            (
                self.s_churn == 0 and churn != (0, math.inf, 1),
                "--s-min, --s-max and --s-noise have no meaning without --s-churn",
            ),
            (
                self.guidance == 1 and self.guidance_interval != (0, math.inf),
                "--guidance-interval has no meaning at --guidance 1, which is no guidance",
            ),
            (
                self.guidance in (0, 1) and self.guidance_rescale != 0,
                f"--guidance-rescale has no meaning at --guidance {self.guidance:g}",
            ),
        ):
            if unused:
                raise UsageError(message)


def default_spacing(sampler: str) -> str:
    """The default spacing of a sampler."""
    return "karras" if _solves_ode(sampler) else "trailing"


def _solves_ode(sampler: str) -> bool:
    return sampler not in ("ddim", "ddpm")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if value == math.inf else value
