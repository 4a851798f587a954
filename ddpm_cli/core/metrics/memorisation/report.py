"""Whether a model copies, in plain words with its uncertainty, as lines and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages
from ddpm_cli.core.metrics.memorisation.compare import FAR, Comparison
from ddpm_cli.core.metrics.memorisation.pixels import tolerance
from ddpm_cli.core.metrics.memorisation.statistics import (
    CONFIDENCE,
    Distances,
    Share,
    auth_pct,
    c_t,
    excess,
    images_needed,
    share,
)
from ddpm_cli.core.metrics.statistics import FeatureOrigin

COPY = 0.5  # of the distance to the next neighbours: a copy is nearer (Carlini et al. 2023)
PERCENTILE = 1.0  # of the held-out images' distances
PAIRS = 64  # of fakes and training images that are shown: the nearest
_TELLING = 0.05  # a copied share that an answer of "none" must exclude
_SURE = f"{100 * CONFIDENCE:.0f} %"
_PRECISE = 0.02  # the share above 0 that `images_needed` asks for


class Pair(NamedTuple):
    """A fake and its nearest training image in pixels."""

    fake: str
    train: str
    distance: float  # of `aligned_distances`
    relative: float  # over the distance of the next neighbours: below 0.5 a copy
    place: int  # of the fake
    row: int  # of the training image

    def document(self) -> dict[str, object]:
        """What --json says of it."""
        return {name: getattr(self, name) for name in self._fields[:4]}


@dataclass(frozen=True)
class Below:
    """Fakes no farther from a training image than the 1st percentile of held-out images."""

    threshold: float
    fakes: Share
    held_out: Share

    @classmethod
    def of(cls, fakes: Distances, held_out: Distances) -> Below:
        """Of the distances of both."""
        threshold = float(np.percentile(held_out, PERCENTILE))
        return cls(threshold, _at_most(fakes, threshold), _at_most(held_out, threshold))


@dataclass(frozen=True)
class MemorisationReport:
    """What was found, with everything that it depends on."""

    copied: Share  # of the fakes, beyond what held-out images show
    like_copies: Share  # of the fakes, nearer than COPY
    held_out_like_copies: Share
    pixels: Below  # of relative distances
    features: Below
    auth_pct: float
    auth_pct_held_out: float
    c_t: float
    c_t_pixels: float
    fakes_far: float | None  # the share that is far from the training images
    held_out_far: float | None
    equal: int  # fakes that equal a training image
    n_fake: int
    n_train: int
    n_held_out: int
    size: tuple[int, int]  # (height, width) at which images were compared
    pairs: tuple[Pair, ...]  # the nearest first
    origin: FeatureOrigin
    fake: str
    train: str
    held_out: str
    sampled: dict[str, Any] | None = None  # how the fakes were sampled, where they are of a run

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        origin: FeatureOrigin,
        fake: ImageSet,
        train: ImageSet,
        held_out: ImageSet,
    ) -> MemorisationReport:
        """Of the comparison of these images by features of that origin."""
        fakes, others = comparison.fakes, comparison.held_out
        relative = fakes.pixels.relative, others.pixels.relative
        like_copies = share(int((relative[0] < COPY).sum()), len(relative[0]))
        by_chance = share(int((relative[1] < COPY).sum()), len(relative[1]))
        return cls(
            copied=excess(like_copies, by_chance),
            like_copies=like_copies,
            held_out_like_copies=by_chance,
            pixels=Below.of(*relative),
            features=Below.of(fakes.features, others.features),
            auth_pct=auth_pct(fakes.features, fakes.own),
            auth_pct_held_out=auth_pct(others.features, others.own),
            c_t=c_t(fakes.features, others.features),
            c_t_pixels=c_t(*relative),
            fakes_far=fakes.far,
            held_out_far=others.far,
            equal=fakes.equal,
            n_fake=len(fakes),
            n_train=len(comparison.train.small),
            n_held_out=len(others),
            size=comparison.train.small.size,
            pairs=_pairs(comparison),
            origin=origin,
            fake=fake.label,
            train=train.label,
            held_out=held_out.label,
            sampled=fake.sampled if isinstance(fake, GeneratedImages) else None,
        )

    @property
    def conclusion(self) -> str:
        """copies, none, or unknown: too few images to tell, or held-out ones of another kind."""
        if _mostly(self.held_out_far):
            return "unknown"
        if self.copied.low > 0:
            return "copies"
        return "none" if self.copied.high <= _TELLING else "unknown"

    @property
    def needed(self) -> int:
        """Fakes, and as many held-out images, that tell the copied share to 2 points."""
        return images_needed(self.held_out_like_copies.value, _PRECISE)

    @property
    def verdict(self) -> str:
        """The answer in plain words, with its uncertainty."""
        seen = (
            f"{_percent(self.like_copies.value)} of {self.n_fake:,} fakes are as near to a "
            f"training image as copies are, and {_percent(self.held_out_like_copies.value)} of "
            f"{self.n_held_out:,} held-out images"
        )
        if _mostly(self.held_out_far):
            return f"Nothing can be said: {self._unlike}. {seen[0].upper()}{seen[1:]}."
        low, high = (_percent(limit) for limit in self.copied[1:])
        if self.conclusion == "copies":
            found = (
                f"About {_percent(self.copied.value)} of the fakes are copies of training images"
            )
            return f"{found} ({_SURE} interval: {low} to {high}): {seen}."
        if self.conclusion == "none":
            most = f"At most {high} of the fakes could be copies ({_SURE})"
            return f"No sign of copying: {seen}. {most}."
        return (
            f"Too few images to tell: {seen}. Up to {high} of the fakes could be copies ({_SURE}); "
            f"{self.needed:,} fakes and as many held-out images would tell it to 2 points."
        )

    @property
    def _unlike(self) -> str:
        """Why held-out images that are far from the training images show nothing."""
        apart = f"farther from the training images than {FAR:.0f} % of these are from each other"
        far = f"in features {_percent(self.held_out_far or 0)} of the held-out images"
        if _mostly(self.fakes_far):
            return (
                f"neither the held-out images nor the fakes are like the training images ({far} "
                f"and {_percent(self.fakes_far or 0)} of the fakes are {apart}); --train is "
                f"probably another data set than the model was trained on ({self.train})"
            )
        return (
            f"the held-out images are not like the training images ({far} are {apart}), so they "
            f"do not show what chance explains; give --held-out images of the same kind"
        )

    def lines(self) -> str:
        """The verdict, the numbers, and what they depend on."""
        below = [
            f"  {space + ':':10s} {_percent(found.fakes.value)} of the fakes "
            f"({_interval(found.fakes)}), {_percent(found.held_out.value)} of the held-out images"
            for space, found in (("pixels", self.pixels), ("features", self.features))
        ]
        height, width = self.size
        return "\n".join(
            (
                self.verdict,
                "nearer to a training image than 99 % of the held-out images are:",
                *below,
                f"AuthPct {self.auth_pct:.1f} (held-out images {self.auth_pct_held_out:.1f}), "
                f"C_T {self.c_t:+.1f} in features, {self.c_t_pixels:+.1f} in pixels",
                f"[{self.origin.describe()} | pixels at {width}x{height}, shifted by up to "
                f"{tolerance(self.size)}, mirrored | n_fake={self.n_fake} n_train={self.n_train} "
                f"n_held_out={self.n_held_out}]",
            )
        )

    def notices(self) -> Iterator[str]:
        """What to know when reading these numbers."""
        if self.equal:
            yield f"{self.equal:,} of the {self.n_fake:,} fakes equal a training image"
        if self.n_held_out < 100 / PERCENTILE:
            yield (
                f"{self.n_held_out} held-out images have no 1st percentile: that of 100 is the "
                "nearest of all; give more"
            )
        if _mostly(self.held_out_far):
            return
        if _mostly(self.fakes_far):
            yield (
                f"in features {_percent(self.fakes_far or 0)} of the fakes are farther from the "
                f"training images than {FAR:.0f} % of these are from each other: they are poor, or "
                "of a model that was trained on others"
            )
        nearer = excess(self.features.fakes, self.features.held_out)
        if self.conclusion != "copies" and nearer.low > 0:
            yield (
                f"in features {_percent(self.features.fakes.value)} of the fakes are nearer to a "
                "training image than 99 % of the held-out images are, without being copies in "
                "pixels: look at the pairs"
            )

    def document(self) -> dict[str, object]:
        """The document for --json."""
        return {
            "verdict": self.verdict,
            "conclusion": self.conclusion,
            **_flat("copied_share", self.copied),
            "confidence": CONFIDENCE,
            **_flat("like_copies", self.like_copies),
            **_flat("held_out_like_copies", self.held_out_like_copies),
            **_flat("share_below", self.pixels.fakes),
            "held_out_below": self.pixels.held_out.value,
            "threshold": self.pixels.threshold,
            **_flat("share_below_features", self.features.fakes),
            "held_out_below_features": self.features.held_out.value,
            "threshold_features": self.features.threshold,
            "auth_pct": self.auth_pct,
            "auth_pct_held_out": self.auth_pct_held_out,
            "c_t": self.c_t,
            "c_t_pixels": self.c_t_pixels,
            "fakes_far": self.fakes_far,
            "held_out_far": self.held_out_far,
            "equal": self.equal,
            "n_fake": self.n_fake,
            "n_train": self.n_train,
            "n_held_out": self.n_held_out,
            "n_needed": self.needed,
            "size": list(self.size),
            "shift": tolerance(self.size),
            "fake": self.fake,
            "train": self.train,
            "held_out": self.held_out,
            **asdict(self.origin),
            "protocol": self.origin.name,
            "sampled": self.sampled,
            "pairs": [pair.document() for pair in self.pairs],
        }


def _mostly(far: float | None) -> bool:
    """Whether most of the images are far from the training images."""
    return far is not None and far > 0.5


def _at_most(distances: Distances, threshold: float) -> Share:
    return share(int((distances <= threshold).sum()), len(distances))


def _pairs(comparison: Comparison) -> tuple[Pair, ...]:
    """The nearest pairs, and all that are as near as copies."""
    found = comparison.fakes.pixels
    count = max(PAIRS, int((found.relative < COPY).sum()))
    places = np.lexsort((found.distance, found.relative))[:count]
    rows = found.rows[places].tolist()
    names = comparison.fake.names(places.tolist()), comparison.train.names(rows)
    numbers = found.distance[places].tolist(), found.relative[places].tolist()
    return tuple(map(Pair, *names, *numbers, places.tolist(), rows))


def _flat(name: str, found: Share) -> dict[str, object]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _interval(found: Share) -> str:
    return f"{_percent(found.low)} to {_percent(found.high)}"


def _percent(value: float) -> str:
    """A share as "5.1 %", with two digits below 1 %, and none from 99.95 %."""
    percent = 100 * value
    if percent in (0, 100):
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent < 1 else f"{percent:.1f} %"
