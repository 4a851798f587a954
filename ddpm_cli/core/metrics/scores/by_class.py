"""FID and KID of each class, and FID and the Inception Score of groups of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.metrics.feature_store import FeatureStore, shuffled
from ddpm_cli.core.metrics.inputs.classes import Groups
from ddpm_cli.core.metrics.scores.fid import moments
from ddpm_cli.core.metrics.scores.frechet import RootGaussian
from ddpm_cli.core.metrics.scores.inception_score import SPLITS, inception_score
from ddpm_cli.core.metrics.scores.kid import SUBSET_SIZE, squared_mmd
from ddpm_cli.core.metrics.scores.score import Label, digits
from ddpm_cli.core.runtime.reporting import Reporter, track

Rows = NDArray[np.intp]

_HELD = 2**30  # bytes of Gaussians of the real classes: those of more are fitted for each fake


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class; None with fewer than 2 images on a side."""

    name: str
    n_real: int
    n_fake: int
    fid: float | None = None
    kid: float | None = None  # of at most 1000 images a side

    def document(self) -> dict[str, object]:
        """Its entry of --json."""
        return {"class": self.name, **{k: v for k, v in asdict(self).items() if k != "name"}}


@dataclass(frozen=True)
class GroupScore:
    """The scores of all images of a group of classes; None where they cannot be computed."""

    name: str
    classes: tuple[str, ...]
    n_real: int
    n_fake: int
    fid: float | None = None
    inception_score: float | None = None  # of the fakes
    inception_score_std: float | None = None
    splits: int | None = None  # of the Inception Score

    def document(self) -> dict[str, object]:
        """Its entry of --json."""
        return {"group": self.name, **{k: v for k, v in asdict(self).items() if k != "name"}}


@dataclass(frozen=True)
class ByClass:
    """The scores of the classes, worst FID first, those without one last; and of groups."""

    classes: tuple[ClassScore, ...]
    feature_dim: int
    groups: tuple[GroupScore, ...] = ()
    logits: int = 0  # their number of classes; 0: the network has none

    @property
    def worst(self) -> ClassScore | None:
        """The class of the largest FID; None where no class has one."""
        return next((entry for entry in self.classes if entry.fid is not None), None)

    def line(self, label: Label) -> str:
        """The worst class."""
        worst = self.worst
        which = "none has 2 images on each side"
        if worst is not None and worst.fid is not None:
            which = f"worst {worst.name} {digits(worst.fid)}"
        missing = [c.name for c in self.classes if not c.n_fake and c.n_real]
        if missing:
            verb = "has" if len(missing) == 1 else "have"
            which += f"; {len(missing)} of {len(self.classes)} classes {verb} no fake: "
            which += listed(sorted(missing), 10)
        return f"{label('FID')} by class: {which}"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        worst = self.worst
        return {
            "classes": [entry.document() for entry in self.classes],
            "worst_class": None if worst is None else worst.name,
            "groups": [group.document() for group in self.groups],
        }

    def notices(self, label: Label) -> list[str]:
        """What was not computed, and what the numbers of images do to FID."""
        fid, found = label("FID"), []
        scored = [entry for entry in self.classes if entry.fid is not None]
        if without := [entry for entry in self.classes if entry.fid is None]:
            names = [f"{c.name} ({c.n_real} real, {c.n_fake} fake)" for c in without]
            found.append(f"no {fid} without 2 images on each side: {listed(names)}")
        few = [c for c in scored if min(c.n_real, c.n_fake) < self.feature_dim]
        unequal = len({(c.n_real, c.n_fake) for c in scored}) > 1
        if few:
            numbers = "numbers of images, which are unequal here" if unequal else "number of images"
            found.append(
                f"{len(few)} of {len(scored)} classes have fewer than {self.feature_dim} images on "
                f"a side: their {fid} is biased upward, and compares at the same {numbers}; "
                f"{label('KID')} is not biased"
            )
        sizes = {g.name: g.n_fake // g.splits for g in self.groups if g.splits}
        if bounded := [f"{name} {m}" for name, m in sizes.items() if m < self.logits]:
            found.append(
                f"{label('Inception Score')} of a group is at most the number of images of a split "
                f"({listed(bounded)}), whatever they show: compare it with scores of the same n "
                "and splits alone"
            )
        return found


class Side(NamedTuple):
    """One input: its features and the label of each, as indices of the common class names."""

    features: FeatureStore
    labels: NDArray[np.int64]  # (N,), -1 for none of the classes; or (N, K) of 0 and 1

    def rows(self, *classes: int) -> Rows:
        """The images that have any of these classes."""
        if self.labels.ndim == 1:
            return np.flatnonzero(np.isin(self.labels, classes))
        return np.flatnonzero(self.labels[:, list(classes)].any(axis=1))


class HeldGaussians:
    """Gaussians of the real classes, fitted once for all fakes as far as memory allows."""

    def __init__(self) -> None:
        self._held: dict[bytes, RootGaussian] = {}  # by the rows that they are of
        self._bytes = 0

    def of(self, store: FeatureStore, rows: Rows) -> RootGaussian:
        """That of these rows."""
        key = rows.tobytes()
        if key in self._held:
            return self._held[key]
        fitted = _fitted(store, rows)
        size = fitted.root.nbytes + len(key)
        if self._bytes + size <= _HELD:
            self._held[key] = fitted
            self._bytes += size
        return fitted


def by_class(
    real: Side,
    fake: Side,
    names: Sequence[str],
    groups: Groups,
    logits: FeatureStore | None,
    reporter: Reporter,
    device: torch.device | None = None,
    held: HeldGaussians | None = None,
) -> ByClass:
    """FID and KID of the images of each class against the real ones of that class.

    names: of the indices in the labels. groups: of these names; their Inception Score is of
    `logits` of the fakes, where there are any. Equal to the scores of folders of one class each.
    held: those of `real`, from one fake to the next.
    """
    held = held or HeldGaussians()
    scores = [
        _class_score(name, real, fake, index, device, held)
        for index, name in enumerate(track(names, reporter, "FID by class", len(names), "classes"))
    ]
    ordered = sorted(scores, key=lambda c: -np.inf if c.fid is None else c.fid, reverse=True)
    index = {name: i for i, name in enumerate(names)}
    found = [
        _group_score(name, tuple(group), real, fake, [index[c] for c in group], logits, held)
        for name, group in groups.items()
    ]
    width = 0 if logits is None else logits.width
    return ByClass(tuple(ordered), real.features.width, tuple(found), width)


def _class_score(
    name: str,
    real: Side,
    fake: Side,
    index: int,
    device: torch.device | None,
    held: HeldGaussians,
) -> ClassScore:
    rows = real.rows(index), fake.rows(index)
    counts = len(rows[0]), len(rows[1])
    if min(counts) < 2:
        return ClassScore(name, *counts)
    y, x = (
        side.features.take(_at_most(chosen, SUBSET_SIZE)).to(device)
        for side, chosen in zip((real, fake), rows, strict=True)
    )
    return ClassScore(name, *counts, _distance(real, fake, rows, held), squared_mmd(x, y))


def _group_score(
    name: str,
    classes: tuple[str, ...],
    real: Side,
    fake: Side,
    indices: Sequence[int],
    logits: FeatureStore | None,
    held: HeldGaussians,
) -> GroupScore:
    rows = real.rows(*indices), fake.rows(*indices)
    counts = len(rows[0]), len(rows[1])
    fid = _distance(real, fake, rows, held) if min(counts) >= 2 else None
    mean = std = splits = None
    if logits is not None and counts[1] >= 2:
        splits = min(SPLITS, counts[1] // 2)
        mean, std = inception_score(lambda i: logits.take(rows[1][i]).numpy(), counts[1], splits)
    return GroupScore(name, classes, *counts, fid, mean, std, splits)


def _distance(real: Side, fake: Side, rows: tuple[Rows, Rows], held: HeldGaussians) -> float:
    return held.of(real.features, rows[0]).distance(_fitted(fake.features, rows[1]))


def _fitted(store: FeatureStore, rows: Rows) -> RootGaussian:
    """The Gaussian of these rows: of few by the rows themselves, which are a small root."""
    if len(rows) <= store.width:
        features = store.take(rows)
        if not bool(torch.isfinite(features).all()):
            raise DdpmError("features hold NaN or infinity: are the weights damaged?")
        return RootGaussian.of_rows(features)
    fitted = moments(store, rows)
    return RootGaussian.of_moments(fitted.mean, fitted.covariance)


def _at_most(rows: Rows, count: int) -> Rows:
    """These rows, or as many of them, chosen at random by a fixed seed."""
    return rows if len(rows) <= count else np.sort(rows[shuffled(len(rows))[:count]])
