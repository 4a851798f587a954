"""What the training images look like, in numbers that samples are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages, StreamedPixels
from ddpm_cli.core.data.inspection.image_statistics import ImageStatistics
from ddpm_cli.core.runtime.files import write_json
from ddpm_cli.core.runtime.reporting import Dispensable, Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory

_MOST = 10_000  # images that are looked at
_MOST_STREAMED = 1000  # where each has to be decoded for that
_VALUES = 200_000_000  # of them all, which takes seconds; but of _FEWEST images in any case
_FEWEST = 100
_BATCH = 64


def write_statistics(
    run: RunDirectory, images: DecodedImages, config: RunConfig, reporter: Reporter
) -> None:
    """Write statistics.json, unless the run has one. Where that fails, it is a notice."""
    if run.read_statistics() is not None:
        return
    with Dispensable(reporter).attempt("statistics of the images"):
        write_json(run.statistics, statistics(images, config).document())


def statistics(images: DecodedImages, config: RunConfig) -> ImageStatistics:
    """The appearance of the images, or of some at random where they are many."""
    network = config.network
    classes = 0 if network.multi_label else len(network.classes)
    return ImageStatistics.of(_batches(images, chosen(images, config)), classes)


def chosen(images: DecodedImages, config: RunConfig) -> NDArray[np.int64]:
    """The images that are looked at."""
    network = config.network
    values = network.channels * network.size[0] * network.size[1]
    streamed = isinstance(images.pixels, StreamedPixels)
    most = min(_MOST_STREAMED if streamed else _MOST, max(_FEWEST, _VALUES // values))
    if most >= len(images):
        return np.arange(len(images))
    random = np.random.default_rng(0)
    return np.sort(random.choice(len(images), most, replace=False, shuffle=False))


def _batches(
    images: DecodedImages, indices: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    for start in range(0, len(indices), _BATCH):
        pixels, labels = images.take(indices[start : start + _BATCH])
        yield pixels.numpy(), labels.numpy()
