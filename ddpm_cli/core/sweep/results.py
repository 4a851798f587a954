"""What a sweep found: the best setting, as the run's default, as a picture and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.config import paths
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling, in_words
from ddpm_cli.core.metrics.scores.score import digits
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.sweep import ranking
from ddpm_cli.core.sweep.axes import Axis
from ddpm_cli.core.sweep.points import Point
from ddpm_cli.core.sweep.sweep import Sweep

_DRAWN = 2  # axes
_COMPARABLE = ("score", "n", "seed", "real", "features", "images_seen")  # where these are equal
ENOUGH = 100  # images of each setting, below which none becomes a default


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
        which = f"it is {self.why_chosen}"
        several = f"{others} others are" if others > 1 else "one other is"
        return f"{told}; {several} within one standard error of the lowest, and {which}"

    @property
    def why_chosen(self) -> str:
        """What it is of those that tie, in words."""
        if self.chosen == self.ties[0]:
            return "the lowest"
        return f"the cheapest that ties, at most {ranking.ABOVE:.0%} above the lowest"

    @property
    def noticed(self) -> list[str]:
        """What makes the choice doubtful, in words: too few images, the ends of ranges."""
        told, count = list[str](), self.sweep.swept.request.count
        if not ranking.told_apart(self.sweep.points):
            told.append(f"nothing is told apart by {count:,} images: raise -n")
        elif count < ENOUGH:
            told.append(f"{count:,} images of each setting are few: raise -n")
        for axis in self.sweep.axes:
            value = self.chosen.values[axis.name]
            if axis.searched and value in (axis.values[0], axis.values[-1]):
                told.append(
                    f"the best {axis.option}, {value:g}, is at the end of its range: widen it"
                )
        return told

    @property
    def why_no_default(self) -> str | None:
        """Why the best setting is none of the whole run, in words; None where it is."""
        images = self.sweep.images
        if not paths.expanded(images.run).is_dir():
            return f"none, as {images.run} is a file: name its run"
        if images.conditions.classes or images.conditions.prompts:
            return "none, as these classes or prompts are not all that the run draws"
        count = self.sweep.swept.request.count
        if not ranking.told_apart(self.sweep.points):
            return f"none, as nothing is told apart by {count:,} images"
        if count < ENOUGH:
            return (
                f"none, as {count:,} images of each setting are few: at least {ENOUGH} are needed"
            )
        if self._now is not None and self._is_worse_than(self._now):
            return f"none, as the run's own is better than all of these: {self._now.described}"
        return None

    @property
    def replaced(self) -> str | None:
        """The default of now, which another replaces, in words; None without one."""
        return None if self._now is None else self._now.described

    @property
    def _now(self) -> DefaultSampling | None:
        """The run's default before this sweep writes one."""
        path = default_sampling.path_of(self.sweep.images.run)
        return None if path is None else default_sampling.read(path)

    def _is_worse_than(self, default: DefaultSampling) -> bool:
        """Whether every setting scored worse than a default did by the same score of as many."""
        measured, value = self._measured(), default.measured.get("value")
        same = all(default.measured.get(name) == measured[name] for name in _COMPARABLE)
        return same and isinstance(value, int | float) and value < self.ranked[0].value

    def write_default(self) -> Path:
        """Make the setting chosen the run's default: its default-sampling.json.

        Raises DdpmError where it cannot be written, or the weights that it names.
        """
        run = RunDirectory(paths.expanded(self.sweep.images.run))
        self._default().write(run)
        return run.sampling

    def _default(self) -> DefaultSampling:
        swept, best = self.sweep.swept, self.chosen
        settings, weights = swept.settings.of(best.values), swept.save(best.values)
        return DefaultSampling(settings, weights, self._measured()).with_guide_of(swept.model)

    def _measured(self) -> dict[str, Any]:
        """The score of the setting chosen, and of what."""
        swept, scorer, best = self.sweep.swept, self.sweep.scorer, self.chosen
        return {
            "score": scorer.label,
            "value": best.value,
            "std": best.std,
            "n": swept.request.count,
            "seed": swept.request.seed,
            "nfe": best.nfe,
            "real": scorer.real_name,
            "features": scorer.extractor.origin.describe(),
            "images_seen": swept.model.images,
            "settings": len(self.sweep.points),
            "ties": len(self.ties),
        }

    @property
    def picture(self) -> Path:
        """The name of the picture, beside the points."""
        names = sorted(axis.name for axis in self.varied)
        return self.sweep.file.path.with_name(f"{'-'.join(names)}.png")

    def draw(self, path: Path) -> None:
        """Draw a curve, or a heat map of the two axes of the most values.

        Where there are more, the others have the values of their grids nearest to those chosen.
        """
        from ddpm_cli.core.figures import sweeps  # imports matplotlib

        axes = sorted(self.varied, key=lambda axis: -len(axis.values))[:_DRAWN]
        names, best = [axis.name for axis in axes], self.chosen.values
        others = [axis for axis in self.sweep.axes if axis.name not in names]
        fixed = {axis.name: axis.nearest(best[axis.name]) for axis in others}
        shown = [p for p in self.sweep.points if fixed.items() <= p.values.items()]
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
        title = self.sweep.swept.run.path.resolve().name
        label = f"{self.sweep.scorer.label} of {self.sweep.swept.request.count:,} images"
        if len(grids) == 1:
            sweeps.curve(path, scored, grids[0], label, title, self.why_chosen)
        else:
            common = {name: v for name, v in fixed.items() if name in _names(self.varied)}
            title = ", ".join((title, *(f"{k.replace('_', ' ')} {v}" for k, v in common.items())))
            columns, rows = grids
            sweeps.heat_map(path, scored, columns, rows, label, title, self.why_chosen)

    def document(self) -> dict[str, Any]:
        """The points, best first, and what they were measured of, as JSON values."""
        sweep, ties = self.sweep, self.ties
        scorer, request = sweep.scorer, sweep.swept.request
        return {
            "score": scorer.label,
            "n": request.count,
            "seed": request.seed,
            "weights": str(sweep.swept.model.path),
            "weights_sha256": sweep.swept.model.sha256,
            "images_seen": sweep.swept.model.images,
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
