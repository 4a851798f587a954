"""Resize and scaling against the formulas, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.networks.protocols import (
    CLEAN_FID,
    PROTOCOLS,
    PYTORCH_FID,
    TORCH_FIDELITY,
    Protocol,
    local_protocol,
    protocol,
)

Floats = NDArray[np.float64]


def images(height: int, width: int, channels: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8, generator=g)


def bilinear(x: Floats, source: Floats) -> Floats:
    """Interpolate the last axis at the source coordinates, in float64."""
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, x.shape[-1] - 1)
    return x[..., low] * (1 - (source - low)) + x[..., high] * (source - low)


def half_pixel(size: int) -> Floats:
    return np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, None)


def corner(size: int) -> Floats:
    return np.arange(299) * size / 299


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (299, 299), (400, 310), (1, 7)])
def test_pytorch_fid(size: tuple[int, int]) -> None:
    x = images(*size)
    wide = bilinear(x.double().numpy(), half_pixel(size[1]))
    expected = bilinear(wide.swapaxes(2, 3), half_pixel(size[0])).swapaxes(2, 3) / 127.5 - 1
    assert np.abs(PYTORCH_FID.prepare(x).numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (299, 299), (400, 310), (1, 7)])
def test_torch_fidelity(size: tuple[int, int]) -> None:
    x = images(*size)
    wide = bilinear(x.double().numpy(), corner(size[1]))
    expected = (bilinear(wide.swapaxes(2, 3), corner(size[0])).swapaxes(2, 3) - 128) / 128
    assert np.abs(TORCH_FIDELITY.prepare(x).numpy() - expected).max() < 1e-4


def test_tensorflow_resize_bit_for_bit() -> None:
    """Scalar float32 arithmetic in the order of TensorFlow's kernel, at a few pixels."""
    x = images(32, 20)
    ours = TORCH_FIDELITY.prepare(x).numpy()
    f32 = np.float32
    for row, column in ((0, 0), (1, 298), (17, 5), (150, 201), (298, 298)):
        y, x_at = f32(row) * f32(32 / 299), f32(column) * f32(20 / 299)
        top, left = math.floor(y), math.floor(x_at)
        bottom, right = min(top + 1, 31), min(left + 1, 19)
        dy, dx = y - f32(top), x_at - f32(left)
        p = x[1, 2].numpy().astype(f32)
        above = p[top, left] + (p[top, right] - p[top, left]) * dx
        below = p[bottom, left] + (p[bottom, right] - p[bottom, left]) * dx
        assert ours[1, 2, row, column] == (above + (below - above) * dy - f32(128)) / f32(128)


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (400, 310), (1, 7)])
def test_torch_fidelity_equals_the_peer(size: tuple[int, int]) -> None:
    peer = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = images(*size)
    resized = peer.interpolate_bilinear_2d_like_tensorflow1x(
        x.float(), size=(299, 299), align_corners=False
    )
    assert torch.equal(TORCH_FIDELITY.prepare(x), (resized - 128) / 128)


@pytest.mark.parametrize("variant", PROTOCOLS["inception"])
def test_grey_is_replicated_and_images_are_independent(variant: Protocol) -> None:
    grey = images(40, 30, channels=1)
    prepared = variant.prepare(grey)
    assert prepared.shape == (2, 3, 299, 299)
    assert torch.equal(prepared, variant.prepare(grey.repeat(1, 3, 1, 1)))
    assert torch.equal(prepared[1:], variant.prepare(grey[1:]))


@pytest.mark.parametrize("variant", PROTOCOLS["inception"])
def test_only_uint8_images_are_accepted(variant: Protocol) -> None:
    with pytest.raises(TypeError, match=r"uint8, not torch\.float32"):
        variant.prepare(images(8, 8).float())
    with pytest.raises(TypeError, match=r"not \(2, 4, 8, 8\)"):
        variant.prepare(images(8, 8, channels=4))
    with pytest.raises(TypeError, match=r"not \(3, 8, 8\)"):
        variant.prepare(images(8, 8)[0])


def test_protocols_by_name() -> None:
    assert protocol("pytorch-fid") is PYTORCH_FID
    assert protocol("torch-fidelity") is TORCH_FIDELITY
    assert protocol("clean-fid") is CLEAN_FID
    known = "pytorch-fid, torch-fidelity, clean"
    with pytest.raises(UsageError, match=f"is unknown; choose one of {known}"):
        protocol("clean")


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (299, 299), (400, 310), (1, 7), (700, 20)])
def test_clean_fid_is_pils_bicubic_on_floats(size: tuple[int, int]) -> None:
    x = images(*size)
    channels = [Image.fromarray(c.numpy().astype(np.float32)) for c in x.flatten(0, 1)]
    resized = [np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in channels]
    expected = (np.stack(resized).clip(0, 255).reshape(2, 3, 299, 299) - 128) / 128
    assert np.abs(CLEAN_FID.prepare(x).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("size", [(32, 32), (400, 310)])
def test_clean_fid_equals_the_peer(size: tuple[int, int]) -> None:
    peer = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    x = images(*size)
    resized = np.stack([peer(image.permute(1, 2, 0).numpy()) for image in x])
    expected = (resized.transpose(0, 3, 1, 2) - 128) / 128
    assert np.abs(CLEAN_FID.prepare(x).numpy() - expected).max() < 1e-6


def test_local_features_resize_to_the_classifiers_size() -> None:
    x = images(28, 20)
    same = local_protocol((28, 20), 3)
    assert torch.equal(same.prepare(x), x.float() / 127.5 - 1)
    grey = local_protocol((14, 10), 1).prepare(x)
    assert grey.shape == (2, 1, 14, 10)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    expected = (x * weights).sum(1, keepdim=True) / 127.5 - 1
    assert (grey.mean() - expected.mean()).abs() < 0.01
    one = images(28, 20, channels=1)
    alike = local_protocol((28, 20), 1).prepare(one.expand(-1, 3, -1, -1))
    assert (alike - (one.float() / 127.5 - 1)).abs().max() < 1e-6
