"""Non-leaky augmentation: pictures moved exactly as the network is told, and never without."""

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
from ddpm_cli.core.data.augmentation import draw_moves, labels, mirrored, moved
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.models.embeddings import AUGMENTATIONS
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.training.batches import Batches
from tests.conftest import TINY, Result

CPU = torch.device("cpu")
NAMES = ("left", "top", "scale", "angle", "direction", "stretch", "right", "down")


def moves(count: int = 1, **given: float) -> Tensor:
    """Parameters (count, 8), zero but for those named."""
    one = torch.tensor([given.pop(name, 0.0) for name in NAMES], dtype=torch.float64)
    assert not given
    return one.repeat(count, 1)


@pytest.fixture
def images(noise: Callable[..., Tensor]) -> Tensor:
    """Nothing but noise, which no wrong pixel survives: (3, 3, 8, 8) within [-1, 1]."""
    return noise(3, 3, 8, 8).clamp(-1, 1).float()


def drawn(count: int, probability: float, mirroring: float = 0.5, seed: int = 0) -> Tensor:
    return draw_moves(count, probability, mirroring, torch.Generator().manual_seed(seed))


def test_a_picture_without_moves_stays_as_it_is_beside_one_with(images: Tensor) -> None:
    told = torch.cat([moves(), moves(angle=1.0), moves()])
    out = moved(images, told)
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    assert not torch.equal(out[1], images[1])
    assert labels(told)[[0, 2]].abs().max() == 0
    assert torch.equal(moved(images, moves(3)), images)


def test_mirrors_swap_pixels(images: Tensor) -> None:
    assert torch.equal(moved(images, moves(3, left=1)), images.flip(-1))
    assert torch.equal(moved(images, moves(3, top=1)), images.flip(-2))
    assert torch.equal(moved(images, moves(3, left=1, top=1)), images.flip(-1, -2))
    chosen = torch.tensor([True, False, True])
    out = mirrored(images, chosen)
    assert torch.equal(out, torch.stack([images[0].flip(-1), images[1], images[2].flip(-1)]))


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_quarter_turns_are_counter_clockwise(images: Tensor, turns: int) -> None:
    out = moved(images, moves(3, angle=turns * math.pi / 2))
    torch.testing.assert_close(out, torch.rot90(images, turns, (2, 3)), rtol=0, atol=1e-5)


def test_translations_by_whole_pixels_go_on_as_reflections(images: Tensor) -> None:
    """An eighth of 8 pixels is one; the edge's pixels come again in reverse order."""
    right = moved(images, moves(3, right=2))
    torch.testing.assert_close(right[..., 2:], images[..., :-2], rtol=0, atol=1e-5)
    torch.testing.assert_close(right[..., :2], images[..., :2].flip(-1), rtol=0, atol=1e-5)
    down = moved(images, moves(3, down=-1))
    torch.testing.assert_close(down[:, :, :-1], images[:, :, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(down[:, :, -1], images[:, :, -1], rtol=0, atol=1e-5)


def landscape(x: Tensor, y: Tensor) -> Tensor:
    """A smooth picture without any symmetry, at points x to the right and y down, in pixels."""
    waves = (0.13 * x + 0.05 * y).sin() + (0.09 * y - 0.04 * x + 1).cos() + (0.1 * y).sin()
    return (waves / 3.3).float()


def test_any_move_is_that_of_the_points_below_it() -> None:
    """A point of the old picture, taken through the transformations one by one, keeps its colour.

    The formulas with complex numbers, on a picture that is not square: none of the code's matrices.
    """
    height, width = 40, 64
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    told = drawn(24, 1.0, mirroring=1.0, seed=3)
    told[:, 6:] *= 0.5  # most of the picture stays in sight
    out = moved(landscape(x, y).expand(24, 1, -1, -1), told)

    compared = 0
    for i, (left, top, scale, angle, direction, stretch, right, down) in enumerate(told.tolist()):
        z = torch.complex(x.double(), -y.double())  # where each old pixel goes; up is positive
        z = torch.complex(z.real * (1 - 2 * left), z.imag * (1 - 2 * top))
        z = z * 2 ** (0.2 * scale) * np.exp(1j * angle)
        z = z * np.exp(-1j * direction)
        z = torch.complex(z.real * 2 ** (0.2 * stretch), z.imag / 2 ** (0.2 * stretch))
        z = z * np.exp(1j * direction)
        goes_x, goes_y = z.real + right * width / 8, -z.imag + down * height / 8
        column, row = goes_x + (width - 1) / 2, goes_y + (height - 1) / 2
        inside = (column >= 2) & (column <= width - 3) & (row >= 2) & (row <= height - 3)
        inside &= (x.abs() < width / 2 - 4) & (y.abs() < height / 2 - 4)  # nor near a reflection
        seen = bilinear(out[i, 0], row[inside], column[inside])
        torch.testing.assert_close(seen, landscape(x, y)[inside], rtol=0, atol=0.02)
        compared += int(inside.sum())
    assert compared > 24 * 500


def bilinear(picture: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The picture's values between its pixels."""
    r, c = row.long(), column.long()
    fall, side = (row - r).float(), (column - c).float()
    upper = picture[r, c] * (1 - side) + picture[r, c + 1] * side
    lower = picture[r + 1, c] * (1 - side) + picture[r + 1, c + 1] * side
    return upper * (1 - fall) + lower * fall


def test_shrinking_averages_instead_of_picking() -> None:
    """At half the size stripes of one pixel are finer than a pixel: nothing of them may be seen."""
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    half = moved(stripes, moves(scale=-5))  # 2^(0.2 * -5)
    assert half.abs().max() < 1e-4
    assert moved(stripes, moves(right=8 / 64)).abs().min() > 0.999  # one pixel: nothing is lost
    narrow = moved(stripes, moves(stretch=-5))  # half as wide, twice as high
    assert narrow.abs().max() < 1e-4
    flat = moved(stripes, moves(stretch=5))  # twice as wide: each stripe has two pixels now
    assert flat.abs().mean() > 0.5


def test_nothing_black_comes_in_and_nothing_leaves_the_range(images: Tensor) -> None:
    white = torch.ones(200, 1, 5, 9)
    told = drawn(200, 1.0)
    torch.testing.assert_close(moved(white, told), white)
    assert moved(images.sign()[:1].expand(200, -1, -1, -1), told).abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (3, 5)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_size(size: tuple[int, int], channels: int) -> None:
    out = moved(torch.rand(16, channels, *size), drawn(16, 1.0))
    assert out.shape == (16, channels, *size)
    assert out.isfinite().all()


def test_labels_are_the_papers() -> None:
    told = labels(torch.tensor([[1, 0, 0.5, 2.0, -1.0, 1.5, -0.25, 0.75]], dtype=torch.float64))
    expected = [
        *(1, 0, 0.5),
        *(math.cos(2) - 1, math.sin(2)),
        *(1.5 * math.cos(1), -1.5 * math.sin(1)),
        *(-0.25, 0.75),
    ]
    assert told.shape == (1, AUGMENTATIONS)
    torch.testing.assert_close(told, torch.tensor([expected]))


def test_moves_are_as_frequent_and_as_large_as_asked() -> None:
    """20,000 draws: shares within five deviations, moments near those of table 6."""
    told = drawn(20_000, 0.3, mirroring=0.8)
    often = (told != 0).double().mean(dim=0)
    expected = torch.tensor([0.4, 0.15, *6 * [0.3]], dtype=torch.float64)
    assert (often - expected).abs().max() < 5 * math.sqrt(0.25 / 20_000)
    assert ((told[:, 4] != 0) == (told[:, 5] != 0)).all()  # a stretch and its direction
    assert ((told[:, 6] != 0) == (told[:, 7] != 0)).all()
    together = ((told[:, 2] != 0) & (told[:, 3] != 0)).double().mean()
    assert together == pytest.approx(0.09, abs=0.012)  # independently of each other
    for column in (2, 5, 6, 7):
        values = told[:, column][told[:, column] != 0]
        assert values.mean() == pytest.approx(0, abs=0.07)
        assert values.std() == pytest.approx(1, abs=0.05)
    for column in (3, 4):
        angles = told[:, column][told[:, column] != 0]
        assert angles.abs().max() <= math.pi
        assert angles.std() == pytest.approx(math.pi / math.sqrt(3), abs=0.06)


def test_never_and_always() -> None:
    assert drawn(100, 0.0, mirroring=0.0).abs().max() == 0
    assert (drawn(100, 1.0)[:, 2:] != 0).all()
    assert torch.equal(drawn(9, 0.5, seed=4), drawn(9, 0.5, seed=4))
    assert not torch.equal(drawn(9, 0.5, seed=4), drawn(9, 0.5, seed=5))


def test_a_share_of_the_batch_is_moved_as_the_whole(noise: Callable[..., Tensor]) -> None:
    images, told = noise(9, 3, 16, 16).clamp(-1, 1).float(), drawn(9, 0.4)
    for share in (slice(0, 4), slice(4, 9)):
        torch.testing.assert_close(
            moved(images[share], told[share]), moved(images, told)[share], rtol=0, atol=1e-6
        )


CONFIG = updated(
    RunConfig(), TINY | {"network": TINY["network"] | {"size": [8, 8], "augmented": True}}
)


def batches(**data: Any) -> Batches:
    """Those of 20 pictures of noise, eight at a time."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    pictures = DecodedImages(pixels, np.full(20, -1), np.arange(20))
    config = replace(CONFIG, data=DataConfig(**data))
    return Batches(config, schedules.from_config(config.diffusion), pictures, CPU)


def test_a_batch_is_moved_as_it_says_and_nothing_else_changes() -> None:
    augmented, plain = batches(augment=0.3), batches(flip=False)
    kinds = set()
    for seen in range(0, 160, 8):
        batch, before = augmented.draw(seen, None), plain.draw(seen, None)
        assert before.condition.augmented is None
        assert batch.condition.augmented is not None
        assert torch.equal(batch.noised.noise, before.noised.noise)
        assert torch.equal(batch.noised.sigma, before.noised.sigma)
        for told, x0, was in zip(
            batch.condition.augmented, batch.noised.x0, before.noised.x0, strict=True
        ):
            kind = "moved" if told[1:].any() else "mirrored" if told[0] else "as it was"
            kinds.add(kind)
            assert torch.equal(x0, was) == (kind == "as it was")
            assert torch.equal(x0, was.flip(-1)) == (kind == "mirrored")
    assert kinds == {"as it was", "mirrored", "moved"}


def test_two_processes_share_the_moves_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(augment=0.5).draw(16, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(batches(augment=0.5).draw(16, None))
    told = [share.condition.augmented for share in shares]
    pictures = [share.noised.x0 for share in shares]
    assert torch.equal(torch.cat(told), whole.condition.augmented)
    torch.testing.assert_close(torch.cat(pictures), whole.noised.x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.1)])
def test_flip_considers_mirroring_always(flip: bool, share: float) -> None:
    drawing = batches(augment=0.2, flip=flip)
    told = torch.cat([drawing.draw(s, None).condition.augmented for s in range(0, 1000, 8)])
    assert told[:, 0].mean() == pytest.approx(share, abs=0.06)
    assert told[:, 1].mean() == pytest.approx(0.1, abs=0.04)


def randomised() -> UNet:
    torch.manual_seed(0)
    network = UNet(CONFIG.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_the_network_hears_its_labels_and_silence_is_zeros() -> None:
    network, x, t = randomised(), torch.randn(4, 3, 8, 8), torch.tensor([0.0, 5.0, 300.0, 999.0])
    told = labels(drawn(4, 1.0))
    torch.testing.assert_close(
        network(x, t), network(x, t, Condition(augmented=torch.zeros(4, AUGMENTATIONS)))
    )
    out = network(x, t, Condition(augmented=told))
    assert (out - network(x, t)).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    out.square().mean().backward()
    assert network.embedding.augmented is not None
    gradient = network.embedding.augmented.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=0) > 0).all()  # each of the nine


def test_held_out_pictures_are_not_moved() -> None:
    held_out = DecodedImages(np.full((6, 3, 8, 8), 9, np.uint8), np.full(6, -1), np.arange(6))
    (one,), (other,) = (batches(augment=a).held_out(held_out) for a in (0.0, 1.0))
    assert torch.equal(one.noised.x, other.noised.x)
    assert other.condition.augmented is None


def test_training_going_on_and_sampling(
    train_tiny: Callable[..., Result], ddpm: Callable[..., Result]
) -> None:
    command = ("--augment", 0.4, "--out", "run", "--preview", 0, "--json")
    assert train_tiny(*command).code == 0
    straight = load_file("run/model.safetensors")
    Path("run/snapshots/000000000064.pt").unlink()
    assert train_tiny(*command).json()["resumed_at"] == 32
    resumed = load_file("run/model.safetensors")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)

    kept = json.loads(Path("run/config.json").read_text())
    assert (kept["data"]["augment"], kept["network"]["augmented"]) == (0.4, True)
    assert ddpm("sample", "run", "-n", 2, "--steps", 2).code == 0
    changed = train_tiny("--augment", 0.2, "--out", "run")
    assert (changed.code, "data.augment 0.4 -> 0.2" in changed.err) == (1, True)


def test_half_precision_learns(train_tiny: Callable[..., Result]) -> None:
    done = train_tiny(
        "--augment", 1, "--precision", "bf16", "--images", 24, "--preview", 0, "--json"
    )
    assert done.code == 0
    assert math.isfinite(done.json()["loss"])
    assert done.json()["skipped_steps"] == 0


def test_the_network_is_told_if_and_only_if_there_is_something_to_tell(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    sizes = [
        train_tiny(*options, "--dry-run", "--json").json()["parameters"]
        for options in ((), ("--augment", 0.1), ("--augment", 0))
    ]
    assert sizes == [sizes[0], sizes[0] + 9 * 8, sizes[0]]
    wrong = train_tiny("--augment", 1.2, "--dry-run")
    assert (wrong.code, "augment is a probability between 0 and 1, not 1.2" in wrong.err) == (
        2,
        True,
    )
