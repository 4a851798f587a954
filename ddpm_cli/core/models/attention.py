"""Attention over pixels, patches, channels and texts; each around a skip connection."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.embeddings import BlockContext
from ddpm_cli.core.models.layers import glorot, normalisation, zeroed


class SelfAttention(nn.Module):
    """Every patch of attn_patch x attn_patch pixels attends to every other.

    Patches of one pixel are DDPM's attention (Ho et al. 2020, appendix B); larger ones are embedded
    as in Dosovitskiy et al. (2021), equation 1. Convolutions around it tell where a patch lies.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        patch = config.attn_patch
        self.patch, self.heads, self.scale = patch, config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qkv = glorot(nn.Conv2d(channels, 3 * channels, patch, stride=patch))
        self.out = zeroed(nn.Conv2d(channels, channels * patch**2, 1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        qkv = self.qkv(self.norm(x))
        batch, threefold, height, width = qkv.shape
        channels = threefold // 3
        parts = qkv.reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = parts.transpose(-1, -2).unbind(1)  # (B, heads, patches, channels of a head)
        h = nnf.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return _added(x, nnf.pixel_shuffle(self.out(h), self.patch), self.scale)


class LinearAttention(nn.Module):
    """Attention whose cost grows with the pixels, not with their square (Shen et al. 2021).

    Keys are softened over the pixels and queries over a head's channels; values are summed by key
    first, (k^T v), and read by query then.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qkv = glorot(nn.Conv2d(channels, 3 * channels, 1))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(
            batch, 3, self.heads, channels // self.heads, height * width
        )
        q, k, v = parts.unbind(1)  # (B, heads, channels of a head, pixels)
        summed = k.softmax(dim=-1) @ v.transpose(-1, -2)
        h = summed.transpose(-1, -2) @ q.softmax(dim=-2)
        return _added(x, self.out(h.reshape(batch, channels, height, width)), self.scale)


class ClassAttention(nn.Module):
    """Channels attend to channels, and the class alone says which to which.

    Its embedding makes a query and a key number for each channel; channel i of a head takes the
    values of channel j by softmax over j of q_i k_j.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qk = glorot(nn.Linear(config.embedding_dim, 2 * channels))
        self.value = glorot(nn.Conv2d(channels, channels, 1))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        assert context.classes is not None
        batch, channels, height, width = x.shape
        split = (batch, self.heads, channels // self.heads)
        q, k = self.qk(context.classes).chunk(2, dim=1)
        v = self.value(self.norm(x)).reshape(*split, height * width)
        h = nnf.scaled_dot_product_attention(
            q.reshape(*split, 1).to(v), k.reshape(*split, 1).to(v), v
        )
        return _added(x, self.out(h.reshape(batch, channels, height, width)), self.scale)


class ChannelAttention(nn.Module):
    """Efficient channel attention (Wang et al. 2020): each channel is scaled by what all hold.

    The channels' means, convolved along the channels, give the scales. They are sigmoids times two,
    so that a block of zero weights is the identity.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        kernel = int(abs(math.log2(channels) / 2 + 0.5)) | 1  # their equation 12: the nearest odd
        self.mix = zeroed(nn.Conv1d(1, 1, kernel, padding=kernel // 2))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        means = x.mean(dim=(2, 3))[:, None]
        scales = 2 * self.mix(means).sigmoid()
        return torch.mul(x, scales.transpose(1, 2)[..., None].to(x))


class CrossAttention(nn.Module):
    """Every pixel attends to the tokens of its picture's text (Rombach et al. 2022, section 3.3).

    With one token, as where there is no text, each pixel gets the same: a bias.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        assert config.text is not None
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.query = glorot(nn.Conv2d(channels, channels, 1))
        self.token_norm = nn.LayerNorm(config.text.width)
        self.key_value = glorot(nn.Linear(config.text.width, 2 * channels))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        assert context.tokens is not None and context.seen is not None
        batch, channels, height, width = x.shape
        split = (self.heads, channels // self.heads)
        q = self.query(self.norm(x)).reshape(batch, *split, height * width).transpose(-1, -2)
        tokens = self.key_value(self.token_norm(context.tokens))
        k, v = tokens.reshape(batch, -1, 2, *split).permute(2, 0, 3, 1, 4)  # (B, heads, L, …)
        h = nnf.scaled_dot_product_attention(q, k, v, attn_mask=context.seen[:, None, None])
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return _added(x, self.out(h), self.scale)


def _added(x: Tensor, h: Tensor, scale: float) -> Tensor:
    """The residual sum, scaled; in x's memory format."""
    summed = x + h
    return summed if scale == 1 else scale * summed
