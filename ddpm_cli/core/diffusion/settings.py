"""Settings of the samplers, validated and free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from operator import index
from typing import Any

from ddpm_cli.core.config.fields import (
    Check,
    Settings,
    above_zero,
    at_least_zero,
    choice,
    choices,
    each,
    parse_numbers,
    setting,
    shortened,
)
from ddpm_cli.core.errors import UsageError

ODE_SOLVERS = ("euler", "heun", "dpmpp-2m", "dpmpp-3m", "ipndm")  # of the probability flow ODE
SDE_SOLVERS = ("dpmpp-2m-sde", "dpmpp-3m-sde")  # of the reverse SDE
SOLVERS = (*ODE_SOLVERS, *SDE_SOLVERS)
CONSISTENCY = "consistency"  # of the models of ddpm distill
SAMPLERS = ("ddim", "ddpm", *SOLVERS, CONSISTENCY)
SPACINGS = ("trailing", "leading", "linspace", "quadratic", "beta", "karras", "exponential")
FINAL_SIGMAS = ("zero", "sigma-min")
VARIANCES = ("fixed-small", "fixed-large", "learned")
THRESHOLDS = ("static", "dynamic", "none")

_STEPS, _STEPS_OF_CONSISTENCY = 50, 2
_PANEL = "Sampling"


class NoEffectError(UsageError):
    """Settings that have none beside the others."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


def _descending(check: Check) -> Check:
    """Allow tuples of descending values that pass a check."""

    def check_all(name: str, values: tuple[float, ...]) -> None:
        each(check)(name, values)
        if any(high <= low for high, low in pairwise(values)):
            listed = ",".join(f"{value:g}" for value in values)
            raise UsageError(f"{name} {listed} should descend, from the most noise to the least")

    return check_all


@dataclass(frozen=True)
class Sampling(Settings):
    """Sampler settings; the defaults are deterministic DDIM. What is None is set by the sampler."""

    steps: int = setting(
        None,
        "Denoising steps, 1 to the model's number of timesteps.",
        unit="steps",
        panel=_PANEL,
        default_text="50, or all where there are fewer; of a student its calls, or 2",
        check=above_zero,
    )
    eta: float = setting(
        None,
        "Noise added in each step: 0 is DDIM, 1 is DDPM's ancestral sampling.",
        panel=_PANEL,
        default_text="0 for ddim, 1 for ddpm and the SDE's solvers",
    )
    guidance: float = setting(
        1.0,
        "Classifier-free guidance x0_null + g (x0_conditional - x0_null), given a class or a "
        "prompt: 1 is the conditional model, 0 the unconditional one, more is stronger. (The "
        "paper's w is g - 1.)",
        panel=_PANEL,
    )
    guide: str | None = setting(
        None,
        "Guide by a worse model of the same images, with or without classes (autoguidance): a run, "
        "weights file or snapshot, or early, an earlier state of this training. --guidance is then "
        "its weight w: x0_guide + w (x0 - x0_guide), 1 is the model alone.",
        panel=_PANEL,
        default_text="none",
    )
    class_guidance: float = setting(
        1.0,
        "With --guide: classifier-free guidance beside it, g as --guidance is without; 0 leaves "
        "class and prompt out of both models, at all noise levels.",
        panel=_PANEL,
    )
    guidance_learned: bool = setting(
        False, "Guidance is a condition of the network, which learned a guided teacher's outputs."
    )
    spacing: str = setting(
        None,
        "Which noise levels the steps visit: trailing (timesteps evenly apart from the very last), "
        "leading, linspace, quadratic (dense where there is little noise), beta (dense at both "
        "ends), or, from 80 at most, karras (EDM's rho 7) or exponential (even in log sigma).",
        panel=_PANEL,
        default_text="trailing for ddim and ddpm, else karras",
        check=choice(*SPACINGS),
    )
    timesteps: tuple[int, ...] = setting(
        (),
        "Visit these timesteps, such as 999,750,500,250, instead of --steps and --spacing.",
        panel=_PANEL,
        parse=parse_numbers(int, "--timesteps", "timesteps such as 999,750,500,250"),
        check=_descending(at_least_zero),
    )
    sigmas: tuple[float, ...] = setting(
        (),
        "Visit these noise levels, such as 80,20,5,1,0.2.",
        panel=_PANEL,
        parse=parse_numbers(float, "--sigmas", "noise levels such as 80,20,5,1,0.2"),
        check=_descending(above_zero),
    )
    sections: tuple[int, ...] = setting(
        (),
        "Steps in each of equal sections of the timesteps, the least noisy first, such as 10,15,20 "
        "(improved DDPM).",
        panel=_PANEL,
        parse=parse_numbers(int, "--sections", "steps of each section, such as 10,15,20"),
        check=each(above_zero),
    )
    final_sigma: str = setting(
        "zero",
        "Where the last step ends: zero, or sigma-min, the model's smallest noise level.",
        panel=_PANEL,
        check=choice(*FINAL_SIGMAS),
    )
    sampler: str = setting(
        "ddim",
        "ddim or ddpm (the same as --eta 1); or solvers, from a noise level of 80 at most: of the "
        f"probability flow ODE {choices(ODE_SOLVERS)}; of the reverse SDE {choices(SDE_SOLVERS)}. "
        "consistency, in the few steps that were learned, is for models of ddpm distill, whose "
        "default it is.",
        panel=_PANEL,
        check=choice(*SAMPLERS),
    )
    variance: str = setting(
        "fixed-small",
        "Variance of the noise added: fixed-small (the posterior's), fixed-large (beta's), or "
        "learned, for models that learned one.",
        panel=_PANEL,
        check=choice(*VARIANCES),
    )
    unclipped_eps: bool = setting(
        False,
        "ddim's direction from the network's own noise, as diffusers' DDIM by default, not from "
        "that of the thresholded x0.",
        panel=_PANEL,
        option="--unclipped-eps",
    )
    s_churn: float = setting(
        0.0,
        "Stochastic heun's noise, over all steps; 0: none (Karras et al. 2022, algorithm 2).",
        panel=_PANEL,
    )
    s_min: float = setting(0.0, "Lowest noise level with churn.", panel=_PANEL)
    s_max: float = setting(
        math.inf, "Highest noise level with churn.", panel=_PANEL, default_text="no limit"
    )
    s_noise: float = setting(1.0, "Standard deviation of the noise that churn adds.", panel=_PANEL)
    threshold: str = setting(
        "static",
        "Keep x0 within [-1, 1]: static (clip), dynamic (shrink, then clip: for strong guidance) "
        "or none.",
        panel=_PANEL,
        check=choice(*THRESHOLDS),
    )
    guidance_interval: tuple[float, float] = setting(
        (0.0, math.inf),
        "LOW,HIGH: guide only at noise levels LOW < sigma <= HIGH, such as 0.3,5.",
        panel=_PANEL,
        parse=parse_numbers(float, "--guidance-interval", "two noise levels, such as 0.3,5", 2),
        default_text="all noise levels",
    )
    guidance_rescale: float = setting(
        0.0,
        "Bring the guided x0's contrast back to the conditional model's: 0 not, 1 entirely (phi of "
        "Lin et al. 2024, equation 16).",
        panel=_PANEL,
    )

    def __post_init__(self) -> None:
        for name, kind in (("timesteps", index), ("sigmas", float), ("sections", index)):
            try:
                object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
            except (TypeError, ValueError) as error:
                what = "whole numbers" if kind is index else "numbers"
                given = shortened(getattr(self, name))
                raise UsageError(f"--{name} takes {what}, not {given}") from error
        if len(self.sigmas) > 1 and self.sigmas[-1] == 0:  # where samplers end by themselves
            object.__setattr__(self, "sigmas", self.sigmas[:-1])
        chosen = self._chosen_steps()
        for name, value in (
            ("eta", float(self.sampler in ("ddpm", *SDE_SOLVERS))),
            ("spacing", None if chosen else default_spacing(self.sampler)),
            ("steps", sum(chosen.values()) or None),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        self._check_ranges()
        self._check_fit()

    def with_default_steps(self, timesteps: int) -> Sampling:
        """These settings with `steps` set, for a model of so many timesteps."""
        usual = _STEPS_OF_CONSISTENCY if self.sampler == CONSISTENCY else _STEPS
        steps = min(usual, timesteps) if self.steps is None else self.steps
        return replace(self, steps=steps)

    @property
    def class_weight(self) -> float:
        """The scale g of classifier-free guidance; 1 where the network is told it."""
        if self.guidance_learned:
            return 1.0
        return self.guidance if self.guide is None else self.class_guidance

    @property
    def guide_weight(self) -> float:
        """The weight w of a guide; 1 without one."""
        return 1.0 if self.guide is None else self.guidance

    def with_class_weight(self, scale: float) -> Sampling:
        """These settings at another scale of classifier-free guidance."""
        if self.guide is None:
            return replace(self, guidance=scale)
        return replace(self, class_guidance=scale)

    def without_guide(self) -> Sampling:
        """These settings for a model that has no guide: what is left is classifier-free."""
        if self.guide is None:
            return self
        settings: dict[str, Any] = {"guidance": self.class_guidance, "class_guidance": 1.0}
        if self.class_guidance in (0, 1):
            settings |= {"guidance_interval": (0.0, math.inf), "guidance_rescale": 0.0}
        return replace(self, guide=None, **settings)

    @property
    def _mixes(self) -> bool:
        """Whether D is a mixture anywhere: the unconditional model of a scale of 0 is none."""
        return self.class_weight not in (0, 1) or self.guide_weight != 1

    def is_guided_at(self, sigma: float) -> bool:
        """Whether guidance is active at a noise level (Kynkäänniemi et al. 2024, equation 5)."""
        low, high = self.guidance_interval
        return self._mixes and low < sigma <= high

    def calls_at(self, sigma: float) -> int:
        """Network calls for an image at a noise level, those of a guide among them."""
        if not self.is_guided_at(sigma):
            return 1
        return 1 + (self.class_weight not in (0, 1)) + (self.guide_weight != 1)

    def _chosen_steps(self) -> dict[str, int]:
        """The setting that chooses the steps one by one, and their number; empty without one."""
        counts = {
            "timesteps": len(self.timesteps),
            "sigmas": len(self.sigmas),
            "sections": sum(self.sections),
        }
        return {name: count for name, count in counts.items() if count}

    def document(self) -> dict[str, Any]:
        """The settings as JSON values, but for what the model says: pairs as lists.

        Infinity is None.
        """
        names = (field.name for field in fields(self) if field.name != "guidance_learned")
        return {name: _plain(getattr(self, name)) for name in names}

    def _check_ranges(self) -> None:
        low, high = self.guidance_interval
        for valid, message in (
            (0 <= self.eta <= 1, f"--eta must be between 0 (DDIM) and 1 (DDPM), not {self.eta:g}"),
            (0 <= self.guidance < math.inf, f"--guidance must be 0 or more, not {self.guidance:g}"),
            (
                0 <= self.class_guidance < math.inf,
                f"--class-guidance must be 0 or more, not {self.class_guidance:g}",
            ),
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
        chosen = self._chosen_steps()
        choosing, count = " and ".join(f"--{name}" for name in chosen), sum(chosen.values())
        for unused, names, message in (
            (len(chosen) > 1, "", f"{choosing} each choose the steps; give one of them"),
            (
                bool(chosen) and self.spacing is not None,
                "spacing",
                f"--spacing {self.spacing} has no meaning with {choosing}",
            ),
            (
                bool(chosen) and self.steps != count,
                "steps",
                f"{choosing} gives {count} steps, not --steps {self.steps}; leave --steps out",
            ),
            (
                self.sampler == "ddpm" and self.eta != 1,
                "eta",
                f"--sampler ddpm is --eta 1 and cannot take --eta {self.eta:g}; use --sampler ddim",
            ),
            (
                self.sampler == CONSISTENCY and self.spacing is not None,
                "spacing",
                f"--sampler {CONSISTENCY} takes no --spacing; --sigmas chooses its noise levels",
            ),
            (
                self.sampler in (*ODE_SOLVERS, CONSISTENCY) and self.eta != 0,
                "eta",
                f"--sampler {self.sampler} takes no --eta; use --sampler ddim",
            ),
            (
                self.sampler in SDE_SOLVERS and self.variance != "fixed-small",
                "variance",
                f"--sampler {self.sampler} takes no --variance; use --sampler ddpm or ddim",
            ),
            (
                self.unclipped_eps and self.sampler != "ddim",
                "unclipped_eps",
                f"--sampler {self.sampler} takes no --unclipped-eps; use --sampler ddim",
            ),
            (
                self.unclipped_eps and self.threshold == "none",
                "unclipped_eps",
                "--unclipped-eps has no meaning with --threshold none, which clips nothing",
            ),
            (
                self.eta == 0 and self.variance != "fixed-small",
                "variance",
                f"--variance {self.variance} is of added noise, and there is none at --eta 0; "
                "use --sampler ddpm, or ddim with --eta",
            ),
            (
                self.sampler != "heun" and self.s_churn != 0,
                "s_churn s_min s_max s_noise",
                f"--sampler {self.sampler} takes no --s-churn; use --sampler heun",
            ),
            (
                self.s_churn == 0 and churn != (0, math.inf, 1),
                "s_min s_max s_noise",
                "--s-min, --s-max and --s-noise have no meaning without --s-churn",
            ),
            (
                self.guide is None and self.class_guidance != 1,
                "class_guidance",
                "--class-guidance is beside a guide's; without --guide give --guidance",
            ),
            (
                not self._mixes and self.guidance_interval != (0, math.inf),
                "guidance_interval",
                f"--guidance-interval has no meaning at --guidance {self.guidance:g}, which is "
                "one model alone",
            ),
            (
                not self._mixes and self.guidance_rescale != 0,
                "guidance_rescale",
                f"--guidance-rescale has no meaning at --guidance {self.guidance:g}",
            ),
        ):
            if unused:
                raise NoEffectError(message, tuple(names.split()))


def default_spacing(sampler: str) -> str | None:
    """The default spacing of a sampler; None of one that has noise levels of its own."""
    if sampler == CONSISTENCY:
        return None
    return "karras" if sampler in SOLVERS else "trailing"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if value == math.inf else value
