"""A stand-in for the published FID weights, which tests cannot download: same keys and shapes.

The keys are written out, not taken from our network, so that a renamed layer fails.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEM = [
    ("Conv2d_1a_3x3", 3, 32, 3, 3),
    ("Conv2d_2a_3x3", 32, 32, 3, 3),
    ("Conv2d_2b_3x3", 32, 64, 3, 3),
    ("Conv2d_3b_1x1", 64, 80, 1, 1),
    ("Conv2d_4a_3x3", 80, 192, 3, 3),
]


def _a(name: str, inputs: int, pooled: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", inputs, 64, 1, 1),
        (f"{name}.branch5x5_1", inputs, 48, 1, 1),
        (f"{name}.branch5x5_2", 48, 64, 5, 5),
        (f"{name}.branch3x3dbl_1", inputs, 64, 1, 1),
        (f"{name}.branch3x3dbl_2", 64, 96, 3, 3),
        (f"{name}.branch3x3dbl_3", 96, 96, 3, 3),
        (f"{name}.branch_pool", inputs, pooled, 1, 1),
    ]


def _c(name: str, c7: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", 768, 192, 1, 1),
        (f"{name}.branch7x7_1", 768, c7, 1, 1),
        (f"{name}.branch7x7_2", c7, c7, 1, 7),
        (f"{name}.branch7x7_3", c7, 192, 7, 1),
        (f"{name}.branch7x7dbl_1", 768, c7, 1, 1),
        (f"{name}.branch7x7dbl_2", c7, c7, 7, 1),
        (f"{name}.branch7x7dbl_3", c7, c7, 1, 7),
        (f"{name}.branch7x7dbl_4", c7, c7, 7, 1),
        (f"{name}.branch7x7dbl_5", c7, 192, 1, 7),
        (f"{name}.branch_pool", 768, 192, 1, 1),
    ]


def _e(name: str, inputs: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", inputs, 320, 1, 1),
        (f"{name}.branch3x3_1", inputs, 384, 1, 1),
        (f"{name}.branch3x3_2a", 384, 384, 1, 3),
        (f"{name}.branch3x3_2b", 384, 384, 3, 1),
        (f"{name}.branch3x3dbl_1", inputs, 448, 1, 1),
        (f"{name}.branch3x3dbl_2", 448, 384, 3, 3),
        (f"{name}.branch3x3dbl_3a", 384, 384, 1, 3),
        (f"{name}.branch3x3dbl_3b", 384, 384, 3, 1),
        (f"{name}.branch_pool", inputs, 192, 1, 1),
    ]


# name, input channels, output channels, kernel height, kernel width
CONVOLUTIONS = [
    *STEM,
    *_a("Mixed_5b", 192, 32),
    *_a("Mixed_5c", 256, 64),
    *_a("Mixed_5d", 288, 64),
    ("Mixed_6a.branch3x3", 288, 384, 3, 3),
    ("Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1),
    ("Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3),
    ("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3),
    *_c("Mixed_6b", 128),
    *_c("Mixed_6c", 160),
    *_c("Mixed_6d", 160),
    *_c("Mixed_6e", 192),
    ("Mixed_7a.branch3x3_1", 768, 192, 1, 1),
    ("Mixed_7a.branch3x3_2", 192, 320, 3, 3),
    ("Mixed_7a.branch7x7x3_1", 768, 192, 1, 1),
    ("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7),
    ("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1),
    ("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3),
    *_e("Mixed_7b", 1280),
    *_e("Mixed_7c", 2048),
]


def standin_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights, scaled to keep the variance of activations (He et al. 2015)."""
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, inputs, outputs, height, width in CONVOLUTIONS:
        scale = (2 / (inputs * height * width)) ** 0.5
        state[f"{name}.conv.weight"] = (
            torch.randn(outputs, inputs, height, width, generator=g) * scale
        )
        state[f"{name}.bn.weight"] = torch.rand(outputs, generator=g) + 0.5
        state[f"{name}.bn.bias"] = torch.randn(outputs, generator=g) * 0.1
        state[f"{name}.bn.running_mean"] = torch.randn(outputs, generator=g) * 0.1
        state[f"{name}.bn.running_var"] = torch.rand(outputs, generator=g) + 0.5
    state["fc.weight"] = torch.randn(1008, 2048, generator=g) * 0.05
    state["fc.bias"] = torch.randn(1008, generator=g)
    return state
