"""The U-Net: published sizes, conditions, and independent computations of its parts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as nnf
from torch.utils.flop_counter import FlopCounterMode

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.models.attention import SelfAttention
from ddpm_cli.core.models.blocks import Downsample, ResidualBlock
from ddpm_cli.core.models.embeddings import Embeddings, sinusoidal
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet

TINY = NetworkConfig(
    size=(8, 8), width=8, multipliers=(1, 2), blocks=("res", "res,attn"), patch=2, dropout=0.0
)


NONE = Embeddings(torch.zeros(2, 32))


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Without zero-initialised layers, which would hide errors."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize("resample", ["conv", "res"])
def test_operations_are_those_of_convolutions(resample: str) -> None:
    """As torch counts them, which also does so for the embeddings."""
    network = UNet(replace(TINY, size=(8, 16), blocks=("res,attn",), resample=resample))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 16), torch.zeros(1))
    counts = counter.get_flop_counts()["Global"]
    assert network.forward_operations() == counts[torch.ops.aten.convolution]


@pytest.mark.parametrize(
    ("name", "change", "published"),
    [
        ("cifar10", {}, 35_746_307),
        ("iddpm-cifar10", {}, 52_546_438),
        ("edm-cifar10", {"augmented": False}, 55_732_739),
        ("edm-cifar10", {"augmented": True}, 55_733_891),  # with its nine augmentation labels
        ("adm-64", {"classes": tuple(map(str, range(1000)))}, 295_904_454),
        ("celeba-64", {}, 78_700_803),  # 78.70 M
    ],
)
def test_presets_are_the_papers_networks(name: str, change: dict[str, Any], published: int) -> None:
    config = updated(RunConfig(), PRESETS[name].settings)
    config.check()
    with torch.device("meta"):
        assert parameter_count(UNet(replace(config.network, **change))) == published


@pytest.mark.parametrize("modulation", ["add", "scale-shift"])
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 16)), (4, (12, 4))])
def test_shapes_and_gradients(modulation: str, channels: int, size: tuple[int, int]) -> None:
    network = randomised(
        UNet(replace(TINY, modulation=modulation, channels=channels, size=size, classes=("a", "b")))
    )
    x, c_noise = torch.randn(3, channels, *size), torch.tensor([0.0, 10.0, 999.0])
    out = network(x, c_noise, Condition(torch.tensor([0, 1, NULL_CLASS])))
    assert out.shape == x.shape
    out.square().mean().backward()
    without = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert without == []  # so DDP never waits for an unused parameter


@pytest.mark.parametrize("patch", [1, 2])
def test_a_learned_variance_doubles_the_channels(patch: int) -> None:
    network = UNet(replace(TINY, patch=patch, learned_variance=True))
    assert network(torch.randn(2, 3, 8, 8), torch.zeros(2)).shape == (2, 6, 8, 8)
    plain = parameter_count(UNet(replace(TINY, patch=patch)))
    assert parameter_count(network) - plain == 3 * patch**2 * (9 * 8 + 1)


def test_a_fresh_network_outputs_zero() -> None:
    assert UNet(TINY)(torch.randn(2, 3, 8, 8), torch.zeros(2)).abs().max() == 0


def test_conditions_matter_and_no_label_is_the_null_class() -> None:
    network = randomised(UNet(replace(TINY, classes=("a", "b"))))
    x, t = torch.randn(1, 3, 8, 8).expand(3, -1, -1, -1), torch.zeros(3)
    a, b, null = network(x, t, Condition(torch.tensor([0, 1, NULL_CLASS])))
    assert min((a - b).abs().max(), (a - null).abs().max()) > 1e-3
    torch.testing.assert_close(network(x, t)[0], null)
    assert (network(x, t + 500)[0] - null).abs().max() > 1e-3


def test_images_of_a_batch_are_independent() -> None:
    network = randomised(UNet(TINY))
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([1.0, 50.0, 400.0, 999.0])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, t), alone, rtol=1e-4, atol=1e-4)  # float32 sums reordered


def test_the_sinusoidal_embedding_is_ddpms() -> None:
    """Their code: exponents from 0 to 1, all sines before all cosines."""
    out = sinusoidal(torch.tensor([7.0]), 6, "sin-cos")[0]
    rates = [10_000 ** (-i / 2) for i in range(3)]
    expected = [math.sin(7 * r) for r in rates] + [math.cos(7 * r) for r in rates]
    torch.testing.assert_close(out, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_residual_block_against_the_paper_written_out() -> None:
    block = randomised(ResidualBlock(8, 16, replace(TINY, embedding_width=12)))
    x, c = torch.randn(2, 8, 5, 5), torch.randn(2, 12)
    p = dict(block.named_parameters())

    def group_norm(v: torch.Tensor, groups: int, name: str) -> torch.Tensor:
        g = v.reshape(len(v), groups, -1)
        g = (g - g.mean(-1, keepdim=True)) / (g.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        scale, shift = (p[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias"))
        return g.reshape(v.shape) * scale + shift

    h = nnf.conv2d(
        nnf.silu(group_norm(x, 2, "norm1")), p["conv1.weight"], p["conv1.bias"], padding=1
    )
    h = h + (nnf.silu(c) @ p["modulation.weight"].T + p["modulation.bias"])[:, :, None, None]
    h = nnf.conv2d(
        nnf.silu(group_norm(h, 4, "norm2")), p["conv2.weight"], p["conv2.bias"], padding=1
    )
    expected = h + nnf.conv2d(x, p["skip.weight"], p["skip.bias"])
    torch.testing.assert_close(block(x, Embeddings(nnf.silu(c))), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_against_the_paper_written_out(heads: int) -> None:
    layer = randomised(SelfAttention(8, replace(TINY, heads=heads)))
    x = torch.randn(2, 8, 3, 4)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)  # (B, C, pixels)
    out = torch.empty_like(q)
    for h in range(heads):
        part = slice(h * 8 // heads, (h + 1) * 8 // heads)
        weights = torch.softmax(q[:, part].mT @ k[:, part] / math.sqrt(8 / heads), dim=-1)
        out[:, part] = v[:, part] @ weights.mT
    torch.testing.assert_close(
        layer(x, NONE), x + layer.out(out.reshape(x.shape)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("padding", "picked"), [("after", [0, 2, 8, 10]), ("around", [0, 0, 0, 5])]
)
def test_downsampling_pads_right_and_below_or_around(padding: str, picked: list[float]) -> None:
    layer = Downsample(1, replace(TINY, padding=padding))
    torch.nn.init.zeros_(layer.conv.weight)
    with torch.no_grad():
        layer.conv.weight[0, 0, 0, 0] = 1  # picks the window's upper left pixel
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert layer(x, NONE).flatten().tolist() == picked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 2}, "channels 2"),
        ({"width": 6}, "6 channels"),
        ({"width": 0}, "width"),
        ({"blocks": ("res", "res", "res")}, "3 recipes for 2 levels"),
        ({"blocks": ("attn,res",)}, "must begin with res or conv"),
        ({"blocks": ("res,dense",)}, "'dense' is unknown"),
        ({"up_blocks": ("res",)}, "have 1 res or conv for 2 skip connections"),
        ({"blocks": ("res,class-attn",)}, "without classes"),
        ({"blocks": ("res,text-attn",)}, "captions"),
        ({"width": 5, "groups": 5, "multipliers": (1,)}, "width 5 should be even"),
        ({"heads": 3}, "3 heads"),
        ({"head_width": 32}, "heads of 32"),
        ({"groups": 5}, "5 groups"),
        ({"modulation": "later"}, "add, scale-shift"),
    ],
)
def test_invalid_networks_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        UNet(replace(TINY, **change))


def test_only_levels_with_attention_are_split_into_heads() -> None:
    shape = {"width": 8, "multipliers": (1, 3), "blocks": ("res", "res,attn"), "head_width": 12}
    network = UNet(replace(TINY, **shape, middle="res"))
    assert network(torch.zeros(1, 3, 8, 8), torch.zeros(1)).shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="a level of 8 channels cannot be split into heads of 12"):
        replace(TINY, **(shape | {"blocks": ("res,attn", "res")}), middle="res")
    with pytest.raises(UsageError, match="a level of 24 channels cannot be split into heads of 16"):
        replace(TINY, **(shape | {"blocks": ("res", "res"), "head_width": 16}), middle="res,attn")
