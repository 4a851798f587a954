"""The settings of distillation, by steps or consistency tuning: of what `ddpm distill` makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ddpm_cli.core.config.fields import (
    Settings,
    above_zero,
    at_least_zero,
    choice,
    images_above_zero,
    number,
    setting,
    shortened,
)
from ddpm_cli.core.errors import UsageError

PLAIN = (1.0, 1.0)  # least and largest guidance of a teacher that is not guided
_MOST_STAGES, _MOST_CALLS, _MOST_STEPS = 100, 100, 1000
_OF_CALLS, _OF_TUNING = (
    frozenset({"teacher_steps"}),
    frozenset(["q", "stages", "stage_images", "k", "b"]),
)


def parse_guidance(given: str | float | Sequence[float]) -> tuple[float, float]:
    """Read 2, (1, 4), "2" or "1,4" as the least and largest guidance. Raises UsageError."""
    values: Any = given.split(",") if isinstance(given, str) else given
    try:
        low, *rest = [float(values)] if isinstance(values, Real) else map(float, values)
        (high,) = rest or [low]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--guidance {shortened(given)} should be a number, or a range such as 1,4"
        ) from error
    return low, high


def with_calls(settings: dict[str, Any], calls: int) -> dict[str, Any]:
    """Settings of a RunConfig, nested, with the network calls of a sample that are learned."""
    objective = settings.get("objective", {})
    consistency = (objective.get("consistency") or {}) | {"calls": calls}
    return settings | {"objective": objective | {"consistency": consistency}}


def with_guidance(settings: dict[str, Any], guidance: tuple[float, float]) -> dict[str, Any]:
    """Settings of a RunConfig, nested, with the least and largest guidance that is learned."""
    objective, network = settings.get("objective", {}), settings.get("network", {})
    consistency = (objective.get("consistency") or {}) | {"guidance": guidance}
    return settings | {
        "objective": objective | {"consistency": consistency},
        "network": network | {"guidance": True},
    }


def _is_range(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and 0 <= values[0] <= values[1] < math.inf


@dataclass(frozen=True)
class ConsistencyConfig(Settings):
    """What a student learns at a noise level t, and by what distance.

    With calls, where the teacher's steps lead to from each of their levels. Without, consistency
    tuning: its own output at r = t max(0, 1 - (1 + k sigmoid(-b t)) / q^(stage + 1)) (Geng et al.
    2024, section 3.2), at first far below t, or 0, and nearer with every stage.
    """

    calls: int = setting(
        0,
        "Network calls of a sample: each is learned from the teacher's steps; 0: any number, by "
        "consistency tuning.",
        check=number(zero=True, most=_MOST_CALLS),
    )
    teacher_steps: int = setting(
        8,
        "With calls: steps of the teacher from each of their noise levels to 0.",
        check=number(most=_MOST_STEPS),
    )
    q: float = setting(
        2.0, "Without calls: factor by which r nears t with every stage.", check=number(least=1.01)
    )
    stages: int = setting(
        8, "Without calls: number of stages.", unit="stages", check=number(most=_MOST_STAGES)
    )
    stage_images: int = setting(
        50_000,
        "Without calls: images seen in each stage but the last.",
        unit="images",
        check=images_above_zero,
    )
    k: float = setting(
        8.0, "Without calls: how much further r is from small t.", check=at_least_zero
    )
    b: float = setting(1.0, "Without calls: how fast that ends with t.", check=above_zero)
    distance: str = setting(
        "pseudo-huber",
        "Distance of the two outputs: pseudo-huber, sqrt(d^2 + c^2) - c, or l2, d^2, of their root "
        "mean square difference d.",
        check=choice("pseudo-huber", "l2"),
    )
    huber_c: float = setting(
        0.0, "c of pseudo-huber, in grey levels from -1 to 1.", check=at_least_zero
    )
    guidance: tuple[float, ...] = setting(
        (), "Least and largest guidance of the teacher that is learned; empty: no guidance."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance and not _is_range(self.guidance):
            listed = ",".join(f"{value:g}" for value in self.guidance)
            raise UsageError(f"--guidance {listed} is no range: give 0 <= LOW <= HIGH")

    @property
    def unused(self) -> frozenset[str]:
        """The settings of the other way to learn."""
        return _OF_TUNING if self.calls else _OF_CALLS

    @property
    def plain_teacher(self) -> bool:
        """Whether a teacher's steps are learned that are not guided."""
        return self.guidance == PLAIN or (self.calls > 0 and not self.guidance)

    @property
    def with_teacher(self) -> bool:
        """Whether a step of training computes the teacher."""
        return bool(self.calls or self.guidance)

    def stage(self, images: int) -> int:
        """The stage after so many images seen: 0 to stages - 1."""
        return min(images // self.stage_images, self.stages - 1)
