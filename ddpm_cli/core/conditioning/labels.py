"""Labels: the class of an image, or of multi-label data the set of those that it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.network_inputs import JOIN, NO_ATTRIBUTE

Label = int | tuple[int, ...]
"""The index of a class; for multi-label, K zeros and ones."""


def label_of(row: NDArray[np.int64]) -> Label:
    """The label of an image: of a row () or (K,) of a source's labels."""
    return int(row) if row.ndim == 0 else tuple(map(int, row))


def label_name(label: Label, names: Sequence[str]) -> str:
    """The label as --class and manifests write it: cat, or Smiling+Male, or none."""
    if isinstance(label, int):
        return names[label]
    present = (name for name, value in zip(names, label, strict=True) if value)
    return JOIN.join(present) or NO_ATTRIBUTE


def multi_hot(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """The label of an image that has these of `count` classes."""
    return tuple(int(index in indices) for index in range(count))


def combinations(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number (N,) for each label (N,) or (N, K), in their order; equal where labels are."""
    if labels.ndim == 1:
        return labels
    numbers: NDArray[np.int64] = np.unique(labels, axis=0, return_inverse=True)[1]
    return numbers.reshape(-1)


def most_frequent(labels: NDArray[np.int64], count: int) -> list[Label]:
    """Up to `count` of the combinations in (N, K) labels, the most frequent first."""
    rows, sizes = np.unique(labels, axis=0, return_counts=True)
    return [label_of(row) for row in rows[np.argsort(-sizes, kind="stable")[:count]]]
