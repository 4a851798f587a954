"""Drawn images compared with training images, by numbers, allowing for chance.

The mean of n images of a class has the standard error std / sqrt(n), and for few images more on the
side of the skew (Cornish & Fisher 1938, first term). What lies beyond that is a fault where it is
also large enough to be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddpm_cli.core.data.inspection.image_statistics import (
    SCALARS,
    TONES,
    Appearance,
    Values,
    thumbnails,
    tones,
)

_CHANCE = 5.0  # standard errors
_BEYOND = 0.5  # standard deviations of images, beyond all training images
_FEWEST = 4  # images of which can be said that they are alike
_ALIKE = 0.2  # variance between images, of the training's
_TONES_APART = 0.1  # distance of histograms, of the range of values


class Oddity(NamedTuple):
    """What differs, by how much."""

    name: str
    samples: float
    training: float


class Tone(NamedTuple):
    """Where the colours differ most: the shares of a channel's values below a level."""

    channel: int
    level: float  # 0 to 1
    samples: float
    training: float


@dataclass(frozen=True)
class Drawn:
    """Sums over N drawn images."""

    counts: Values  # (G,), images of each of the references
    sums: Values  # (K,), of what `measure` says
    squares: float  # of the thumbnails' values

    @property
    def images(self) -> int:
        """How many were drawn."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Values:
        """(K,)."""
        mean: Values = self.sums / self.images
        return mean


@dataclass(frozen=True)
class Comparison:
    """Drawn images and the training's, of the same classes in the same shares."""

    references: tuple[Appearance, ...]  # G
    drawn: Drawn
    kinds: int | None = None  # of images, where the references know none: so many are independent

    def oddities(self) -> list[Oddity]:
        """What differs by more than chance and visibly, the plainest first."""
        flat = self._above("flat", 0.03)
        if flat is not None and flat.samples > 0.5:
            return [flat]
        brightness = self._spread("brightness")
        visible = min(0.15, max(0.04, 0.75 * brightness))
        contrast = self._expected("contrast")
        found = [
            self._alike(),
            self._above("noise", max(0.02, 0.5 * self._expected("noise"))),
            self._above("saturated", 0.08 * (1 + 4 / self.drawn.images)),
            self._below("brightness", visible, "dark"),
            self._above("brightness", visible, "bright"),
            self._below("contrast", 0.35 * contrast, "low contrast"),
            self._above("contrast", 0.5 * contrast, "high contrast"),
            flat,
        ]
        present = [oddity for oddity in found if oddity is not None]
        apart = None if present else self._colours()
        return present if apart is None else [apart]

    def tone(self) -> Tone:
        """Where the histograms of colours differ most."""
        samples, training = tones(self.drawn.mean), tones(self._mean)
        place = int(np.abs(samples - training).argmax())
        channel, below = divmod(place, TONES - 1)
        values = float(samples.flat[place]), float(training.flat[place])
        return Tone(channel, (below + 1) / TONES, *values)

    @property
    def _shares(self) -> Values:
        """(G,), of the drawn images."""
        shares: Values = self.drawn.counts / self.drawn.images
        return shares

    @property
    def _units(self) -> Values:
        """How many independent images there are of each reference, (G,)."""
        return (
            self.drawn.counts if self.kinds is None else np.minimum(self.drawn.counts, self.kinds)
        )

    @property
    def _mean(self) -> Values:
        """What training images of these classes have on average, (K,)."""
        mean: Values = self._shares @ np.stack([one.mean for one in self.references])
        return mean

    @property
    def _errors(self) -> Values:
        """Standard errors of the mean of such images, and of the training's, (K,)."""
        variances = np.stack([one.std**2 for one in self.references])
        seen = np.array([one.images for one in self.references])
        weights = self._shares**2 * (_reciprocal(self._units) + 1 / seen)
        errors: Values = np.sqrt(weights @ variances)
        return errors

    def _expected(self, name: str) -> float:
        return float(self._mean[SCALARS.index(name)])

    def _spread(self, name: str) -> float:
        """The standard deviation of training images about the mean of their class."""
        index = SCALARS.index(name)
        return math.sqrt(self._shares @ [one.std[index] ** 2 for one in self.references])

    def _above(self, name: str, visible: float, called: str = "") -> Oddity | None:
        return self._apart(name, 1, visible, called or name)

    def _below(self, name: str, visible: float, called: str) -> Oddity | None:
        return self._apart(name, -1, visible, called)

    def _apart(self, name: str, sign: int, visible: float, called: str) -> Oddity | None:
        """The oddity where the mean lies that far above (1) or below (-1) the training's."""
        index = SCALARS.index(name)
        samples, training = float(self.drawn.mean[index]), self._expected(name)
        ends = [one.high[index] if sign > 0 else one.low[index] for one in self.references]
        furthest = abs(float(self._shares @ ends) - training)  # where no training image lies
        chance = min(self._chance(index, sign), furthest + _BEYOND * self._spread(name))
        apart = sign * (samples - training) > max(visible, chance)
        return Oddity(called, samples, training) if apart else None

    def _chance(self, index: int, sign: int) -> float:
        """How far chance takes a mean of a scalar upwards or downwards."""
        error = float(self._errors[index])
        cubes = [one.skew[index] * one.std[index] ** 3 for one in self.references]
        third = float((self._shares**3 * _reciprocal(self._units) ** 2) @ cubes)
        skew = third / error**3 if error else 0.0
        return error * max(_CHANCE / 2, _CHANCE + sign * skew * (_CHANCE**2 - 1) / 6)

    def _alike(self) -> Oddity | None:
        """The sum of squares about the mean, of the value that training images would have.

        With as little contrast as these images: pale images are not alike for that.
        """
        count, counts = self.drawn.images, self.drawn.counts
        if count < _FEWEST:
            return None
        own = self.drawn.squares - float((thumbnails(self.drawn.sums) ** 2).sum()) / count
        within = np.array([(thumbnails(one.std) ** 2).sum() for one in self.references])
        centres = np.stack([thumbnails(one.mean) for one in self.references])
        between = ((centres - thumbnails(self._mean)) ** 2).sum(axis=1)
        expected = float(counts @ within) * (1 - 1 / count) + float(counts @ between)
        limit = min(_ALIKE, _ALIKE * count / 16) if self.kinds is None else _ALIKE / 4
        expected *= self._paleness
        ratio = max(0.0, own) / expected if expected else 1.0
        return Oddity("alike", math.sqrt(ratio), 1.0) if ratio < limit else None

    @property
    def _paleness(self) -> float:
        """The square of the contrast, of the training's; 1 at most."""
        samples = float(self.drawn.mean[SCALARS.index("contrast")])
        return min(1.0, samples / max(self._expected("contrast"), 1e-9)) ** 2

    def _colours(self) -> Oddity | None:
        """The distance of the histograms of a channel, the mean of the cumulative ones'."""
        differences = np.abs(tones(self.drawn.mean) - tones(self._mean)).mean(axis=-1)
        chance = _CHANCE * tones(self._errors).mean(axis=-1)
        apart = (differences > np.maximum(chance, _TONES_APART)).any()
        return Oddity("colours", float(differences.max()), 0.0) if apart else None


def _reciprocal(counts: Values) -> Values:
    """1 / n, and 0 for 0."""
    return np.divide(1, counts, out=np.zeros(len(counts)), where=counts > 0)
