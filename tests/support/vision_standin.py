"""Small stand-ins for the weights of DINOv2 and CLIP, which tests cannot download.

The keys are written out, not taken from our networks, so that a renamed layer fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.metrics.networks import clip, dinov2
from ddpm_cli.core.metrics.networks.vision_transformer import Shape

DEPTH, WIDTH, HEADS, OUTPUT = 3, 64, 2, 48
PATCHES = 37  # a side, of DINOv2's training


def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both networks built at the stand-ins' width and depth, for images of the usual size."""
    of_dinov2 = Shape(WIDTH, DEPTH, HEADS, patch=14, image=224)
    of_clip = Shape(WIDTH, DEPTH, HEADS, patch=14, image=336, output=OUTPUT)
    monkeypatch.setattr(dinov2, "SHAPE", of_dinov2)
    monkeypatch.setattr(clip, "SHAPE", of_clip)


def meta_weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of DINOv2 under the keys of Meta's file."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, PATCHES**2 + 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
        shapes |= {f"blocks.{i}.{name}.gamma": (WIDTH,) for name in ("ls1", "ls2")}
        linear = {"attn.qkv": (WIDTH, 3), "attn.proj": (WIDTH, 1), "mlp.fc1": (WIDTH, 4)}
        for name, (inputs, times) in linear.items():
            shapes[f"blocks.{i}.{name}.weight"] = (times * WIDTH, inputs)
            shapes[f"blocks.{i}.{name}.bias"] = (times * WIDTH,)
        shapes[f"blocks.{i}.mlp.fc2.weight"] = (WIDTH, 4 * WIDTH)
        shapes[f"blocks.{i}.mlp.fc2.bias"] = (WIDTH,)
    return dict(_filled(shapes, seed))


def transformers_weights() -> dict[str, Tensor]:
    """The same under the keys of the file of facebook/dinov2-large."""
    meta = meta_weights()
    found = {
        "embeddings.cls_token": meta["cls_token"],
        "embeddings.mask_token": meta["mask_token"],
        "embeddings.position_embeddings": meta["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": meta["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": meta["patch_embed.proj.bias"],
        "layernorm.weight": meta["norm.weight"],
        "layernorm.bias": meta["norm.bias"],
    }
    for i in range(DEPTH):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for part in ("weight", "bias"):
            parts = meta[f"{ours}.attn.qkv.{part}"].chunk(3)
            for name, tensor in zip(("query", "key", "value"), parts, strict=True):
                found[f"{theirs}.attention.attention.{name}.{part}"] = tensor.clone()
            found[f"{theirs}.attention.output.dense.{part}"] = meta[f"{ours}.attn.proj.{part}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{theirs}.{name}.{part}"] = meta[f"{ours}.{name}.{part}"]
        for k in "12":
            found[f"{theirs}.layer_scale{k}.lambda1"] = meta[f"{ours}.ls{k}.gamma"]
    return found


def clip_weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of CLIP under the keys of transformers' file, with some of the text's half."""
    tower, tokens = "vision_model.", (336 // 14) ** 2 + 1
    shapes = {
        "logit_scale": (),
        "text_projection.weight": (OUTPUT, 8),
        "text_model.final_layer_norm.weight": (8,),
        "visual_projection.weight": (OUTPUT, WIDTH),
        f"{tower}embeddings.class_embedding": (WIDTH,),
        f"{tower}embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        f"{tower}embeddings.position_embedding.weight": (tokens, WIDTH),
    }
    norms = [f"{tower}pre_layrnorm", f"{tower}post_layernorm"]
    for i in range(DEPTH):
        layer = f"{tower}encoder.layers.{i}."
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
        linear = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
        linear |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, shape in linear.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
    shapes |= {f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")}
    positions = {f"{tower}embeddings.position_ids": torch.arange(tokens)[None]}
    return dict(_filled(shapes, seed)) | positions


def _filled(shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Values that keep activations of order 1 through the layers."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in sorted(shapes.items()):
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1 and name.endswith("weight") and "position" not in name:
            yield name, values / math.prod(shape[1:]) ** 0.5
        elif "norm" in name or "gamma" in name:
            yield name, 0.2 * values + (0 if name.endswith("bias") else 1)
        else:
            yield name, 0.5 * values


def reference_dinov2(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """DINOv2 of Meta's keys in plain functions: (N, 3, 224, 224) -> the class token (N, width).

    With the published interpolation of positions: bicubic by the scale (16 + 0.1) / 37.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt() * scale + shift

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    width = state["cls_token"].shape[2]
    grid = state["pos_embed"][:, 1:].reshape(1, PATCHES, PATCHES, width).permute(0, 3, 1, 2)
    factor = (16 + 0.1) / PATCHES
    grid = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    positions = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], 1)
    bias = state["patch_embed.proj.bias"]
    x = functional.conv2d(x, state["patch_embed.proj.weight"], bias, 14).flatten(2)
    x = torch.cat([state["cls_token"].expand(len(x), 1, width), x.transpose(1, 2)], 1) + positions
    for i in range(DEPTH):
        b = f"blocks.{i}"
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in linear(norm(x, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, dim=-1)
        )
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + state[f"{b}.ls1.gamma"] * linear(mixed, f"{b}.attn.proj")
        hidden = linear(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1")
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + state[f"{b}.ls2.gamma"] * linear(hidden, f"{b}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def write(path: Path, state: dict[str, Tensor]) -> Path:
    """Write a state dict as torch.save does."""
    torch.save(state, path)
    return path
