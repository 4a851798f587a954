"""Statistics of images: each number by its definition, classes, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ddpm_cli.core.data.inspection import image_statistics
from ddpm_cli.core.data.inspection.image_statistics import SCALARS, ImageStatistics, measure
from ddpm_cli.core.data.inspection.image_statistics import noise as noise_of

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (70, 3, 8, 12)).astype(np.uint8)


def test_each_number_by_its_definition() -> None:
    images = IMAGES.copy()
    images[0] = 77  # one colour
    values, unit = measure(images), images / 255
    expected = {
        "brightness": unit.mean(axis=(1, 2, 3)),
        "contrast": np.sqrt(unit.var(axis=(2, 3)).mean(axis=1)),
        "saturated": ((images == 0) | (images == 255)).mean(axis=(1, 2, 3)),
        "flat": np.arange(70) == 0,
    }
    for name, numbers in expected.items():
        np.testing.assert_allclose(values[:, SCALARS.index(name)], numbers, atol=1e-12)
    below = [(images < 16 * part).mean(axis=(2, 3)) for part in range(1, 16)]
    np.testing.assert_allclose(image_statistics.tones(values), np.stack(below, axis=2))
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(unit), 4)
    np.testing.assert_allclose(image_statistics.thumbnails(values), pooled.flatten(1).numpy())
    assert values.shape == (70, image_statistics.length(3))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_number_of_channels(shape: tuple[int, int], channels: int) -> None:
    images = np.full((2, channels, *shape), 51, np.uint8)
    images[:, 3:] = 255  # alpha is no colour
    values = measure(images)
    assert values.shape == (2, image_statistics.length(channels))
    assert values[0, 0] == pytest.approx(0.2)
    np.testing.assert_allclose(image_statistics.thumbnails(values), 0.2)


def test_noise_is_told_from_edges_and_gradients() -> None:
    ramp = np.broadcast_to(np.linspace(60, 180, 32), (8, 3, 32, 32)).copy()
    ramp[:, :, 10:20, 5:25] += 40
    white = RANDOM.normal(0, 10, ramp.shape)
    assert noise_of(ramp.astype(np.uint8)).max() * 255 < 1
    assert noise_of((ramp + white).astype(np.uint8)).mean() * 255 == pytest.approx(10, rel=0.08)


def test_statistics_of_all_and_of_classes() -> None:
    labels = np.arange(70) % 3 // 2  # 47 and 23 images
    halves = [(IMAGES[:40], labels[:40]), (IMAGES[40:], labels[40:])]
    assert ImageStatistics.of(halves, 2).classes == (None, None)  # too few of each
    twice = ImageStatistics.of([*halves, *halves], 2)
    values = measure(IMAGES)
    np.testing.assert_allclose(twice.all.mean, values.mean(axis=0))
    np.testing.assert_allclose(twice.all.std, values.std(axis=0))
    own = values[labels == 0]
    assert twice.classes[1] is None and twice.classes[0] is not None
    np.testing.assert_allclose(twice.classes[0].mean, own.mean(axis=0))
    brightness = own[:, 0] - own[:, 0].mean()
    skew = (brightness**3).mean() / (brightness**2).mean() ** 1.5
    assert twice.classes[0].skew[0] == pytest.approx(skew)
    assert twice.classes[0].images == 2 * 47


def test_statistics_as_json_and_back() -> None:
    labels = np.zeros(70, np.int64)
    statistics = ImageStatistics.of([(IMAGES, labels)], 2)
    document = json.loads(json.dumps(statistics.document()))
    back = ImageStatistics.read(document, 3)
    assert back is not None and back.classes[1] is None and back.classes[0] is not None
    for name in ("mean", "std", "skew", "low", "high"):
        for one, other in ((back.all, statistics.all), (back.classes[0], statistics.classes[0])):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4)


@pytest.mark.parametrize("document", [None, [], {}, {"all": {}}, {"all": 3, "classes": []}, "x"])
def test_other_documents_are_no_statistics(document: object) -> None:
    assert ImageStatistics.read(document, 3) is None


def test_statistics_of_other_channels_are_none() -> None:
    statistics = ImageStatistics.of([(IMAGES, np.zeros(70, np.int64))], 0)
    assert statistics.classes == () and ImageStatistics.read(statistics.document(), 1) is None
