"""Copies of training images: distances in pixels, statistics, planted copies, the verdict."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs.opening import ArrayImages
from ddpm_cli.core.metrics.memorisation.compare import compare
from ddpm_cli.core.metrics.memorisation.pixels import (
    CANDIDATES,
    NEIGHBOURS,
    aligned_distances,
    nearest_in_pixels,
    thumbnails,
    tolerance,
)
from ddpm_cli.core.metrics.memorisation.report import MemorisationReport
from ddpm_cli.core.metrics.memorisation.small_images import SmallImages, fitted, working_size
from ddpm_cli.core.metrics.memorisation.statistics import (
    auth_pct,
    c_t,
    excess,
    images_needed,
    share,
)
from ddpm_cli.core.metrics.networks.extraction import Extractor, load_local_extractor
from ddpm_cli.core.runtime.reporting import SILENT, Silent

Pixels = NDArray[np.uint8]
"""(N, H, W, C)."""

CPU = torch.device("cpu")


def pictures(n: int, seed: int, size: int = 24, channels: int = 3) -> Pixels:
    """Smooth random images, each with its own contrast and brightness."""
    rng = np.random.default_rng(seed)
    grey = ndimage.gaussian_filter(rng.standard_normal((n, size, size, 1)), (0, 2, 2, 0))
    colours = ndimage.gaussian_filter(rng.standard_normal((n, size, size, channels)), (0, 4, 4, 0))
    fields = grey / grey.std() + 0.5 * colours / colours.std()
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    contrast, brightness = rng.uniform(20, 45, (n, 1, 1, 1)), rng.uniform(100, 150, (n, 1, 1, 1))
    return np.asarray((brightness + contrast * fields).clip(0, 255).round(), np.uint8)


def jpeg(images: Pixels) -> Pixels:
    found = []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "JPEG", quality=50)
        found.append(np.asarray(Image.open(content)))
    return np.array(found, np.uint8).reshape(images.shape)


KINDS: dict[str, Callable[[Pixels], Pixels]] = {
    "exact": lambda x: x,
    "JPEG": jpeg,
    "shifted by 2": lambda x: np.pad(x, ((0, 0), (2, 0), (0, 2), (0, 0)), mode="edge")[:, :-2, 2:],
    "mirrored": lambda x: x[:, :, ::-1],
    "brightened": lambda x: np.asarray((1.2 * x + 20).clip(0, 255), np.uint8),
}


@pytest.fixture
def extractor(trained: Path) -> Extractor:
    return load_local_extractor(trained, CPU, 64)


class Noted(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def report(
    fake: Pixels, train: Pixels, held_out: Pixels, extractor: Extractor
) -> MemorisationReport:
    images = [ArrayImages(x) for x in (fake, train, held_out)]
    return MemorisationReport.of(compare(*images, extractor, SILENT), extractor.origin, *images)


def stored(images: Pixels) -> SmallImages:
    small = SmallImages(working_size((images.shape[1], images.shape[2])))
    for part in torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).split(7):
        small.append(part)
    return small


def by_definition(image: NDArray[np.float64], other: NDArray[np.float64], reach: int) -> float:
    """The least deviation that any allowed copy of `other` leaves, by scipy's bounded fit."""
    from scipy.optimize import lsq_linear

    height, width = image.shape[1:]
    rows, columns = height - 2 * reach, width - 2 * reach
    x = image[:, reach : reach + rows, reach : reach + columns].ravel() - 127.5
    least = np.inf
    for flipped in (False, True):
        for top in range(2 * reach + 1):
            for left in range(2 * reach + 1):
                y = other[:, top : top + rows, left : left + columns]
                y = (y[:, :, ::-1] if flipped else y).ravel() - 127.5
                matrix = np.stack([y, np.ones_like(y)], axis=1)
                fit = lsq_linear(matrix, x, bounds=([0.5, -1e9], [2.0, 1e9]))
                least = min(least, 2 * fit.cost / len(x))
    return float(np.sqrt(least / (x.var() + 4)))


def test_distance_is_what_the_best_copy_leaves() -> None:
    images = pictures(6, seed=3, size=10).transpose(0, 3, 1, 2).astype(float)
    images += 127 - images.mean(axis=(1, 2, 3), keepdims=True)  # within the 64 grey levels
    images = images.clip(0, 255).astype(np.uint8)
    found = aligned_distances(
        torch.from_numpy(images[:3].copy()), torch.from_numpy(images[None, 3:].repeat(3, 0)), 1
    )
    for i in range(3):
        for j in range(3):
            expected = by_definition(images[i].astype(float), images[3 + j].astype(float), 1)
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-4)  # products in float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_nearest_to_its_original_and_near(kind: str) -> None:
    train = pictures(150, seed=0)
    images, points = stored(train), thumbnails(stored(train))
    found = nearest_in_pixels(stored(KINDS[kind](train[:20])), images, points, "", SILENT, CPU)
    assert found.rows.tolist() == list(range(20))
    assert found.relative.max() < 0.35  # of other images of this kind at least 0.6
    if kind in ("exact", "shifted by 2", "mirrored"):
        assert found.distance.max() == 0


def test_the_search_finds_what_comparing_with_all_finds() -> None:
    """Of images that are between a training image and another: none is a copy."""
    train = pictures(300, seed=0)
    images = np.asarray(0.7 * train[:20] + 0.3 * pictures(20, seed=1), np.uint8)
    found = nearest_in_pixels(
        stored(images), stored(train), thumbnails(stored(train)), "", SILENT, CPU
    )
    every = torch.from_numpy(train.transpose(0, 3, 1, 2).copy())[None].expand(20, -1, -1, -1, -1)
    queries = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    best, order = aligned_distances(queries, every, tolerance((24, 24))).sort(dim=1)
    assert found.rows.tolist() == order[:, 0].tolist() == list(range(20))
    next_ones = best[:, 1 : NEIGHBOURS + 1].mean(dim=1).numpy()
    assert found.relative == pytest.approx(best[:, 0].numpy() / next_ones, rel=0.1)


def test_few_training_images_and_equal_ones_have_distances() -> None:
    few = pictures(2, seed=0)
    found = nearest_in_pixels(stored(few), stored(few), thumbnails(stored(few)), "", SILENT, CPU)
    assert found.relative.tolist() == [0, 0]
    same = np.full((5, 24, 24, 3), 90, np.uint8)
    flat = nearest_in_pixels(stored(same), stored(same), thumbnails(stored(same)), "", SILENT, CPU)
    assert flat.relative.tolist() == [0] * 5  # equal to all: 0 over 0
    other = np.full((1, 24, 24, 3), 250, np.uint8)
    apart = nearest_in_pixels(
        stored(other), stored(same), thumbnails(stored(same)), "", SILENT, CPU
    )
    assert apart.distance[0] == pytest.approx((122.5 + 0.5 * 37.5 - 64) / 2)  # about mid-grey
    assert CANDIDATES > NEIGHBOURS


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (5, 9), (16, 16), (28, 28), (64, 40)])
def test_images_of_any_size_are_their_own_nearest(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, *size, 1), dtype=np.uint8)
    images[:, 0, 0, 0] = 8 * np.arange(30)  # of single pixels each is another
    found = nearest_in_pixels(
        stored(images), stored(images), thumbnails(stored(images)), "", SILENT, CPU
    )
    assert found.distance.max() == 0


def test_images_are_stored_at_one_size_and_read_back() -> None:
    x = torch.from_numpy(pictures(9, seed=0, channels=1).transpose(0, 3, 1, 2).copy())
    small = SmallImages((24, 24))
    small.append(x)
    assert small.grey
    rows = np.array([8, 0, 0, 3])
    assert torch.equal(small.take(rows), x[torch.from_numpy(rows)].expand(-1, 3, -1, -1))
    small.append(torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8))
    assert (len(small), small.size, small.grey) == (11, (24, 24), False)
    assert torch.equal(torch.cat(list(small.blocks(4))), small.take(np.arange(11)))
    assert small.take(np.arange(0)).shape == (0, 3, 24, 24)
    assert working_size((300, 150)) == (64, 32)
    assert working_size((9, 5)) == (9, 5)


def test_images_of_another_shape_are_cut_around_the_centre() -> None:
    x = torch.zeros(1, 1, 20, 40, dtype=torch.uint8)
    x[..., 10:30] = 200  # the middle square
    assert torch.equal(fitted(x, (10, 10)), torch.full((1, 1, 10, 10), 200, dtype=torch.uint8))


def test_auth_pct_by_hand() -> None:
    """Two of four are farther from their training image than that from its own neighbour."""
    assert auth_pct(np.array([1.0, 2.0, 0.5, 3.0]), np.array([0.5, 2.0, 1.0, 1.0])) == 50


def test_c_t_by_the_formula_and_against_scipy() -> None:
    rng = np.random.default_rng(0)
    fakes, held_out = rng.normal(0, 1, 40), rng.normal(0.5, 1, 60)
    u = sum(float(a > b) + 0.5 * float(a == b) for a in fakes for b in held_out)
    z = (u - 40 * 60 / 2) / np.sqrt(40 * 60 * 101 / 12)
    assert c_t(fakes, held_out) == pytest.approx(z, rel=1e-12)
    test = stats.mannwhitneyu(fakes, held_out, use_continuity=False, method="asymptotic")
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(test.pvalue, rel=1e-9)
    assert c_t(fakes - 2, held_out) < -3
    assert c_t(held_out, held_out) == 0


def test_the_excess_is_that_of_the_limits() -> None:
    p, q = share(100, 1000), share(20, 1000)
    for count in (0, 1, 20, 1000):
        limits = stats.binomtest(count, 1000).proportion_ci(0.99, method="exact")
        assert share(count, 1000)[1:] == pytest.approx((limits.low, limits.high), abs=1e-9)
    found = excess(p, q)
    assert found.value == pytest.approx(0.08 / 0.98)
    lower = 0.08 - np.hypot(p.value - p.low, q.high - q.value)
    assert found.low == pytest.approx(lower / 0.98)
    assert excess(q, p) == (0, 0, pytest.approx(excess(q, p).high))  # never below 0
    assert excess(share(5, 5), share(5, 5)) == (0, 0, 1)  # all are as near as copies
    assert excess(share(5, 5), share(0, 100)).value == 1


def test_the_interval_holds_the_truth_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for truth, chance in ((0.0, 0.01), (0.05, 0.02), (0.1, 0.002)):
        p = truth + (1 - truth) * chance
        draws = [
            excess(share(int(a), 500), share(int(b), 500))
            for a, b in zip(rng.binomial(500, p, 400), rng.binomial(500, chance, 400), strict=True)
        ]
        inside = np.mean([draw.low <= truth <= draw.high for draw in draws])
        assert inside >= 0.98  # 0.99, and a standard error of 0.005


def test_more_images_are_needed_where_chance_explains_more() -> None:
    assert images_needed(0.0, 0.02) < images_needed(0.05, 0.02) < images_needed(0.3, 0.02)


@pytest.mark.parametrize(("planted", "called"), [(0, "none"), (10, "copies"), (30, "copies")])
def test_planted_copies_are_found(planted: int, called: str, extractor: Extractor) -> None:
    """Of 300 fakes: none on images that are new, and a tenth to 2 points."""
    train, held_out = pictures(400, seed=0), pictures(400, seed=1)
    copies = [make(train[8 * i : 8 * i + planted // 5]) for i, make in enumerate(KINDS.values())]
    fakes = np.concatenate([pictures(300 - planted, seed=2), *copies])
    found = report(fakes, train, held_out, extractor)
    assert found.copied.value == pytest.approx(planted / 300, abs=0.005)
    assert found.copied.low <= planted / 300 <= found.copied.high
    assert found.conclusion == called
    assert found.equal == planted // 5
    assert [pair.place >= 300 - planted for pair in found.pairs[:planted]] == [True] * planted
    assert ("No sign" in found.verdict) == (planted == 0)


def test_near_duplicates_that_the_data_itself_holds_are_no_copies(extractor: Extractor) -> None:
    """A tenth of new images are series of training images: of fakes as many, which is chance."""
    train = pictures(300, seed=0)
    series = KINDS["shifted by 2"](train[:60])
    held_out = np.concatenate([pictures(270, seed=1), series[:30]])
    fakes = np.concatenate([pictures(270, seed=2), series[30:]])
    found = report(fakes, train, held_out, extractor)
    assert found.like_copies.value == pytest.approx(0.1)
    assert found.copied.low == 0
    assert found.conclusion != "copies"


def test_fakes_that_are_the_training_images(extractor: Extractor) -> None:
    train = pictures(120, seed=0)
    found = report(train, train, pictures(150, seed=1), extractor)
    assert (found.copied.value, found.equal, found.auth_pct) == (1, 120, 0)
    assert found.pixels.fakes.value == found.features.fakes.value == 1
    assert found.c_t < -10
    assert "About 100 % of the fakes are copies" in found.verdict
    assert any("120 of the 120 fakes equal" in notice for notice in found.notices())


def test_too_few_images_tell_nothing_and_how_many_would(extractor: Extractor) -> None:
    found = report(pictures(2, 2), pictures(30, 0), pictures(12, 1), extractor)
    assert found.conclusion == "unknown"
    assert found.verdict.startswith("Too few images to tell: 0 % of 2 fakes")
    assert "500 fakes and as many held-out images would tell it to 2 points" in found.verdict
    assert any("12 held-out images have no 1st percentile" in n for n in found.notices())


def test_constant_images_have_a_verdict(extractor: Extractor) -> None:
    flat = np.full((20, 24, 24, 3), 128, np.uint8)
    found = report(flat, pictures(30, 0), pictures(30, 1), extractor)
    assert found.copied.low == 0  # a grey square is like no picture
    assert np.isfinite(found.c_t)


def test_held_out_images_that_were_trained_on_are_refused(extractor: Extractor) -> None:
    train, new = pictures(40, 0), pictures(60, 1)
    leaked = np.concatenate([train[:8], new[:32]])
    with pytest.raises(DdpmError, match=r"8 of the 40 held-out images \(array\) are training"):
        report(new[40:], train, leaked, extractor)
    noted = Noted()
    few = ArrayImages(np.concatenate([train[:2], new[:38]]))
    compare(ArrayImages(new[:20]), ArrayImages(train), few, extractor, noted)
    assert any("2 of the 40 held-out images (array) equal a training" in x for x in noted.said)
    assert any("20 of the 20 fakes are held-out images" in said for said in noted.said)
    with pytest.raises(DdpmError, match="fewer than 2 images"):
        report(new, train[:1], new, extractor)


def test_training_images_of_another_kind_give_no_verdict(extractor: Extractor) -> None:
    """Noise is far from smooth pictures: as held-out images, and where all others are noise."""
    noise = np.random.default_rng(0).integers(0, 256, (340, 24, 24, 3), dtype=np.uint8)
    train, new = pictures(120, 0), pictures(240, 1)
    held_out = report(new[:120], train, noise[:200], extractor)
    assert held_out.conclusion == "unknown"
    assert held_out.verdict.startswith("Nothing can be said: the held-out images are not like")
    both = report(noise[:140], train, noise[140:], extractor)
    assert both.conclusion == "unknown"
    assert "--train is probably another data set" in both.verdict
    assert both.held_out_far is not None and both.held_out_far > 0.9
    fakes = report(noise[:140], train, new, extractor)
    assert any("they are poor, or" in notice for notice in fakes.notices())
    alike = report(new[:120], train, new[120:], extractor)
    assert alike.held_out_far is not None and alike.held_out_far < 0.2
    doubled = np.concatenate([train, train])  # an image's nearest other one is itself
    twice = report(new[:120], doubled, new[120:], extractor)
    assert "Nothing can be said" not in twice.verdict
