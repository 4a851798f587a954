"""Non-leaky augmentation: pictures moved exactly as the network is told, and never without."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.data import augmentation
from ddpm_cli.core.data.augmentation import draw_moves, labels, mirrored, moved

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
    assert told.shape == (1, augmentation.LABELS)
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
