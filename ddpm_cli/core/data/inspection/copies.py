"""Copies among the images of a survey: of each other, in the images held out, in other images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.inspection.near_duplicates import equal_pairs, groups, similar_pairs
from ddpm_cli.core.data.inspection.survey import Survey


@dataclass(frozen=True)
class Copies:
    """Images that show the same picture, by position in a survey's rows."""

    equal: tuple[tuple[int, ...], ...]  # groups of the same file
    similar: tuple[tuple[int, ...], ...]  # groups that look the same, with those of equal ones
    held_out: tuple[tuple[int, int], ...] = ()  # (held out, training)
    elsewhere: tuple[tuple[int, int], ...] = ()  # (here, there): a pair an image here

    @property
    def needless(self) -> int:
        """How many images show what another one does."""
        return sum(len(group) - 1 for group in self.similar)


def find_copies(survey: Survey, held_out: NDArray[np.int64], other: Survey | None = None) -> Copies:
    """Compare the images of a survey, whose rows `held_out` are not trained on, with an other's."""
    count = len(survey.rows)
    prints = survey.prints + ([] if other is None else other.prints)
    similar = similar_pairs(prints)
    inside = similar[similar[:, 1] < count]
    equal = equal_pairs(survey.prints)
    apart = np.isin(survey.rows, held_out)
    crossing = {
        int(pair[apart[pair]][0]): int(pair[~apart[pair]][0])
        for pair in inside
        if apart[pair].sum() == 1
    }
    between = similar[(similar[:, 0] < count) & (similar[:, 1] >= count)]
    elsewhere = {int(here): int(there) - count for here, there in between}
    return Copies(
        _tuples(groups(equal, count)),
        _tuples(groups(inside, count)),
        tuple(sorted(crossing.items())),
        tuple(sorted(elsewhere.items())),
    )


def held_out_rows(survey: Survey, holdout: int, seed: int) -> NDArray[np.int64]:
    """The rows that a training with --holdout and --seed would not train on.

    Images that were not looked at count as readable. Raises DdpmError where none are left.
    """
    unseen_or_readable = np.ones(len(survey.source), bool)
    unseen_or_readable[survey.unreadable_rows] = False
    (rows,) = np.nonzero(unseen_or_readable)
    images = DecodedImages(np.empty((0, 0), np.uint8), survey.source.labels, rows)
    return images.split(holdout, seed)[1].rows


def _tuples(found: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, found))
