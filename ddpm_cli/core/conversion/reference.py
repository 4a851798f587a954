"""U-Nets of diffusers and of OpenAI, computed from their own tensors by torch's functions alone.

Conversions are verified against these outputs, so nothing here uses a config or a name of ours.
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
    """A library's names of the layers of a residual block."""

    norm1: str
    conv1: str
    embedding: str
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

    def _parameters(self, name: str) -> tuple[Tensor, Tensor]:
        return self._state[f"{name}.weight"].float(), self._state[f"{name}.bias"].float()

    def embedding(self, name: str, rows: Tensor) -> Tensor:
        return self._state[f"{name}.weight"].float()[rows]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Linear layer, or 1 x 1 convolution, on x (B, C) or on the channels of x (B, C, N)."""
        weight, bias = self._parameters(name)
        weight = weight.flatten(1)
        if x.ndim == 2:
            return x @ weight.T + bias
        return torch.einsum("oc,bcn->bon", weight, x) + bias[:, None]

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight, bias = self._parameters(name)
        padding = weight.shape[-1] // 2 if padding is None else padding
        return nnf.conv2d(x, weight, bias, stride=stride, padding=padding)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return nnf.group_norm(x, self._groups, *self._parameters(name), self._epsilon)

    def residual(
        self,
        prefix: str,
        names: _Names,
        x: Tensor,
        embedding: Tensor,
        resample: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """A residual block; the embedding is added, or scales and shifts where twice as wide."""
        n = _Names(*(f"{prefix}.{name}" for name in names))
        h = self.conv(n.conv1, resample(nnf.silu(self.norm(n.norm1, x))))
        c = self.linear(n.embedding, nnf.silu(embedding))[:, :, None, None]
        if c.shape[1] == h.shape[1]:
            h = self.norm(n.norm2, h + c)
        else:
            scale, shift = c.tensor_split(2, dim=1)
            h = (1 + scale) * self.norm(n.norm2, h) + shift
        x = resample(x)
        return (self.conv(n.skip, x) if n.skip in self else x) + self.conv(n.conv2, nnf.silu(h))


def _downsample(x: Tensor) -> Tensor:
    return nnf.avg_pool2d(x, 2)


def _upsample(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def _identity(x: Tensor) -> Tensor:
    return x


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Q, K, V (B, heads, channels of a head, pixels) -> (B, channels, pixels)."""
    scores = torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("bhij,bhcj->bhci", scores.softmax(dim=-1), v).flatten(1, 2)


def diffusers_unet(
    state: Mapping[str, Tensor], c: UNet2DConfig, x: Tensor, t: Tensor, classes: Tensor | None
) -> Tensor:
    """Output of a UNet2DModel for x (B, C, H, W), t (B,) and classes (B,) in its numbering."""
    layers = _Layers(state, c.norm_num_groups or 1, c.norm_eps)
    half = c.block_out_channels[0] // 2
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / (half - c.freq_shift))
    sinusoids = [angles.cos(), angles.sin()] if c.flip_sin_to_cos else [angles.sin(), angles.cos()]
    embedding = layers.linear("time_embedding.linear_1", torch.cat(sinusoids, dim=1))
    embedding = layers.linear("time_embedding.linear_2", nnf.silu(embedding))
    if classes is not None:
        embedding = embedding + layers.embedding("class_embedding", classes)

    def block(prefix: str, number: int, x: Tensor, attention: bool) -> Tensor:
        x = layers.residual(f"{prefix}.resnets.{number}", _DIFFUSERS, x, embedding)
        if not attention:
            return x
        return _diffusers_attention(layers, f"{prefix}.attentions.{number}", c, x)

    h = layers.conv("conv_in", x)
    skips = [h]
    for level, kind in enumerate(c.down_block_types):
        prefix = f"down_blocks.{level}"
        for number in range(c.layers_per_block):
            h = block(prefix, number, h, kind == "AttnDownBlock2D")
            skips.append(h)
        if f"{prefix}.downsamplers.0.conv" in layers:
            h = nnf.pad(h, (0, 1, 0, 1)) if c.downsample_padding == 0 else h
            h = layers.conv(f"{prefix}.downsamplers.0.conv", h, 2, c.downsample_padding)
            skips.append(h)
        elif f"{prefix}.downsamplers.0.conv1" in layers:
            h = layers.residual(f"{prefix}.downsamplers.0", _DIFFUSERS, h, embedding, _downsample)
            skips.append(h)
    h = block("mid_block", 0, h, c.add_attention)
    h = block("mid_block", 1, h, attention=False)
    for level, kind in enumerate(c.up_block_types):
        prefix = f"up_blocks.{level}"
        for number in range(c.layers_per_block + 1):
            h = block(prefix, number, torch.cat([h, skips.pop()], dim=1), kind == "AttnUpBlock2D")
        if f"{prefix}.upsamplers.0.conv" in layers:
            h = layers.conv(f"{prefix}.upsamplers.0.conv", _upsample(h))
        elif f"{prefix}.upsamplers.0.conv1" in layers:
            h = layers.residual(f"{prefix}.upsamplers.0", _DIFFUSERS, h, embedding, _upsample)
    return layers.conv("conv_out", nnf.silu(layers.norm("conv_norm_out", h)))


def _diffusers_attention(layers: _Layers, prefix: str, c: UNet2DConfig, x: Tensor) -> Tensor:
    spelling = next(names for names in _SPELLINGS if f"{prefix}.{names[0]}" in layers)
    query, key, value, out = (f"{prefix}.{name}" for name in spelling)
    channels = x.shape[1]
    heads = channels // (c.attention_head_dim or channels)
    h = layers.norm(f"{prefix}.group_norm", x).flatten(2)
    q, k, v = (torch.unflatten(layers.linear(n, h), 1, (heads, -1)) for n in (query, key, value))
    return x + layers.linear(out, _attention(q, k, v)).reshape(x.shape)


class AttentionHeads(NamedTuple):
    """Settings of attention that a state dict of OpenAI's does not contain."""

    number: int | None  # None: by the width
    width: int | None  # channels of a head
    legacy: bool  # order of the channels of qkv: q, k, v of each head in turn; else all q, k, v

    def over(self, channels: int) -> int:
        """The number of heads over this many channels."""
        return self.number or channels // (self.width or channels)


def openai_unet(
    state: Mapping[str, Tensor], heads: AttentionHeads, x: Tensor, t: Tensor, classes: Tensor | None
) -> Tensor:
    """Output of improved- or guided-diffusion's UNetModel for x (B, C, H, W) and t (B,)."""
    layers = _Layers(state, 32, 1e-5)
    half = state["input_blocks.0.0.weight"].shape[0] // 2
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    embedding = layers.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    embedding = layers.linear("time_embed.2", nnf.silu(embedding))
    if classes is not None:
        embedding = embedding + layers.embedding("label_emb", classes)
    inputs, outputs = (
        1 + max(int(name.split(".")[1]) for name in state if name.startswith(path))
        for path in ("input_blocks.", "output_blocks.")
    )

    def sequence(prefix: str, x: Tensor, downsamples: bool = False) -> Tensor:
        for number in range(3):
            layer = f"{prefix}.{number}"
            if f"{layer}.in_layers.2" in layers:
                upsamples = number > 0 and prefix.startswith("output")  # after the stage's own
                resample = _downsample if downsamples else _upsample if upsamples else _identity
                x = layers.residual(layer, _OPENAI, x, embedding, resample)
            elif f"{layer}.qkv" in layers:
                x = _openai_attention(layers, layer, heads, x)
            elif f"{layer}.op" in layers:
                x = layers.conv(f"{layer}.op", x, 2, 1)
            elif f"{layer}.conv" in layers:
                x = layers.conv(f"{layer}.conv", _upsample(x))
        return x

    h = layers.conv("input_blocks.0.0", x)
    skips = [h]
    for number in range(1, inputs):
        # A block downsamples where the output block that takes its skip upsamples.
        mirrored = f"output_blocks.{outputs - 1 - number}."
        upsamples = (f"{mirrored}{i}.in_layers.2" in layers for i in (1, 2))
        downsamples = f"input_blocks.{number}.0.in_layers.2" in layers and any(upsamples)
        pooled = not any(name.startswith(f"input_blocks.{number}.") for name in state)
        h = _downsample(h) if pooled else sequence(f"input_blocks.{number}", h, downsamples)
        skips.append(h)
    h = sequence("middle_block", h)
    for number in range(outputs):
        skip = skips.pop()
        if h.shape[2] < skip.shape[2]:
            h = _upsample(h)  # without a layer, the counterpart of pooling
        h = sequence(f"output_blocks.{number}", torch.cat([h, skip], dim=1))
    return layers.conv("out.2", nnf.silu(layers.norm("out.0", h)))


def _openai_attention(layers: _Layers, prefix: str, heads: AttentionHeads, x: Tensor) -> Tensor:
    count = heads.over(x.shape[1])
    qkv = layers.linear(f"{prefix}.qkv", layers.norm(f"{prefix}.norm", x).flatten(2))
    if heads.legacy:
        q, k, v = torch.unflatten(qkv, 1, (count, 3, -1)).unbind(2)
    else:
        q, k, v = torch.unflatten(qkv, 1, (3, count, -1)).unbind(1)
    return x + layers.linear(f"{prefix}.proj_out", _attention(q, k, v)).reshape(x.shape)
