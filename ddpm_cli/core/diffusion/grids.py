"""The noise levels that a sampler visits: some of the schedule's, between them, or given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule, Table
from ddpm_cli.core.errors import UsageError

# Karras et al. (2022), table 1. The cosine schedule starts at 20,291 and goes to 642 in one step.
ODE_SIGMA_MAX = 80.0

_BETWEEN = (0.1125, 20.0)  # the levels between which consistency models add noise again

_RHO = 7  # Karras et al. (2022), equation 5
_BETA = 0.6  # both parameters (Lee et al. 2024, "Beta sampling is all you need")
_ROUNDING = 1e-9  # relative, of levels computed by powers
_TYPED = 1e-3  # relative, of levels typed by hand: the smallest of linear is 0.01000050


def sigmas(
    schedule: Schedule,
    steps: int,
    spacing: str = "trailing",
    largest: float = math.inf,
    final: float = 0.0,
) -> Tensor:
    """The noise levels to visit and the `final` one: float64 (steps + 1,), descending.

    They are the schedule's own, unless the first is above `largest`: then the timesteps are scaled
    so that the first is at that level. `karras` and `exponential` lie between the schedule's
    smallest and largest level, at most 80; `beta` between timesteps. Where a spacing ends at
    `final` itself, that is the last of steps + 1 levels. Raises UsageError where the schedule has
    fewer timesteps.
    """
    total = len(schedule)
    if not 1 <= steps <= total - (final > 0):
        less = ", less one with --final-sigma sigma-min" if final > 0 else ""
        raise UsageError(
            f"--steps must be between 1 and the model's {total} timesteps{less}, not {steps}"
        )
    visited = _spaced(schedule, steps, spacing, largest)
    if visited[-1] <= final * (1 + _ROUNDING):
        visited = _spaced(schedule, steps + 1, spacing, largest)[:-1]
    return ending_at(final, visited)


def of_consistency(schedule: Schedule, steps: int) -> Table:
    """The noise levels of so many steps of a consistency model, descending: (steps,).

    The first is the largest, at most 80, the others lie evenly in log sigma between 20 and 0.11: so
    of two steps the second is at 1.5 (Geng et al. 2024 choose 0.82). Raises UsageError where
    there are more steps than timesteps.
    """
    if not 1 <= steps <= len(schedule):
        raise UsageError(
            f"--steps must be between 1 and the model's {len(schedule)} timesteps, not {steps}"
        )
    least, largest = float(schedule.sigma[0]), min(ODE_SIGMA_MAX, float(schedule.sigma[-1]))
    low, high = (min(max(level, least), largest) for level in _BETWEEN)
    return np.append(largest, np.geomspace(high, low, steps + 1)[1:-1])


def ending_at(final: float, visited: Table) -> Tensor:
    """Levels to visit, and the final one. Raises UsageError where the last is not above it."""
    if visited[-1] <= final * (1 + _ROUNDING):
        raise UsageError(
            f"the last step is at sigma {visited[-1]:.4g}, where --final-sigma sigma-min would end "
            "already; leave one of the two out"
        )
    return torch.from_numpy(np.append(visited, final))


def at_timesteps(schedule: Schedule, chosen: Sequence[int]) -> Table:
    """The levels of timesteps. Raises UsageError for those that the schedule has not."""
    if chosen[0] >= len(schedule):
        raise UsageError(
            f"--timesteps {chosen[0]} is not a timestep of this model: they are 0 to "
            f"{len(schedule) - 1}"
        )
    return schedule.sigma[list(chosen)]


def at_sigmas(schedule: Schedule, chosen: Sequence[float]) -> Table:
    """These levels. Raises UsageError for those outside of the schedule's, where D is unknown."""
    low, high = schedule.sigma[0], schedule.sigma[-1]
    for sigma in chosen:
        if not low * (1 - _TYPED) <= sigma <= high * (1 + _TYPED):
            raise UsageError(
                f"--sigmas {sigma:g} is not a noise level of this model: they are "
                f"{low:.4g} to {high:.5g}"
            )
    return np.array(chosen)


def in_sections(schedule: Schedule, counts: Sequence[int]) -> Table:
    """The levels of so many timesteps of each of equal sections, the first the least noisy.

    Evenly spaced, with both ends of a section (improved DDPM's timestep_respacing "10,15,20").
    Raises UsageError where a section has fewer timesteps.
    """
    chosen: list[int] = []
    sections = np.array_split(np.arange(len(schedule)), len(counts))
    for count, section in zip(counts, sections, strict=True):
        if count > len(section):
            raise UsageError(
                f"--sections: {count} steps do not fit into a section of {len(section)} timesteps"
            )
        stride = (len(section) - 1) / max(count - 1, 1)
        # Summed as in their code, whose rounding errors decide where two timesteps are as near.
        positions = np.cumsum([0.0, *[stride] * (count - 1)]).round().astype(int)
        chosen += section[positions].tolist()
    return schedule.sigma[chosen[::-1]]


def timesteps(total: int, steps: int, spacing: str) -> NDArray[np.int64]:
    """`steps` of the timesteps 0..total-1, descending.

    trailing: the ends of equal intervals, including the last timestep; leading: their starts,
    including 0 (DDIM, and diffusers' default); linspace: both ends (improved DDPM); quadratic: from
    80 % of the last timestep to 0, dense at low noise (DDIM, appendix D.2).
    """
    if spacing == "trailing":
        chosen = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    elif spacing == "leading":
        chosen = np.arange(steps)[::-1] * (total // steps)
    elif steps == 1:
        chosen = np.array([total - 1])
    elif spacing == "linspace":
        chosen = np.round(np.linspace(0, total - 1, steps))[::-1]
    else:
        squares = np.linspace(0, math.sqrt(0.8 * total), steps) ** 2
        # With many steps, several squares round to one timestep: take the next free ones.
        chosen = np.maximum(squares.astype(np.int64), np.arange(steps))[::-1]
    return chosen.astype(np.int64)


def _spaced(schedule: Schedule, steps: int, spacing: str, largest: float) -> Table:
    total = len(schedule)
    if spacing in ("karras", "exponential"):
        return _between(schedule, steps, spacing)
    chosen = _beta(total, steps) if spacing == "beta" else timesteps(total, steps, spacing)
    visited = _levels(schedule, chosen)
    largest = max(largest, schedule.sigma[0])
    if visited[0] > largest:
        first = np.interp(math.log(largest), np.log(schedule.sigma), np.arange(total))
        visited = _levels(schedule, chosen * (first / chosen[0]))
    return visited


def _between(schedule: Schedule, steps: int, spacing: str) -> Table:
    """Even in sigma^(1/7) (Karras et al. 2022, equation 5) or in log sigma."""
    largest = min(schedule.sigma[-1], ODE_SIGMA_MAX)
    smallest = min(schedule.sigma[0], largest)
    if spacing == "exponential":
        return np.geomspace(largest, smallest, steps)
    roots: Table = np.linspace(largest ** (1 / _RHO), smallest ** (1 / _RHO), steps)
    return roots**_RHO


def _beta(total: int, steps: int) -> Table:
    """Quantiles of Beta(0.6, 0.6) as timesteps: dense at both ends (Lee et al. 2024)."""
    from scipy.special import betaincinv  # takes long to import

    quantiles: Table = betaincinv(_BETA, _BETA, np.linspace(1, 0, steps))
    return quantiles * (total - 1)


def _levels(schedule: Schedule, chosen: Table | NDArray[np.int64]) -> Table:
    """The levels at timesteps; between two of them linear in log sigma."""
    if chosen.dtype == np.int64:
        return schedule.sigma[chosen]
    levels: Table = np.exp(np.interp(chosen, np.arange(len(schedule)), np.log(schedule.sigma)))
    return levels
