"""Captions as tokens: a small transformer over their bytes, or a frozen encoder's vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network import TextConfig
from ddpm_cli.core.models.layers import embedding, glorot, zeroed

BYTES = 256  # values of a byte


class TextEmbedding(nn.Module):
    """Turn texts into tokens that pictures attend to (Nichol et al. 2022, GLIDE, section 4).

    Bytes go through a transformer that learns along with the U-Net; a frozen encoder's vectors are
    tokens as they are. No text is one learned token, the same for every picture, so that all it
    can do to a network is what biases do.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(config.width))
        self.bytes = ByteTransformer(config) if config.encoder == "bytes" else None

    def nothing(self, like: Tensor) -> Tensor:
        """No text for as many pictures as `like` has, on its device."""
        kind = torch.float32 if self.bytes is None else torch.int64
        shape = (1, len(self.null)) if self.bytes is None else (1,)
        return torch.zeros(len(like), *shape, dtype=kind, device=like.device)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes plus one (B, L), or vectors (B, L, D), zeros after the end: tokens and which count.

        The tokens (B, L, D) are those of a text where `seen`, (B, L) bool, is true.
        """
        there = text != 0 if text.ndim == 2 else (text != 0).any(dim=2)
        none = ~there[:, :1]
        seen = there | (torch.arange(there.shape[1], device=there.device) == 0)
        tokens = text if self.bytes is None else self.bytes(text, seen)
        return torch.where(none[:, :, None], self.null.to(tokens.dtype), tokens), seen


class ByteTransformer(nn.Module):
    """A transformer over the bytes of a text and their places."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.values = embedding(1 + BYTES, config.width)
        self.places = embedding(config.length, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, text: Tensor, seen: Tensor) -> Tensor:
        """text (B, L) int64, seen (B, L) bool -> (B, L, D)."""
        h = self.values(text) + self.places.weight[: text.shape[1]]
        for layer in self.layers:
            h = layer(h, seen)
        out: Tensor = self.norm(h)
        return out


class Layer(nn.Module):
    """Attention and two layers on each token, both normalised first (Xiong et al. 2020)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = glorot(nn.Linear(width, 3 * width))
        self.out = zeroed(nn.Linear(width, width))
        self.norm2 = nn.LayerNorm(width)
        self.first = glorot(nn.Linear(width, 4 * width))
        self.second = zeroed(nn.Linear(4 * width, width))

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """h (B, L, D), seen (B, L) bool -> (B, L, D)."""
        batch, length, width = h.shape
        parts = self.qkv(self.norm1(h)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, L, channels of a head)
        mixed = nnf.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return torch.add(h, self.second(nnf.gelu(self.first(self.norm2(h)))))
