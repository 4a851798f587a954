"""Non-leaky augmentation: transforms match the labels that condition the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import DataConfig, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.augmentation import augment, flip, labels, sample_parameters
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.models.embeddings import AUGMENTATIONS
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.training.batches import Batches
from tests.support.cli import TINY, Result
from tests.support.training import batches_of

CPU = torch.device("cpu")
NAMES = ("left", "top", "scale", "angle", "direction", "stretch", "right", "down")


def params(count: int = 1, **values: float) -> Tensor:
    """Parameters (count, 8), zero except those named."""
    one = torch.tensor([values.pop(name, 0.0) for name in NAMES], dtype=torch.float64)
    assert not values
    return one.repeat(count, 1)


@pytest.fixture
def images(noise: Callable[..., Tensor]) -> Tensor:
    """White noise, in which any wrong pixel shows: (3, 3, 8, 8) in [-1, 1]."""
    return noise(3, 3, 8, 8).clamp(-1, 1).float()


def sampled(count: int, probability: float, flip_probability: float = 0.5, seed: int = 0) -> Tensor:
    return sample_parameters(
        count, probability, flip_probability, torch.Generator().manual_seed(seed)
    )


def test_an_image_without_parameters_is_unchanged_in_a_batch_with_others(images: Tensor) -> None:
    parameters = torch.cat([params(), params(angle=1.0), params()])
    out = augment(images, parameters)
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    assert not torch.equal(out[1], images[1])
    assert labels(parameters)[[0, 2]].abs().max() == 0
    assert torch.equal(augment(images, params(3)), images)


def test_flips_permute_pixels(images: Tensor) -> None:
    assert torch.equal(augment(images, params(3, left=1)), images.flip(-1))
    assert torch.equal(augment(images, params(3, top=1)), images.flip(-2))
    assert torch.equal(augment(images, params(3, left=1, top=1)), images.flip(-1, -2))
    mask = torch.tensor([True, False, True])
    out = flip(images, mask)
    assert torch.equal(out, torch.stack([images[0].flip(-1), images[1], images[2].flip(-1)]))


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_quarter_turns_are_counter_clockwise(images: Tensor, turns: int) -> None:
    out = augment(images, params(3, angle=turns * math.pi / 2))
    torch.testing.assert_close(out, torch.rot90(images, turns, (2, 3)), rtol=0, atol=1e-5)


def test_translations_by_whole_pixels_pad_by_reflection(images: Tensor) -> None:
    """An eighth of 8 pixels is one; the pixels at the edge are repeated in reverse order."""
    right = augment(images, params(3, right=2))
    torch.testing.assert_close(right[..., 2:], images[..., :-2], rtol=0, atol=1e-5)
    torch.testing.assert_close(right[..., :2], images[..., :2].flip(-1), rtol=0, atol=1e-5)
    down = augment(images, params(3, down=-1))
    torch.testing.assert_close(down[:, :, :-1], images[:, :, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(down[:, :, -1], images[:, :, -1], rtol=0, atol=1e-5)


def landscape(x: Tensor, y: Tensor) -> Tensor:
    """A smooth image without any symmetry, at points x to the right and y down, in pixels."""
    waves = (0.13 * x + 0.05 * y).sin() + (0.09 * y - 0.04 * x + 1).cos() + (0.1 * y).sin()
    return (waves / 3.3).float()


def test_any_transform_maps_points_as_the_formulas_do() -> None:
    """An input point, mapped through the transformations one by one, keeps its value.

    The formulas are written with complex numbers, independent of the matrices in the code, for an
    image that is not square.
    """
    height, width = 40, 64
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    parameters = sampled(24, 1.0, flip_probability=1.0, seed=3)
    parameters[:, 6:] *= 0.5  # most of the image stays inside the frame
    out = augment(landscape(x, y).expand(24, 1, -1, -1), parameters)

    compared = 0
    for i, row in enumerate(parameters.tolist()):
        left, top, scale, angle, direction, stretch, right, down = row
        z = torch.complex(
            x.double(), -y.double()
        )  # where each input pixel is mapped; up is positive
        z = torch.complex(z.real * (1 - 2 * left), z.imag * (1 - 2 * top))
        z = z * 2 ** (0.2 * scale) * np.exp(1j * angle)
        z = z * np.exp(-1j * direction)
        z = torch.complex(z.real * 2 ** (0.2 * stretch), z.imag / 2 ** (0.2 * stretch))
        z = z * np.exp(1j * direction)
        out_x, out_y = z.real + right * width / 8, -z.imag + down * height / 8
        columns, rows = out_x + (width - 1) / 2, out_y + (height - 1) / 2
        inside = (columns >= 2) & (columns <= width - 3) & (rows >= 2) & (rows <= height - 3)
        inside &= (x.abs() < width / 2 - 4) & (
            y.abs() < height / 2 - 4
        )  # and away from the padding
        values = bilinear(out[i, 0], rows[inside], columns[inside])
        torch.testing.assert_close(values, landscape(x, y)[inside], rtol=0, atol=0.02)
        compared += int(inside.sum())
    assert compared > 24 * 500


def bilinear(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Bilinear interpolation at points (row, column)."""
    r, c = row.long(), column.long()
    fall, side = (row - r).float(), (column - c).float()
    upper = image[r, c] * (1 - side) + image[r, c + 1] * side
    lower = image[r + 1, c] * (1 - side) + image[r + 1, c + 1] * side
    return upper * (1 - fall) + lower * fall


def test_downscaling_is_antialiased() -> None:
    """At half the size, stripes one pixel wide are beyond the Nyquist limit and average out."""
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    half = augment(stripes, params(scale=-5))  # 2^(0.2 * -5)
    assert half.abs().max() < 1e-4
    assert augment(stripes, params(right=8 / 64)).abs().min() > 0.999  # one pixel: lossless
    narrow = augment(stripes, params(stretch=-5))  # half as wide, twice as high
    assert narrow.abs().max() < 1e-4
    flat = augment(stripes, params(stretch=5))  # twice as wide: each stripe has two pixels now
    assert flat.abs().mean() > 0.5


def test_padding_is_not_black_and_values_stay_in_range(images: Tensor) -> None:
    white = torch.ones(200, 1, 5, 9)
    parameters = sampled(200, 1.0)
    torch.testing.assert_close(augment(white, parameters), white)
    assert augment(images.sign()[:1].expand(200, -1, -1, -1), parameters).abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (3, 5)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_size(size: tuple[int, int], channels: int) -> None:
    out = augment(torch.rand(16, channels, *size), sampled(16, 1.0))
    assert out.shape == (16, channels, *size)
    assert out.isfinite().all()


def test_labels_are_the_papers() -> None:
    augmented = labels(
        torch.tensor([[1, 0, 0.5, 2.0, -1.0, 1.5, -0.25, 0.75]], dtype=torch.float64)
    )
    expected = [
        *(1, 0, 0.5),
        *(math.cos(2) - 1, math.sin(2)),
        *(1.5 * math.cos(1), -1.5 * math.sin(1)),
        *(-0.25, 0.75),
    ]
    assert augmented.shape == (1, AUGMENTATIONS)
    torch.testing.assert_close(augmented, torch.tensor([expected]))


def test_parameters_have_the_distribution_of_table_6() -> None:
    """20,000 draws: frequencies within five standard deviations, moments near those of table 6."""
    parameters = sampled(20_000, 0.3, flip_probability=0.8)
    frequency = (parameters != 0).double().mean(dim=0)
    expected = torch.tensor([0.4, 0.15, *6 * [0.3]], dtype=torch.float64)
    assert (frequency - expected).abs().max() < 5 * math.sqrt(0.25 / 20_000)
    assert ((parameters[:, 4] != 0) == (parameters[:, 5] != 0)).all()  # a stretch and its direction
    assert ((parameters[:, 6] != 0) == (parameters[:, 7] != 0)).all()
    together = ((parameters[:, 2] != 0) & (parameters[:, 3] != 0)).double().mean()
    assert together == pytest.approx(0.09, abs=0.012)  # independently of each other
    for column in (2, 5, 6, 7):
        values = parameters[:, column][parameters[:, column] != 0]
        assert values.mean() == pytest.approx(0, abs=0.07)
        assert values.std() == pytest.approx(1, abs=0.05)
    for column in (3, 4):
        angles = parameters[:, column][parameters[:, column] != 0]
        assert angles.abs().max() <= math.pi
        assert angles.std() == pytest.approx(math.pi / math.sqrt(3), abs=0.06)


def test_never_and_always() -> None:
    assert sampled(100, 0.0, flip_probability=0.0).abs().max() == 0
    assert (sampled(100, 1.0)[:, 2:] != 0).all()
    assert torch.equal(sampled(9, 0.5, seed=4), sampled(9, 0.5, seed=4))
    assert not torch.equal(sampled(9, 0.5, seed=4), sampled(9, 0.5, seed=5))


def test_a_shard_of_the_batch_is_augmented_like_the_whole(noise: Callable[..., Tensor]) -> None:
    images, parameters = noise(9, 3, 16, 16).clamp(-1, 1).float(), sampled(9, 0.4)
    for shard in (slice(0, 4), slice(4, 9)):
        torch.testing.assert_close(
            augment(images[shard], parameters[shard]),
            augment(images, parameters)[shard],
            rtol=0,
            atol=1e-6,
        )


CONFIG = updated(
    RunConfig(), TINY | {"network": TINY["network"] | {"size": [8, 8], "augmented": True}}
)


def batches(**data: Any) -> Batches:
    """Batches of eight from 20 images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    images = DecodedImages(pixels, np.full(20, -1), np.arange(20))
    config = replace(CONFIG, data=DataConfig(**data))
    return batches_of(config, images)


def test_a_batch_matches_its_labels_and_nothing_else_changes() -> None:
    augmented, plain = batches(augment=0.3), batches(flip=False)
    kinds = set()
    for images_seen in range(0, 160, 8):
        batch, before = augmented.draw(images_seen, None), plain.draw(images_seen, None)
        assert before.condition.augmented is None
        assert batch.condition.augmented is not None
        assert torch.equal(batch.noised.noise, before.noised.noise)
        assert torch.equal(batch.noised.sigma, before.noised.sigma)
        for label, x0, original in zip(
            batch.condition.augmented, batch.noised.x0, before.noised.x0, strict=True
        ):
            kind = "resampled" if label[1:].any() else "flipped" if label[0] else "unchanged"
            kinds.add(kind)
            assert torch.equal(x0, original) == (kind == "unchanged")
            assert torch.equal(x0, original.flip(-1)) == (kind == "flipped")
    assert kinds == {"unchanged", "flipped", "resampled"}


def test_two_processes_shard_the_parameters_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(augment=0.5).draw(16, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shards = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shards.append(batches(augment=0.5).draw(16, None))
    augmented = [shard.condition.augmented for shard in shards]
    images = [shard.noised.x0 for shard in shards]
    assert torch.equal(torch.cat(augmented), whole.condition.augmented)
    torch.testing.assert_close(torch.cat(images), whole.noised.x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.1)])
def test_flip_always_enables_flips(flip: bool, share: float) -> None:
    source = batches(augment=0.2, flip=flip)
    augmented = torch.cat([source.draw(s, None).condition.augmented for s in range(0, 1000, 8)])
    assert augmented[:, 0].mean() == pytest.approx(share, abs=0.06)
    assert augmented[:, 1].mean() == pytest.approx(0.1, abs=0.04)


def randomised() -> UNet:
    torch.manual_seed(0)
    network = UNet(CONFIG.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_the_network_uses_its_labels_and_none_are_zeros() -> None:
    network, x, t = randomised(), torch.randn(4, 3, 8, 8), torch.tensor([0.0, 5.0, 300.0, 999.0])
    augmented = labels(sampled(4, 1.0))
    torch.testing.assert_close(
        network(x, t), network(x, t, Condition(augmented=torch.zeros(4, AUGMENTATIONS)))
    )
    out = network(x, t, Condition(augmented=augmented))
    assert (out - network(x, t)).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    out.square().mean().backward()
    assert network.embedding.augmented is not None
    gradient = network.embedding.augmented.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=0) > 0).all()  # each of the nine


def test_held_out_images_are_not_augmented() -> None:
    held_out = DecodedImages(np.full((6, 3, 8, 8), 9, np.uint8), np.full(6, -1), np.arange(6))
    (one,), (other,) = (batches(augment=a).fixed(held_out, np.arange(6)) for a in (0.0, 1.0))
    assert torch.equal(one.noised.x, other.noised.x)
    assert other.condition.augmented is None


def test_resuming_and_sampling(
    train_tiny: Callable[..., Result], ddpm: Callable[..., Result]
) -> None:
    command = ("--augment", 0.4, "--out", "run", "--preview", 0, "--json")
    assert train_tiny(*command).code == 0
    uninterrupted = load_file("run/model.safetensors")
    Path("run/snapshots/000000000064.pt").unlink()
    assert train_tiny(*command).json()["resumed_at"] == 32
    resumed = load_file("run/model.safetensors")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)

    config = json.loads(Path("run/config.json").read_text())
    assert (config["data"]["augment"], config["network"]["augmented"]) == (0.4, True)
    assert ddpm("sample", "run", "-n", 2, "--steps", 2).code == 0
    changed = train_tiny("--augment", 0.2, "--out", "run")
    assert (changed.code, "--augment 0.4 -> 0.2" in changed.err) == (1, True)


def test_half_precision_trains(train_tiny: Callable[..., Result]) -> None:
    result = train_tiny(
        "--augment", 1, "--precision", "bf16", "--images", 24, "--preview", 0, "--json"
    )
    assert result.code == 0
    assert math.isfinite(result.json()["loss"])
    assert result.json()["skipped_steps"] == 0


def test_the_network_has_labels_if_and_only_if_there_is_augmentation(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    sizes = [
        train_tiny(*options, "--dry-run", "--json").json()["parameters"]
        for options in ((), ("--augment", 0.1), ("--augment", 0))
    ]
    assert sizes == [sizes[0], sizes[0] + 9 * 8, sizes[0]]
    wrong = train_tiny("--augment", 1.2, "--dry-run")
    assert (wrong.code, "--augment is a fraction between 0 and 1, not 1.2" in wrong.err) == (
        2,
        True,
    )
