"""Networks of the tests of models: every type of block, and random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import TINY

TEXT = TextConfig(length=6, width=8, layers=1, heads=2)
CONFIG = NetworkConfig(
    size=(8, 8),
    classes=("a", "b"),
    text=TEXT,
    width=8,
    multipliers=(1, 2),
    blocks=("res,text-attn",),
    heads=2,
    dropout=0.0,
)
TINY_RUN = updated(RunConfig(), TINY)
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # the type of block, and its settings
    "res": ("res", {}),
    "res, scale-shift": ("res", {"modulation": "scale-shift"}),
    "conv": ("conv", {}),
    "conv, scale-shift": ("conv", {"modulation": "scale-shift"}),
    "attn": ("attn", {}),
    "attn of patches": ("attn", {"attn_patch": 2}),
    "linear-attn": ("linear-attn", {}),
    "class-attn": ("class-attn", {}),
    "channel-attn": ("channel-attn", {}),
    "text-attn": ("text-attn", {}),
}
every_case = pytest.mark.parametrize("case", CASES)


def randomised(network: nn.Module, std: float = 0.3) -> nn.Module:
    """In float64, and without zero-initialised layers, which would hide errors."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std)
    return network.double()


def write_weights(folder: Path) -> Path:
    """Write model.safetensors of random weights, for images of 8x8 in two classes; its path.

    Its samples are no noise, nor alike: enough for what concerns their files.
    """
    network = replace(TINY_RUN.network, size=(8, 8), classes=("dark", "light"))
    config = replace(TINY_RUN, network=network)
    with torch.random.fork_rng(devices=[]):
        state = randomised(UNet(network), std=0.1).float().state_dict()
    weights.save(folder / "model.safetensors", state, config, 64)
    return folder / "model.safetensors"
