"""Whole networks of every recipe: training, image sizes, compilation, precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.config.unet import CHANNEL_CHANGING
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import devices
from tests.support.networks import CASES, CONFIG, TEXT, every_case, randomised


def network_of(case: str, **change: Any) -> NetworkConfig:
    """A network with the block on all levels, and the condition that the block needs."""
    kind, own = CASES[case]
    recipe = kind if kind in CHANNEL_CHANGING else f"res,{kind}"
    text = TEXT if kind == "text-attn" else None
    return replace(CONFIG, text=text, blocks=(recipe,), middle=recipe, **own, **change)


def condition_of(config: NetworkConfig, count: int) -> Condition:
    """Classes in turn, and texts as long as their number."""
    text = None
    if config.text is not None:
        text = torch.zeros(count, config.text.length, dtype=torch.int64)
        for i in range(count):
            text[i, : i % config.text.length] = 98 + i
    return Condition(torch.arange(count) % len(config.classes) if config.classes else None, text)


@every_case
def test_a_network_made_of_it_learns(case: str) -> None:
    """It denoises four images: the error falls to a fifth."""
    config = network_of(case, multipliers=(1,))
    torch.manual_seed(0)
    network, condition = UNet(config), condition_of(config, 4)
    x0 = torch.randn(4, 3, 8, 8)
    noised, c_noise = x0 + 0.5 * torch.randn_like(x0), torch.linspace(0, 1000, 4)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(30):
        loss = (network(noised, c_noise, condition) - x0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
    assert all(parameter.abs().max() > 0 for parameter in network.parameters())


def narrow(preset: str) -> NetworkConfig:
    """A published network's recipe, eight channels wide and up."""
    network = updated(RunConfig(), PRESETS[preset].settings).network
    return replace(network, width=8, head_width=None, heads=1, groups=None, dropout=0.0)


RECIPES = {
    **{case: network_of(case) for case in CASES},
    "halving around": replace(network_of("res"), padding="around"),
    "pooling": replace(network_of("res"), resample="pool"),
    "resampling in blocks": replace(network_of("res"), resample="res", resample_skip=True),
    "folded": replace(network_of("attn"), patch=3, learned_variance=True),
    **{preset: narrow(preset) for preset in PRESETS},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_images_of_any_size(recipe: str) -> None:
    for channels, size in ((1, (1, 1)), (3, (1, 7)), (4, (9, 1)), (3, (11, 6))):
        config = replace(RECIPES[recipe], channels=channels)
        network = randomised(build(config), std=0.1).float().eval()
        x = torch.randn(2, channels, *size)
        with torch.no_grad():
            out = network(x, torch.tensor([0.0, 900.0]), condition_of(config, 2))
        assert out.shape == (2, channels * (1 + config.learned_variance), *size)
        assert out.isfinite().all()
        assert out.abs().min() > 0


EVERYTHING = replace(
    CONFIG,
    blocks=("res,channel-attn,attn,linear-attn", "conv,class-attn,text-attn"),
    middle="res",
    up_blocks=("res,res", "conv,conv"),
    modulation="scale-shift",
    resample="res",
    attn_patch=2,
    patch=2,
    augmented=True,
)


def test_compiled_it_is_one_graph_and_the_same_network() -> None:
    network = randomised(UNet(EVERYTHING), std=0.1).float()
    keys = list(network.state_dict())
    x, c_noise = torch.randn(2, 3, 9, 16), torch.tensor([1.0, 700.0])
    condition = condition_of(EVERYTHING, 2)._replace(augmented=torch.rand(2, 9))

    def results() -> list[Tensor]:
        """Output and gradients."""
        network.zero_grad()
        out = network(x, c_noise, condition)
        out.square().mean().backward()
        return [out, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]

    plain = results()
    network.compile(backend="eager", fullgraph=True)
    for one, other in zip(plain, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert list(network.state_dict()) == keys


def test_half_precision_is_close() -> None:
    network = randomised(UNet(EVERYTHING), std=0.1).float().eval()
    x, c_noise, condition = (
        torch.randn(4, 3, 16, 16),
        torch.rand(4) * 900,
        condition_of(EVERYTHING, 4),
    )
    with torch.no_grad():
        exact = network(x, c_noise, condition)
        with devices.autocast(torch.device("cpu"), torch.bfloat16):
            half = network(x, c_noise, condition)
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()
    assert (half - exact).norm() < 0.03 * exact.norm()
