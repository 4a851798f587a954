"""Vision transformers (Dosovitskiy et al. 2021), as DINOv2 and CLIP have them.

The parameters' names are those of Meta's DINOv2 checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MLP_RATIO = 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a network."""

    width: int  # of a token
    depth: int  # blocks
    heads: int
    patch: int  # pixels a side
    image: int  # pixels a side
    output: int | None = None  # width of the projected class token; None: it is not projected

    @property
    def tokens(self) -> int:
        """The class token and one for each patch."""
        return 1 + (self.image // self.patch) ** 2


@dataclass(frozen=True)
class Variant:
    """What differs between the families."""

    epsilon: float  # of layer norms
    activation: Callable[[Tensor], Tensor]
    layer_scale: bool  # a learned factor of each channel behind each branch
    norm_before: bool  # a norm before the first block; the patches' projection has no bias then


class VisionTransformer(nn.Module):
    """Prepared images (N, 3, image, image) -> the class token behind the last norm (N, output)."""

    def __init__(self, shape: Shape, variant: Variant) -> None:
        super().__init__()
        width = shape.width
        self.patch_embed = Patches(shape, bias=not variant.norm_before)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.tokens, width))
        self.norm_pre = _norm(width, variant) if variant.norm_before else nn.Identity()
        self.blocks = nn.ModuleList(Block(shape, variant) for _ in range(shape.depth))
        self.norm = _norm(width, variant)
        self.head = nn.Linear(width, shape.output, bias=False) if shape.output else nn.Identity()

    def embed(self, x: Tensor) -> Tensor:
        """Run the network on (N, 3, image, image)."""
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        x = self.norm_pre(tokens + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.head(self.norm(x[:, 0]))
        return embedding


class Patches(nn.Module):
    """A token of each patch: (N, 3, image, image) -> (N, patches, width), row by row."""

    def __init__(self, shape: Shape, *, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project each patch."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class Block(nn.Module):
    """Attention and a perceptron, each as a branch behind a norm: (N, tokens, width) -> same."""

    def __init__(self, shape: Shape, variant: Variant) -> None:
        super().__init__()
        width = shape.width
        self.norm1, self.norm2 = _norm(width, variant), _norm(width, variant)
        self.attn, self.mlp = Attention(width, shape.heads), Perceptron(width, variant.activation)
        self.ls1 = LayerScale(width) if variant.layer_scale else nn.Identity()
        self.ls2 = LayerScale(width) if variant.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Both branches."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        result: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return result


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the tokens of (N, tokens, width)."""
        n, tokens, width = x.shape
        split = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        mixed = functional.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4).unbind())
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))
        return result


class Perceptron(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each token by itself."""
        result: Tensor = self.fc2(self.activation(self.fc1(x)))
        return result


class LayerScale(nn.Module):
    """A factor of each channel (Touvron et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x * self.gamma


def renamed(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors of another library under these names: (pattern of theirs, ours) in turn.

    Queries, keys and values, which it has apart (attn.q, attn.k, attn.v), are joined.
    """
    found = {}
    for name, tensor in tensors.items():
        for pattern, ours in names:
            name = re.sub(pattern, ours, name)
        found[name] = tensor
    for name in [name for name in found if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        shapes = {found[part].shape if part in found else None for part in parts}
        if shapes == {found[name].shape} and found[name].ndim:
            joined = torch.cat([found.pop(part) for part in parts])
            found[name.replace(".attn.q.", ".attn.qkv.")] = joined
    return found


def _norm(width: int, variant: Variant) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=variant.epsilon)
