"""The nearest training image in pixels, whatever its shift, mirroring, brightness and contrast.

Two steps: images that may be near are found among all training images by small grey thumbnails, and
those are compared pixel by pixel. Memory is constant in the number of images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.memorisation.small_images import Size, SmallImages
from ddpm_cli.core.runtime.devices import without_tf32
from ddpm_cli.core.runtime.reporting import Reporter

CANDIDATES = 24  # training images that are compared pixel by pixel, for each image
NEIGHBOURS = 20  # next to the nearest, that an image's distance is relative to
_THUMBNAIL = 16  # pixels a side, of which one is cut off on each side to allow for shifts
_NOISE = 2.0  # grey levels: less contrast than that is none
_CONTRAST = (0.5, 2.0)  # by which a copy's contrast may differ
_BRIGHTNESS = 64.0  # grey levels by which its brightness may
_QUERIES, _POINTS, _ALIGNED = 512, 4096, 16  # images at a time


class PixelNeighbours(NamedTuple):
    """The nearest training image of each of n images."""

    distance: NDArray[np.float64]  # (n,), of `aligned_distances`
    relative: NDArray[np.float64]  # (n,), over the mean distance of the next neighbours
    rows: NDArray[np.int64]  # (n,)


def nearest_in_pixels(
    images: SmallImages,
    train: SmallImages,
    points: FeatureStore,
    what: str,
    reporter: Reporter,
    device: torch.device,
) -> PixelNeighbours:
    """The nearest training image of each image, and how near it is for that image.

    `relative` is the distance over the mean of the next 20 nearest ones, as Carlini et al. (2023,
    section 5.1) compare it with the 50 next: images that are like all others, such as of plain
    colours, are near to many, and a copy is near to one. 0 where both are 0.

    Args:
        images: n images.
        train: The training images, at least 2, of the same size.
        points: `thumbnails` of the training images.
        what: The images, for the progress bar.
        reporter: For progress.
        device: Where to compute.
    """
    found: list[tuple[Tensor, Tensor]] = []
    reach, grey = tolerance(images.size), images.grey and train.grey
    with reporter.bar(f"{what}: nearest in pixels", len(images), "images") as bar:
        for block in images.blocks(_QUERIES):
            candidates = _candidates(block.to(device), points)
            for part, rows in zip(
                torch.split(block, _ALIGNED), torch.split(candidates, _ALIGNED), strict=True
            ):
                others = train.take(rows.flatten().numpy())
                others = others.reshape(*rows.shape, *others.shape[1:])
                channels = slice(0, 1 if grey else 3)
                distances = aligned_distances(
                    part[:, channels].to(device), others[:, :, channels].to(device), reach
                ).cpu()
                ordered, order = distances.sort(dim=1, stable=True)
                found.append((ordered[:, : NEIGHBOURS + 1], rows.gather(1, order)[:, 0]))
                bar.update(sum(len(rows) for _, rows in found))
    distances = torch.cat([distances for distances, _ in found]).double()
    nearest, others = distances[:, 0], distances[:, 1:].mean(dim=1)
    relative = torch.where(nearest > 0, nearest / others, 0.0)
    rows = torch.cat([rows for _, rows in found])
    return PixelNeighbours(nearest.numpy(), relative.numpy(), rows.numpy())


def tolerance(size: Size) -> int:
    """Pixels by which a copy may be shifted: a sixteenth of the shorter side, 2 of 32."""
    side = min(size)
    return min(max(1, round(side / _THUMBNAIL)), (side - 1) // 4)


def thumbnails(images: SmallImages) -> FeatureStore:
    """The middle of every image's thumbnail, normalised: 196 numbers of images of 16x16 or more."""
    middle = 4  # of the nine windows
    store: FeatureStore | None = None
    for block in images.blocks():
        rows = _normalised(_windows(_grey_thumbnails(block))[middle])
        store = store or FeatureStore(rows.shape[1])
        store.append(rows)
    assert store is not None, "no images"
    return store


def aligned_distances(images: Tensor, others: Tensor, reach: int) -> Tensor:
    """What of an image the best copy made of another leaves, (B, K), of images (B, K, C, H, W).

    The middle of an image, (B, C, H, W), is compared with that of the other, shifted by up to
    `reach` pixels, mirrored or not, with its contrast times 0.5 to 2 and its brightness moved by up
    to 64 grey levels: the deviation that remains, over the image's own. 0 is a copy; 1 has nothing
    in common with it.
    """
    height, width = images.shape[2:]
    rows, columns = height - 2 * reach, width - 2 * reach
    middle = images[:, :, reach : reach + rows, reach : reach + columns].float() - 127.5
    mean, variance = middle.flatten(1).mean(dim=1), middle.flatten(1).var(dim=1, correction=0)
    both = torch.stack([middle, middle.flip(3)], dim=1).flatten(2) - mean[:, None, None]
    candidates = others.float() - 127.5
    least = torch.full(candidates.shape[:2], torch.inf, device=images.device)
    for top in range(2 * reach + 1):
        for left in range(2 * reach + 1):
            window = candidates[..., top : top + rows, left : left + columns].flatten(2)
            their_mean = window.mean(dim=2)
            window = window - their_mean[..., None]
            their_variance = window.square().mean(dim=2)
            products = torch.bmm(window, both.transpose(1, 2)) / window.shape[2]
            covariance = products.amax(dim=2)  # mirrored or not
            contrast = (covariance / their_variance.clamp(min=1e-6)).clamp(*_CONTRAST)
            fit = variance[:, None] - 2 * contrast * covariance + contrast**2 * their_variance
            brightness = (mean[:, None] - contrast * their_mean).abs()
            beyond = (brightness - _BRIGHTNESS).clamp(min=0).square()
            least = torch.minimum(least, fit + beyond)
    # products in float32 leave about 1e-6 of the variance of images that are equal
    least = torch.where(least > 1e-5 * variance[:, None], least, 0.0)
    return (least / (variance[:, None] + _NOISE**2)).sqrt()


def _candidates(images: Tensor, points: FeatureStore) -> Tensor:
    """The training images with the most similar thumbnails, shifted and mirrored: (n, K) rows.

    Each is there once. Of correlations no more than their order is used: float32 will do.
    """
    thumbnail = _grey_thumbnails(images)
    queries = [_normalised(w) for t in (thumbnail, thumbnail.flip(2)) for w in _windows(t)]
    best = torch.empty(len(images), 0, device=images.device)
    rows = torch.empty(len(images), 0, dtype=torch.int64, device=images.device)
    start = 0
    with without_tf32():
        for block in points.blocks(_POINTS):
            block = block.to(images.device)
            similarity = queries[0] @ block.T
            for query in queries[1:]:
                torch.maximum(similarity, query @ block.T, out=similarity)
            values, places = similarity.topk(min(CANDIDATES, len(block)), dim=1)
            best, rows = torch.cat([best, values], 1), torch.cat([rows, places + start], 1)
            best, order = best.topk(min(CANDIDATES, best.shape[1]), dim=1)
            rows, start = rows.gather(1, order), start + len(block)
    return rows.cpu()


def _grey_thumbnails(images: Tensor) -> Tensor:
    """(n, up to 16, up to 16), means of blocks of the channels' mean."""
    grey = images.float().mean(dim=1)
    height, width = (min(_THUMBNAIL, side) for side in grey.shape[1:])
    return functional.adaptive_avg_pool2d(grey, (height, width))


def _windows(thumbnails: Tensor) -> list[Tensor]:
    """The nine windows one pixel smaller on each side; of very small ones, nine times the whole."""
    height, width = thumbnails.shape[1:]
    if min(height, width) < 4:
        return [thumbnails] * 9
    places = [(top, left) for top in range(3) for left in range(3)]
    return [thumbnails[:, t : t + height - 2, w : w + width - 2] for t, w in places]


def _normalised(windows: Tensor) -> Tensor:
    """(n, d) of mean 0 and norm 1, or less where there is hardly any contrast."""
    flat = windows.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return flat / (flat.square().sum(dim=1, keepdim=True) + _NOISE**2 * flat.shape[1]).sqrt()
