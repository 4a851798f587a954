"""What a sweep found: the best setting, as the run's default, as a picture and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.config import paths
from ddpm_cli.core.generation.default_sampling import DefaultSampling, in_words
from ddpm_cli.core.metrics.scores.score import digits
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.sweep import ranking
from ddpm_cli.core.sweep.axes import Axis
from ddpm_cli.core.sweep.points import Point
from ddpm_cli.core.sweep.sweep import Sweep

_DRAWN = 2  # axes


@dataclass(frozen=True)
class Results:
    """The points of a sweep that has ended."""

    sweep: Sweep

    @property
    def ranked(self) -> list[Point]:
        """The lowest score first."""
        return ranking.ranked(self.sweep.points)

    @property
    def ties(self) -> list[Point]:
        """Those that the lowest score is not told from; it is the first."""
        return ranking.ties(self.sweep.points)

    @property
    def chosen(self) -> Point:
        """The cheapest of these."""
        return ranking.chosen(self.sweep.points)

    @property
    def varied(self) -> list[Axis]:
        """The axes of more than one value."""
        return [axis for axis in self.sweep.axes if len(axis.values) > 1]

    def told(self) -> str:
        """The setting chosen, and what it was chosen among."""
        best, scorer, others = self.chosen, self.sweep.scorer, len(self.ties) - 1
        values = in_words({axis.name: best.values[axis.name] for axis in self.sweep.axes})
        told = f"{values}: {scorer.label} {digits(best.value)}, {best.nfe} network calls an image"
        if best.std is None:
            return f"{told} (its standard error is unknown, and so are ties)"
        if not others:
            return f"{told}; no other is within one standard error of it"
        which = "it is the lowest" if best == self.ties[0] else f"of {others + 1} the cheapest"
        several = f"{others} others are" if others > 1 else "one other is"
        return f"{told}; {several} within one standard error of the lowest, and {which}"

    def write_default(self, run: Path) -> Path | None:
        """Make the setting chosen the run's default: its sampling.json; None where it is no run.

        Raises DdpmError where it cannot be written, or the weights that it names.
        """
        path = paths.expanded(run)
        if not path.is_dir():
            return None
        directory = RunDirectory(path)
        self._default().write(directory)
        return directory.sampling

    def _default(self) -> DefaultSampling:
        subject, scorer, best = self.sweep.subject, self.sweep.scorer, self.chosen
        measured = {
            "score": scorer.label,
            "value": best.value,
            "std": best.std,
            "n": subject.request.count,
            "seed": subject.request.seed,
            "nfe": best.nfe,
            "real": scorer.real_name,
            "features": scorer.extractor.origin.describe(),
            "images_seen": subject.model.images,
            "settings": len(self.sweep.points),
            "ties": len(self.ties),
        }
        return DefaultSampling(subject.settings(best.values), subject.save(best.values), measured)

    def draw(self, folder: Path) -> Path | None:
        """Draw a curve, or a heat map of the two axes of the most values; None without axes.

        Where there are more, the others have the values of the setting chosen.
        """
        from ddpm_cli.core.figures import sweeps  # imports matplotlib

        axes = sorted(self.varied, key=lambda axis: -len(axis.values))[:_DRAWN]
        if not axes:
            return None
        names = [axis.name for axis in axes]
        fixed = {k: v for k, v in self.chosen.values.items() if k not in names}
        shown = [p for p in self.sweep.points if fixed.items() <= p.values.items()]
        path = folder / f"{'-'.join(sorted(axis.name for axis in self.varied))}.png"
        grids = [sweeps.Grid(axis.name.replace("_", " "), axis.values) for axis in axes]
        scored = [
            sweeps.Scored(
                point.values[names[0]],
                point.values[names[-1]],
                point.value,
                point.std,
                chosen=point is self.chosen,
            )
            for point in shown
        ]
        label = f"{self.sweep.scorer.label} of {self.sweep.subject.request.count:,} images"
        if len(grids) == 1:
            sweeps.curve(path, scored, grids[0], label)
        else:
            common = {name: v for name, v in fixed.items() if name in _names(self.varied)}
            title = ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in common.items())
            columns, rows = grids
            sweeps.heat_map(path, scored, columns, rows, label, title)
        return path

    def document(self) -> dict[str, Any]:
        """The points, best first, and what they were measured of, as JSON values."""
        sweep, ties = self.sweep, self.ties
        scorer, request = sweep.scorer, sweep.subject.request
        return {
            "score": scorer.label,
            "n": request.count,
            "seed": request.seed,
            "weights": str(sweep.subject.model.path),
            "weights_sha256": sweep.subject.model.sha256,
            "images_seen": sweep.subject.model.images,
            "real": scorer.real_name,
            "features": scorer.extractor.origin.network,
            "protocol": scorer.extractor.origin.name,
            "features_sha256": scorer.extractor.weights_sha256,
            "settings": [
                point.document() | {"ties": point in ties, "chosen": point == self.chosen}
                for point in self.ranked
            ],
            "best": self.chosen.document(),
            "network_calls": sweep.calls,
            "seconds": round(sweep.seconds, 3),
        }


def _names(axes: Sequence[Axis]) -> set[str]:
    return {axis.name for axis in axes}
