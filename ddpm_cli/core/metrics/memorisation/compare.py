"""Fakes and held-out images, each with its nearest training image in features and in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.collect import Keep, collect
from ddpm_cli.core.metrics.feature_cache import collect_cached
from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.rows import images_at, indices_at
from ddpm_cli.core.metrics.memorisation.pixels import (
    PixelNeighbours,
    nearest_in_pixels,
    thumbnails,
)
from ddpm_cli.core.metrics.memorisation.small_images import (
    Recorded,
    Size,
    SmallImages,
    fitted,
    working_size,
)
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.scores.neighbours import nearest
from ddpm_cli.core.runtime.reporting import Reporter, Warned

MOST_EQUAL = 0.1  # of the held-out images, that may equal a training image
FAR = 95.0  # percentile of the training images' distances from each other, beyond which is far
_NEIGHBOUR = 5  # whose distance tells how far: near-duplicates in the data do not change it
_SAMPLED = 2000  # training images that tell how far these are from each other, at most
_FEWEST = 20, 10  # training images, and others, to be compared so


@dataclass(frozen=True)
class Input:
    """Fakes, training images or held-out images, read."""

    images: ImageSet
    small: SmallImages
    features: FeatureStore

    def names(self, rows: Sequence[int]) -> list[str]:
        """The names of the images in these rows."""
        return [self.images.name(index) for index in indices_at(self.images, rows)]

    def pictures(self, rows: Sequence[int], size: Size) -> NDArray[np.uint8]:
        """The images in these rows at a size, (n, 3, height, width), read again if it is larger."""
        if size == self.small.size:
            return self.small.take(np.array(rows)).numpy()
        read = images_at(self.images, rows)
        return torch.cat(
            [fitted(image[None], size).expand(-1, 3, -1, -1) for image in read]
        ).numpy()


@dataclass(frozen=True)
class Compared:
    """Images, each with its nearest training image."""

    pixels: PixelNeighbours
    features: NDArray[np.float64]  # (n,) distances in feature space
    own: NDArray[np.float64]  # (n,) of that training image to its own nearest other one
    far: float | None  # the share of them that is far from the training images (`_far`)
    equal: int  # how many equal a training image

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Comparison:
    """Fakes and held-out images against the same training images."""

    fake: Input
    train: Input
    fakes: Compared
    held_out: Compared
    size: Size  # of the fakes


def compare(
    fake: ImageSet,
    train: ImageSet,
    held_out: ImageSet,
    extractor: Extractor,
    reporter: Reporter,
    *,
    cache: bool = True,
) -> Comparison:
    """Find every fake's and every held-out image's nearest training image, in one process.

    All are compared at the size of the fakes, or with 64 pixels a side. Raises DdpmError for fewer
    than 2 images in an input, and where many of the held-out images are training images.
    """
    for images, name in ((fake, "the fakes"), (train, "--train"), (held_out, "--held-out")):
        if len(images) < 2:
            raise DdpmError(f"{images.label} ({name}) holds fewer than 2 images; give more")
    own_size = _size_of(fake)
    size = working_size(own_size)
    reporter.say(f"images are compared at {size[1]}x{size[0]} pixels")
    small_train, small_held_out = (
        _read(images, size, what, reporter)
        for images, what in ((train, "training"), (held_out, "held-out"))
    )
    known = _digests(small_train)
    _check_apart(small_held_out, known, held_out.label, reporter)

    def extracted(images: ImageSet, small: SmallImages, what: str) -> Input:
        # what is sampled is read once, and small images are kept meanwhile
        function = collect if what == "fake" or not cache else collect_cached
        features = function(images, extractor, Keep(features=True), what, reporter).features
        assert features is not None, "there is one process"
        return Input(images, small, features)

    trained = extracted(train, small_train, "training")
    others = extracted(held_out, small_held_out, "held-out")
    small_fake = SmallImages(size)
    fakes = extracted(Recorded(fake, small_fake), small_fake, "fake")
    _check_new(small_fake, small_held_out, reporter)
    device = torch.device("cpu") if extractor.device.type == "mps" else extractor.device
    points = thumbnails(small_train)
    k, of = min(_NEIGHBOUR, len(trained.features) - 1), "nearest in features"
    apart = _apart(trained.features, k, reporter, device)

    def compared(images: Input, what: str) -> Compared:
        pixels = nearest_in_pixels(images.small, small_train, points, what, reporter, device)
        near = nearest(images.features, trained.features, k, reporter, device, what=f"{what}: {of}")
        own = _own_nearest(near.rows[:, 0].numpy(), trained.features, reporter, device)
        features = np.sqrt(near.squared.double().numpy())
        equal = int(np.isin(_digests(images.small), known).sum())
        return Compared(pixels, features[:, 0], own, _far(features[:, -1], apart), equal)

    return Comparison(
        fakes, trained, compared(fakes, "fakes"), compared(others, "held-out"), own_size
    )


def _size_of(images: ImageSet) -> Size:
    """The size of the first image that can be read."""
    for stop in (1, len(images)):
        for batch in images.batches(slice(0, stop)):
            return batch.shape[2], batch.shape[3]
    raise DdpmError(f"no image of {images.label} can be read")


def _read(images: ImageSet, size: Size, what: str, reporter: Reporter) -> SmallImages:
    small = SmallImages(size)
    with reporter.bar(f"{what} images", len(images), "images") as bar:
        for batch in images.batches(slice(0, len(images))):
            small.append(batch)
            bar.update(len(small))
    return small


def _own_nearest(
    rows: NDArray[np.int64], train: FeatureStore, reporter: Reporter, device: torch.device
) -> NDArray[np.float64]:
    """Distances (n,) of these training images to their nearest others."""
    hit, places = np.unique(rows, return_inverse=True)
    what = "training images: nearest in features"
    two = nearest(_part(train, hit), train, 2, reporter, device, what=what)  # itself, and another
    first = two.rows[:, 0].numpy() == hit
    own = np.where(first, two.squared[:, 1].numpy(), two.squared[:, 0].numpy())
    return np.sqrt(own.astype(np.float64))[places]


def _apart(
    train: FeatureStore, k: int, reporter: Reporter, device: torch.device
) -> NDArray[np.float64]:
    """Distances of up to 2,000 training images, evenly spaced, to the k-th nearest other one."""
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), _SAMPLED)).astype(np.int64))
    what = "training images: how far apart"
    near = nearest(_part(train, rows), train, k + 1, reporter, device, what=what)
    squared: NDArray[np.float64] = near.squared[:, k].double().numpy()  # the first is itself
    return np.sqrt(squared)


def _far(distances: NDArray[np.float64], apart: NDArray[np.float64]) -> float | None:
    """The share of images farther from the training images than 95 % of these are from each other.

    By the distance to the k-th nearest; images of the same kind have 5 %, as both are drawn alike.
    None for too few to tell.
    """
    if len(apart) < _FEWEST[0] or len(distances) < _FEWEST[1]:
        return None
    return float(np.mean(distances > np.percentile(apart, FAR)))


def _part(store: FeatureStore, rows: NDArray[np.int64]) -> FeatureStore:
    part = FeatureStore(store.width)
    for start in range(0, len(rows), BLOCK):
        part.append(store.take(rows[start : start + BLOCK]))
    return part


def _digests(images: SmallImages) -> NDArray[np.uint64]:
    """(n,) hashes, equal for equal images."""
    return np.array(
        [
            int.from_bytes(blake2b(image.numpy().tobytes(), digest_size=8).digest())
            for block in images.blocks()
            for image in block
        ],
        np.uint64,
    )


def _check_apart(
    held_out: SmallImages, known: NDArray[np.uint64], label: str, reporter: Reporter
) -> None:
    """Raise DdpmError where the held-out images are training images; warn where a few are."""
    equal = int(np.isin(_digests(held_out), known).sum())
    if equal > MOST_EQUAL * len(held_out):
        raise DdpmError(
            f"{equal:,} of the {len(held_out):,} held-out images ({label}) are training images, "
            "pixel by pixel: they cannot show how near new images are; give --held-out images "
            "that were not trained on"
        )
    if equal:
        reporter.say(
            Warned(
                f"{equal:,} of the {len(held_out):,} held-out images ({label}) equal a training "
                "image; as many of the fakes are taken for chance"
            )
        )


def _check_new(fakes: SmallImages, held_out: SmallImages, reporter: Reporter) -> None:
    equal = int(np.isin(_digests(fakes), _digests(held_out)).sum())
    if equal > MOST_EQUAL * len(fakes):
        reporter.say(
            Warned(
                f"{equal:,} of the {len(fakes):,} fakes are held-out images, pixel by pixel: was "
                "the model trained on --held-out, or is FAKE that folder?"
            )
        )
