"""Other people's U-Nets computed from their own tensors, by torch's functions alone.

Nothing here reads a recipe of ours or a name of ours: what comes out is what a conversion is
compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.conversion.diffusers import UNet2DConfig


class _Names(NamedTuple):
    """What a library calls the layers of a residual block."""

    norm1: str
    conv1: str
    told: str
    norm2: str
    conv2: str
    skip: str


_DIFFUSERS = _Names("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
_OPENAI = _Names(
    "in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"
)
_SPELLINGS = (("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn"))


class _Layers:
    """Layers by the names of a state dict."""

    def __init__(self, state: Mapping[str, Tensor], groups: int, epsilon: float) -> None:
        self._state, self._groups, self._epsilon = state, groups, epsilon

    def __contains__(self, name: str) -> bool:
        return f"{name}.weight" in self._state

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self._state[f"{name}.weight"].float(), self._state[f"{name}.bias"].float()

    def embedding(self, name: str, rows: Tensor) -> Tensor:
        return self._state[f"{name}.weight"].float()[rows]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Of x (B, C), or of the channels of x (B, C, N); the layer may be a 1 x 1 convolution."""
        weight, bias = self._of(name)
        weight = weight.flatten(1)
        if x.ndim == 2:
            return x @ weight.T + bias
        return torch.einsum("oc,bcn->bon", weight, x) + bias[:, None]

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight, bias = self._of(name)
        around = weight.shape[-1] // 2 if padding is None else padding
        return nnf.conv2d(x, weight, bias, stride=stride, padding=around)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return nnf.group_norm(x, self._groups, *self._of(name), self._epsilon)

    def residual(
        self,
        prefix: str,
        names: _Names,
        x: Tensor,
        told: Tensor,
        resampled: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """A residual block; the noise level scales and shifts where there are numbers for both."""
        n = _Names(*(f"{prefix}.{name}" for name in names))
        h = self.conv(n.conv1, resampled(nnf.silu(self.norm(n.norm1, x))))
        c = self.linear(n.told, nnf.silu(told))[:, :, None, None]
        if c.shape[1] == h.shape[1]:
            h = self.norm(n.norm2, h + c)
        else:
            scale, shift = c.tensor_split(2, dim=1)
            h = (1 + scale) * self.norm(n.norm2, h) + shift
        x = resampled(x)
        return (self.conv(n.skip, x) if n.skip in self else x) + self.conv(n.conv2, nnf.silu(h))


def _halved(x: Tensor) -> Tensor:
    return nnf.avg_pool2d(x, 2)


def _doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Q, K, V (B, heads, channels of a head, pixels) -> (B, channels, pixels)."""
    alike = torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("bhij,bhcj->bhci", alike.softmax(dim=-1), v).flatten(1, 2)


def diffusers_unet(
    state: Mapping[str, Tensor], c: UNet2DConfig, x: Tensor, t: Tensor, classes: Tensor | None
) -> Tensor:
    """A UNet2DModel's output of x (B, C, H, W) at t (B,) for classes (B,) in its numbering."""
    layers = _Layers(state, c.norm_num_groups, c.norm_eps)
    half = c.block_out_channels[0] // 2
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / (half - c.freq_shift))
    waves = [angles.cos(), angles.sin()] if c.flip_sin_to_cos else [angles.sin(), angles.cos()]
    told = layers.linear("time_embedding.linear_1", torch.cat(waves, dim=1))
    told = layers.linear("time_embedding.linear_2", nnf.silu(told))
    if classes is not None:
        told = told + layers.embedding("class_embedding", classes)

    def block(place: str, number: int, x: Tensor, attends: bool) -> Tensor:
        x = layers.residual(f"{place}.resnets.{number}", _DIFFUSERS, x, told)
        return _diffusers_attention(layers, f"{place}.attentions.{number}", c, x) if attends else x

    h = layers.conv("conv_in", x)
    kept = [h]
    for level, kind in enumerate(c.down_block_types):
        here = f"down_blocks.{level}"
        for number in range(c.layers_per_block):
            h = block(here, number, h, kind == "AttnDownBlock2D")
            kept.append(h)
        if f"{here}.downsamplers.0.conv" in layers:
            h = nnf.pad(h, (0, 1, 0, 1)) if c.downsample_padding == 0 else h
            h = layers.conv(f"{here}.downsamplers.0.conv", h, 2, c.downsample_padding)
            kept.append(h)
        elif f"{here}.downsamplers.0.conv1" in layers:
            h = layers.residual(f"{here}.downsamplers.0", _DIFFUSERS, h, told, _halved)
            kept.append(h)
    h = block("mid_block", 0, h, c.add_attention)
    h = block("mid_block", 1, h, attends=False)
    for level, kind in enumerate(c.up_block_types):
        here = f"up_blocks.{level}"
        for number in range(c.layers_per_block + 1):
            h = block(here, number, torch.cat([h, kept.pop()], dim=1), kind == "AttnUpBlock2D")
        if f"{here}.upsamplers.0.conv" in layers:
            h = layers.conv(f"{here}.upsamplers.0.conv", _doubled(h))
        elif f"{here}.upsamplers.0.conv1" in layers:
            h = layers.residual(f"{here}.upsamplers.0", _DIFFUSERS, h, told, _doubled)
    return layers.conv("conv_out", nnf.silu(layers.norm("conv_norm_out", h)))


def _diffusers_attention(layers: _Layers, place: str, c: UNet2DConfig, x: Tensor) -> Tensor:
    spelling = next(names for names in _SPELLINGS if f"{place}.{names[0]}" in layers)
    query, key, value, out = (f"{place}.{name}" for name in spelling)
    channels = x.shape[1]
    heads = channels // (c.attention_head_dim or channels)
    h = layers.norm(f"{place}.group_norm", x).flatten(2)
    q, k, v = (torch.unflatten(layers.linear(n, h), 1, (heads, -1)) for n in (query, key, value))
    return x + layers.linear(out, _attended(q, k, v)).reshape(x.shape)


class Heads(NamedTuple):
    """What a state dict of OpenAI's does not say about its attention."""

    number: int | None  # None: as many as the width allows
    width: int | None  # channels of a head
    legacy: bool  # the channels of qkv: head by head, each with its q, k and v; else q, k, v

    def of(self, channels: int) -> int:
        """How many there are over so many channels."""
        return self.number or channels // (self.width or channels)


def openai_unet(
    state: Mapping[str, Tensor], heads: Heads, x: Tensor, t: Tensor, classes: Tensor | None
) -> Tensor:
    """The output of improved- or guided-diffusion's UNetModel for x (B, C, H, W) at t (B,)."""
    layers = _Layers(state, 32, 1e-5)
    half = state["input_blocks.0.0.weight"].shape[0] // 2
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    told = layers.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    told = layers.linear("time_embed.2", nnf.silu(told))
    if classes is not None:
        told = told + layers.embedding("label_emb", classes)
    inputs, outputs = (
        1 + max(int(name.split(".")[1]) for name in state if name.startswith(side))
        for side in ("input_blocks.", "output_blocks.")
    )

    def sequence(place: str, x: Tensor, halves: bool = False) -> Tensor:
        for number in range(3):
            layer = f"{place}.{number}"
            if f"{layer}.in_layers.2" in layers:
                again = number > 0 and place.startswith("output")  # doubles, as convolutions would
                way = _halved if halves else _doubled if again else lambda x: x
                x = layers.residual(layer, _OPENAI, x, told, way)
            elif f"{layer}.qkv" in layers:
                x = _openai_attention(layers, layer, heads, x)
            elif f"{layer}.op" in layers:
                x = layers.conv(f"{layer}.op", x, 2, 1)
            elif f"{layer}.conv" in layers:
                x = layers.conv(f"{layer}.conv", _doubled(x))
        return x

    h = layers.conv("input_blocks.0.0", x)
    kept = [h]
    for number in range(1, inputs):
        # What the last block of a level takes, on the way up, is what halved on the way down.
        last = f"output_blocks.{outputs - 1 - number}."
        doubling = (f"{last}{i}.in_layers.2" in layers for i in (1, 2))
        halves = f"input_blocks.{number}.0.in_layers.2" in layers and any(doubling)
        pooled = not any(name.startswith(f"input_blocks.{number}.") for name in state)
        h = _halved(h) if pooled else sequence(f"input_blocks.{number}", h, halves)
        kept.append(h)
    h = sequence("middle_block", h)
    for number in range(outputs):
        skipped = kept.pop()
        if h.shape[2] < skipped.shape[2]:
            h = _doubled(h)  # pooling's way up, which has no layer
        h = sequence(f"output_blocks.{number}", torch.cat([h, skipped], dim=1))
    return layers.conv("out.2", nnf.silu(layers.norm("out.0", h)))


def _openai_attention(layers: _Layers, place: str, heads: Heads, x: Tensor) -> Tensor:
    count = heads.of(x.shape[1])
    qkv = layers.linear(f"{place}.qkv", layers.norm(f"{place}.norm", x).flatten(2))
    if heads.legacy:
        q, k, v = torch.unflatten(qkv, 1, (count, 3, -1)).unbind(2)
    else:
        q, k, v = torch.unflatten(qkv, 1, (3, count, -1)).unbind(1)
    return x + layers.linear(f"{place}.proj_out", _attended(q, k, v)).reshape(x.shape)
