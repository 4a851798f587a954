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

_SHOWN = 50  # classes in the table: of more, the worst; --json has all of them


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

    def document(self) -> dict[str, object]:
        """Its entry of --json."""
        return {"group": self.name, **{k: v for k, v in asdict(self).items() if k != "name"}}


@dataclass(frozen=True)
class ByClass:
    """The scores of the classes, worst FID first, those without one last; and of groups."""

    classes: tuple[ClassScore, ...]
    feature_dim: int
    groups: tuple[GroupScore, ...] = ()

    @property
    def worst(self) -> ClassScore | None:
        """The class of the largest FID; None where no class has one."""
        return next((entry for entry in self.classes if entry.fid is not None), None)

    def line(self, label: Label) -> str:
        """The worst class in a line, a table of all, and one of the groups."""
        shown, fid, kid = self.classes[:_SHOWN], label("FID"), label("KID")
        rows = [
            (c.name, str(c.n_real), str(c.n_fake), _number(c.fid), _number(c.kid, ".6f"))
            for c in shown
        ]
        worst = self.worst
        which = "none has 2 images on each side"
        if worst is not None and worst.fid is not None:
            which = f"worst {worst.name} {digits(worst.fid)}"
        lines = [f"{fid} by class: {which}"]
        lines += _table(("class", "real", "fake", fid, kid), rows)
        if more := len(self.classes) - len(shown):
            lines.append(f"and {more:,} more classes, which --json has")
        if self.groups:
            score = label("Inception Score")
            entries = [
                (
                    f"{g.name} ({listed(g.classes)})",
                    *(str(g.n_real), str(g.n_fake), _number(g.fid)),
                    _number(g.inception_score, ".4f", g.inception_score_std),
                )
                for g in self.groups
            ]
            lines += _table(("group", "real", "fake", fid, score), entries)
        return "\n".join(lines)

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


def by_class(
    real: Side,
    fake: Side,
    names: Sequence[str],
    groups: Groups,
    logits: FeatureStore | None,
    reporter: Reporter,
    device: torch.device | None = None,
) -> ByClass:
    """FID and KID of the images of each class against the real ones of that class.

    names: of the indices in the labels. groups: of these names; their Inception Score is of
    `logits` of the fakes, where there are any. Equal to the scores of folders of one class each.
    """
    scores = [
        _class_score(name, real, fake, index, device)
        for index, name in enumerate(track(names, reporter, "FID by class", len(names), "classes"))
    ]
    ordered = sorted(scores, key=lambda c: -np.inf if c.fid is None else c.fid, reverse=True)
    index = {name: i for i, name in enumerate(names)}
    found = [
        _group_score(name, tuple(group), real, fake, [index[c] for c in group], logits)
        for name, group in groups.items()
    ]
    return ByClass(tuple(ordered), real.features.width, tuple(found))


def _class_score(
    name: str, real: Side, fake: Side, index: int, device: torch.device | None
) -> ClassScore:
    rows = real.rows(index), fake.rows(index)
    counts = len(rows[0]), len(rows[1])
    if min(counts) < 2:
        return ClassScore(name, *counts)
    y, x = (
        side.features.take(_at_most(chosen, SUBSET_SIZE)).to(device)
        for side, chosen in zip((real, fake), rows, strict=True)
    )
    return ClassScore(name, *counts, _distance(real, fake, *rows), squared_mmd(x, y))


def _group_score(
    name: str,
    classes: tuple[str, ...],
    real: Side,
    fake: Side,
    indices: Sequence[int],
    logits: FeatureStore | None,
) -> GroupScore:
    rows = real.rows(*indices), fake.rows(*indices)
    counts = len(rows[0]), len(rows[1])
    fid = _distance(real, fake, *rows) if min(counts) >= 2 else None
    mean = std = None
    if logits is not None and counts[1] >= 2:
        splits = min(SPLITS, counts[1] // 2)
        mean, std = inception_score(lambda i: logits.take(rows[1][i]).numpy(), counts[1], splits)
    return GroupScore(name, classes, *counts, fid, mean, std)


def _distance(real: Side, fake: Side, real_rows: Rows, fake_rows: Rows) -> float:
    return _fitted(real.features, real_rows).distance(_fitted(fake.features, fake_rows))


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


def _number(value: float | None, form: str = "", std: float | None = None) -> str:
    if value is None:
        return "-"
    text = format(value, form) if form else digits(value)
    return text if std is None else f"{text} +/- {format(std, form)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, the first to the left and numbers to the right."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
