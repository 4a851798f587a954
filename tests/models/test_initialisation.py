"""Initial weights: layers that are joined for speed start as their papers' separate ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.models import attention, text

CONFIG = NetworkConfig(width=64, classes=("a", "b"), text=TextConfig(width=96))


def joined(kind: str) -> list[tuple[Tensor, int]]:
    """Joined weights of a module, and how many layers each is made of."""
    match kind:
        case "self-attention":
            return [(attention.SelfAttention(64, CONFIG).qkv.weight, 3)]
        case "linear attention":
            return [(attention.LinearAttention(64, CONFIG).qkv.weight, 3)]
        case "class attention":
            return [(attention.ClassAttention(64, CONFIG).qk.weight, 2)]
        case "cross-attention":
            return [(attention.CrossAttention(64, CONFIG).key_value.weight, 2)]
        case _:
            encoder = text.TextEmbedding(TextConfig(width=96))
            layers = [m for m in encoder.modules() if isinstance(m, nn.Linear)]
            return [(m.weight, 3) for m in layers if m.out_features == 3 * m.in_features]


@pytest.mark.parametrize(
    "kind",
    ["self-attention", "linear attention", "class attention", "cross-attention", "transformer"],
)
def test_joined_layers_start_as_separate_ones(kind: str) -> None:
    """Glorot & Bengio (2010): uniform within sqrt(6 / (fan_in + fan_out)) of each layer alone."""
    torch.manual_seed(0)
    found = joined(kind)
    assert found
    for weight, count in found:
        for part in weight.detach().chunk(count):
            fan_out, fan_in = part.shape[0], part[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.97 * bound < part.abs().max() <= bound
            assert part.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
