"""Configs of diffusers' DDPM schedulers <-> DiffusionConfig."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ddpm_cli.core.config.diffusion import BETA_RANGED, DiffusionConfig
from ddpm_cli.core.config.serialisation import from_dict
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.schedules import Table
from ddpm_cli.core.errors import DdpmError

_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_NAMED = ("linear", "scaled_linear", "squaredcos_cap_v2")  # known to all of diffusers' schedulers
_TOLERANCE = 1e-5  # of betas, relative: diffusers computes them in float32


@dataclass(frozen=True)
class SchedulerConfig:
    """A scheduler_config.json's settings of training: diffusers' names and defaults."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    variance_type: str | None = "fixed_small"  # None: of schedulers that draw no noise
    rescale_betas_zero_snr: bool = False


def read(document: dict[str, Any], where: str) -> SchedulerConfig:
    """Read a scheduler_config.json; settings of sampling are ignored. Raises DdpmError."""
    if "beta_schedule" not in document:
        raise DdpmError(
            f"{where} is of {document.get('_class_name')}, which has no betas: not of a DDPM"
        )
    known = {field.name for field in fields(SchedulerConfig)}
    return from_dict(SchedulerConfig, {k: v for k, v in document.items() if k in known}, where)


def to_diffusion(theirs: SchedulerConfig) -> DiffusionConfig:
    """The DiffusionConfig of the same betas. Raises DdpmError where no schedule has them."""
    if theirs.prediction_type not in _PREDICTIONS:
        raise DdpmError(
            f"prediction_type {theirs.prediction_type!r} is not supported; supported: "
            f"{', '.join(_PREDICTIONS)}"
        )
    betas = _betas(theirs)
    where = "its trained_betas"
    if theirs.trained_betas is None:
        named = f"{theirs.beta_start:g} to beta_end {theirs.beta_end:g}"
        where = f"its beta_schedule {theirs.beta_schedule!r} with beta_start {named}"
    if not np.all((betas > 0) & (betas < 1)):
        raise DdpmError(
            f"{where} gives betas from {betas.min():g} to {betas.max():g}; those of a DDPM lie "
            "between 0 and 1"
        )
    for candidate in _candidates(theirs, betas):
        if np.allclose(schedules.capped_betas(candidate), betas, rtol=_TOLERANCE, atol=0):
            return candidate
    raise DdpmError(
        f"{where} gives the betas of none of our schedules ({', '.join(schedules.BETAS)})"
    )


def from_diffusion(ours: DiffusionConfig, *, learned_variance: bool) -> SchedulerConfig:
    """The SchedulerConfig of the same betas. Raises DdpmError for what is not a DDPM."""
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    for name, unsupported, fix in (
        ("schedule", ours.schedule not in schedules.BETAS, "--schedule linear or cosine"),
        (
            "parameterisation",
            ours.parameterisation not in predictions,
            "--parameterisation eps, x0 or v",
        ),
        ("time_scale", ours.time_scale != 1, "time_scale 1 in --config"),
    ):
        if unsupported:
            raise DdpmError(
                f"diffusers' DDPMScheduler has no counterpart for {name} {getattr(ours, name)}; to "
                f"export, train with {fix}"
            )
    scale = 1000 / ours.timesteps if ours.schedule == "linear" else 1
    base = SchedulerConfig(
        num_train_timesteps=ours.timesteps,
        beta_start=scale * ours.beta_min,
        beta_end=scale * ours.beta_max,
        prediction_type=predictions[ours.parameterisation],
        variance_type="learned_range" if learned_variance else "fixed_small",
    )
    table = schedules.capped_betas(ours)
    for name in _NAMED:
        candidate = replace(base, beta_schedule=name)
        if np.allclose(_betas(candidate), table, rtol=_TOLERANCE, atol=0):
            return candidate
    return replace(base, trained_betas=tuple(table.tolist()))


def _betas(c: SchedulerConfig) -> Table:
    """Betas (T,) by diffusers' formulas. Raises DdpmError for unknown schedules."""
    count, low, high = c.num_train_timesteps, c.beta_start, c.beta_end
    if c.rescale_betas_zero_snr:
        raise DdpmError(
            "rescale_betas_zero_snr leaves no signal at the last timestep (zero terminal SNR, "
            "sigma = infinity); our noise levels are finite"
        )
    if c.trained_betas is not None:
        return np.array(c.trained_betas, dtype=np.float64)
    if c.beta_schedule == "linear":
        return np.linspace(low, high, count)
    if c.beta_schedule == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, count) ** 2
    if c.beta_schedule == "sigmoid":
        ramp: Table = 1 / (1 + np.exp(-np.linspace(-6, 6, count)))
        return low + (high - low) * ramp
    if c.beta_schedule == "squaredcos_cap_v2":
        angles = (np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2
        alpha_bar: Table = np.cos(angles) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    raise DdpmError(
        f"beta_schedule {c.beta_schedule!r} is not supported; supported: "
        f"{', '.join(_NAMED)}, sigmoid"
    )


def _candidates(theirs: SchedulerConfig, betas: Table) -> Iterator[DiffusionConfig]:
    """Configs that may have these betas: with default, given and actual first and last betas."""
    default = DiffusionConfig(
        timesteps=len(betas), parameterisation=_PREDICTIONS[theirs.prediction_type]
    )
    for schedule in schedules.BETAS:
        yield replace(default, schedule=schedule)
    for low, high in ((theirs.beta_start, theirs.beta_end), (betas[0], betas[-1])):
        for schedule in BETA_RANGED if 0 < low <= high <= 1 else ():
            yield replace(default, schedule=schedule, beta_min=float(low), beta_max=float(high))
