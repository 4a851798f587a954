"""Conditions taken from images of a data set: their classes, captions and given images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.labels import combinations, label_of
from ddpm_cli.core.conditioning.requests import ConditionPlan
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.runtime.reporting import Reporter


def representative_rows(images: DecodedImages, count: int) -> NDArray[np.int64]:
    """`count` rows, (count,), in which each class has its share of the images to within one.

    Of multi-label images each combination of classes. They are evenly spaced within the sorted
    classes, and repeat where there are fewer images. The classes are interleaved: balanced ones
    come in turn, and a part of the rows has the same shares.
    """
    labels = combinations(images.labels)
    by_class = images.rows[np.argsort(labels[images.rows], kind="stable")]
    rows = by_class[np.arange(count) * len(by_class) // count]
    _, first, sizes = np.unique(labels[rows], return_index=True, return_counts=True)
    rank = np.arange(count) - np.repeat(first, sizes)  # within the class
    return rows[np.argsort((rank + 0.5) / np.repeat(sizes, sizes), kind="stable")]


def plan_of(
    config: RunConfig,
    images: DecodedImages,
    rows: NDArray[np.int64],
    device: torch.device,
    reporter: Reporter,
) -> ConditionPlan:
    """Classes and captions of the images of these rows, in their order.

    Where a text encoder may have to be downloaded, let one process of a machine call this first.
    """
    labels = tuple(map(label_of, images.labels[rows])) if config.network.classes else ()
    if images.captions is None:
        return ConditionPlan(labels)
    numbers = images.captions.choose(rows, np.zeros(len(rows)))
    prompts = tuple(images.captions.sentences[number] for number in numbers)
    return ConditionPlan(labels, prompts).encode_prompts(config, device, reporter)
