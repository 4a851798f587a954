"""A network level by level: its operations against a closed form, and the sums of its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runs import anatomy, drawing
from ddpm_cli.core.runs.anatomy import DECODER, EMBEDDING, ENCODER, INPUT, MIDDLE, OUTPUT
from ddpm_cli.core.runs.inspection import WEIGHTS, Inspection

EMBEDDING_WIDTH = 32


def conv(positions: int, inputs: int, outputs: int, kernel: int) -> int:
    """Two operations for each weight at each position."""
    return 2 * positions * inputs * outputs * kernel**2


def residual(positions: int, inputs: int, outputs: int) -> int:
    modulation = 2 * EMBEDDING_WIDTH * outputs
    skip = 0 if inputs == outputs else conv(positions, inputs, outputs, 1)
    return (
        conv(positions, inputs, outputs, 3)
        + conv(positions, outputs, outputs, 3)
        + modulation
        + skip
    )


def attention(positions: int, channels: int) -> int:
    """Queries, keys and values; q k^T and its product with v; the projection out."""
    products = 2 * 2 * positions**2 * channels
    return (
        conv(positions, channels, 3 * channels, 1)
        + products
        + conv(positions, channels, channels, 1)
    )


def test_operations_in_closed_form() -> None:
    """Two levels of widths 8 and 16 on an image of 8x8."""
    config = NetworkConfig(
        size=(8, 8), channels=3, width=8, multipliers=(1, 2), blocks=("res", "res,attn"),
        middle="res,attn,res", heads=2, classes=("a", "b"),
    )  # fmt: skip
    fine, coarse = 64, 16  # positions
    expected = {
        (EMBEDDING, 0): 2 * (8 * 32 + 32 * 32),
        (INPUT, 0): conv(fine, 3, 8, 3),
        (ENCODER, 0): residual(fine, 8, 8),
        (ENCODER, 1): conv(coarse, 8, 8, 3) + residual(coarse, 8, 16) + attention(coarse, 16),
        (MIDDLE, 1): 2 * residual(coarse, 16, 16) + attention(coarse, 16),
        # With the skip connections of the stage and of the downsampling.
        (DECODER, 1): (
            residual(coarse, 16 + 16, 16) + residual(coarse, 16 + 8, 16) + 2 * attention(coarse, 16)
        ),
        (DECODER, 0): (
            conv(fine, 16, 16, 3) + residual(fine, 16 + 8, 8) + residual(fine, 8 + 8, 8)
        ),
        (OUTPUT, 0): conv(fine, 8, 3, 3),
    }
    found = anatomy.anatomy(config)
    assert {(part.name, part.level): part.flops for part in found.parts} == expected
    assert found.flops == sum(expected.values())


NETWORKS = {
    "ddpm": NetworkConfig(),
    "patches": NetworkConfig(width=32, patch=4, multipliers=(1, 2, 4), blocks=("res,attn",)),
    "everything": NetworkConfig(
        size=(30, 31), multipliers=(1, 2), width=16, classes=("a", "b"), text=TextConfig(),
        blocks=("conv,linear-attn,channel-attn,class-attn,text-attn",), resample="res",
        given_channels=2, given_noise=True, augmented=True, multi_label=True,
    ),
    "one level": NetworkConfig(size=(8, 8), multipliers=(1,), blocks=("res",), middle="res"),
    "frozen encoder": NetworkConfig(
        size=(8, 8), width=8, multipliers=(1,), blocks=("res,text-attn",), text=TextConfig("clip"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_add_up(name: str) -> None:
    config = NETWORKS[name]
    found, network = anatomy.anatomy(config), UNet(config)
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert found.parameters == parameter_count(network)
    assert sum(part.flops for part in found.parts) == found.flops
    for part in found.of(ENCODER):
        assert part.width == config.levels[part.level].width
    names = [part.name for part in found.parts]
    assert names.count(ENCODER) == names.count(DECODER) == len(config.multipliers)


def test_ddpm_on_cifar10() -> None:
    """35.7 million parameters (Ho et al. 2020, section 4)."""
    found = anatomy.anatomy(NETWORKS["ddpm"])
    assert round(found.parameters / 1e6, 1) == 35.7
    assert [part.size for part in found.of(ENCODER)] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert [part.blocks for part in found.of(ENCODER)][1] == "down,res,attn,res,attn"


def test_an_image_that_is_padded() -> None:
    config = replace(NETWORKS["one level"], size=(7, 9), multipliers=(1, 1))
    assert [part.size for part in anatomy.anatomy(config).of(ENCODER)] == [(8, 10), (4, 5)]


@pytest.mark.parametrize("name", ["patches", "everything", "one level"])
def test_the_picture(name: str, tmp_path: Path) -> None:
    config = RunConfig(network=NETWORKS[name])
    found = Inspection(Path(name), WEIGHTS, "", config, anatomy.anatomy(config.network))
    drawing.draw(tmp_path / "net.png", found)
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
