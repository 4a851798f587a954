"""sFID: the Frechet distance of spatial features (Nash et al. 2021; ADM's evaluator)."""

from __future__ import annotations

from typing import NamedTuple

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.scores.frechet import frechet_distance
from ddpm_cli.core.metrics.scores.score import Label, digits
from ddpm_cli.core.metrics.statistics import Statistics


class Sfid(NamedTuple):
    """FID of 7 channels of 17x17 places, which sees where things are in the image."""

    value: float
    width: int  # features, of whose covariance fewer images make a rank-deficient one

    def line(self, label: Label) -> str:
        """The distance."""
        return f"{label('sFID')} {digits(self.value)}"

    def document(self) -> dict[str, object]:
        """Its key of --json."""
        return {"sfid": self.value}


def sfid(real: Statistics, fake: Statistics) -> Sfid:
    """sFID of two inputs' spatial statistics. Raises DdpmError where one has none."""
    for name, side in (("REAL", real), ("FAKE", fake)):
        if side.spatial is None:
            raise DdpmError(f"{name} has no spatial statistics, which sFID needs")
    assert real.spatial is not None and fake.spatial is not None
    return Sfid(frechet_distance(*real.spatial, *fake.spatial), len(real.spatial.mean))
