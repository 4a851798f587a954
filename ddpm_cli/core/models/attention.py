"""Residual attention blocks: over pixels, patches, channels and caption tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.layers import glorot, normalisation, zeroed


class SelfAttention(nn.Module):
    """Multi-head self-attention over patches of attn_patch x attn_patch pixels.

    With patches of one pixel it is DDPM's attention (Ho et al. 2020, appendix B); larger patches
    are embedded as in ViT (Dosovitskiy et al. 2021, equation 1). It has no position embedding: the
    surrounding convolutions encode positions.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        patch = config.attn_patch
        self.patch, self.heads, self.scale = patch, config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qkv = glorot(nn.Conv2d(channels, 3 * channels, patch, stride=patch), joined=3)
        self.out = zeroed(nn.Conv2d(channels, channels * patch**2, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        qkv = self.qkv(self.norm(x))
        batch, threefold, height, width = qkv.shape
        channels = threefold // 3
        qkv = qkv.reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, patches, channels per head)
        h = nnf.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return _residual(x, nnf.pixel_shuffle(self.out(h), self.patch), self.scale)


class LinearAttention(nn.Module):
    """Efficient attention, of cost linear in the number of pixels (Shen et al. 2021).

    Softmax of the keys over the pixels and of the queries over the channels of a head, and the
    products are associated as q (k^T v).
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qkv = glorot(nn.Conv2d(channels, 3 * channels, 1), joined=3)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(
            batch, 3, self.heads, channels // self.heads, height * width
        )
        q, k, v = qkv.unbind(1)  # (B, heads, channels per head, pixels)
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)
        h = context.transpose(-1, -2) @ q.softmax(dim=-2)
        return _residual(x, self.out(h.reshape(batch, channels, height, width)), self.scale)


class ClassAttention(nn.Module):
    """Attention between channels, whose weights depend on the class alone.

    The class embedding is projected to one query and one key per channel; channel i of a head
    takes the values of channel j with weights softmax_j(q_i k_j).
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.qk = glorot(nn.Linear(config.embedding_dim, 2 * channels), joined=2)
        self.value = glorot(nn.Conv2d(channels, channels, 1))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        assert embeddings.class_embedding is not None
        batch, channels, height, width = x.shape
        split = (batch, self.heads, channels // self.heads)
        q, k = self.qk(nnf.silu(embeddings.class_embedding)).chunk(2, dim=1)
        v = self.value(self.norm(x)).reshape(*split, height * width)
        h = nnf.scaled_dot_product_attention(
            q.reshape(*split, 1).to(v), k.reshape(*split, 1).to(v), v
        )
        return _residual(x, self.out(h.reshape(batch, channels, height, width)), self.scale)


class ChannelAttention(nn.Module):
    """Efficient channel attention, ECA (Wang et al. 2020).

    A 1D convolution along the channels of the global average pool gives the gates. They are twice
    a sigmoid, so that the block with zero weights is the identity.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        kernel = int(abs(math.log2(channels) / 2 + 0.5)) | 1  # equation 12: the nearest odd number
        self.mix = zeroed(nn.Conv1d(1, 1, kernel, padding=kernel // 2))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        pooled = x.mean(dim=(2, 3))[:, None]
        gates = 2 * self.mix(pooled).sigmoid()
        return torch.mul(x, gates.transpose(1, 2)[..., None].to(x))


class CrossAttention(nn.Module):
    """Cross-attention of pixels to the tokens of the caption (Rombach et al. 2022, section 3.3).

    With a single token, such as the null token of an empty caption, it adds the same to every
    pixel: a bias.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        assert config.text is not None
        self.heads, self.scale = config.heads_of(channels), config.skip_scale
        self.norm = normalisation(channels, config)
        self.query = glorot(nn.Conv2d(channels, channels, 1))
        self.token_norm = nn.LayerNorm(config.text.width)
        self.key_value = glorot(nn.Linear(config.text.width, 2 * channels), joined=2)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        assert embeddings.tokens is not None and embeddings.token_mask is not None
        batch, channels, height, width = x.shape
        split = (self.heads, channels // self.heads)
        q = self.query(self.norm(x)).reshape(batch, *split, height * width).transpose(-1, -2)
        key_value = self.key_value(self.token_norm(embeddings.tokens))
        k, v = key_value.reshape(batch, -1, 2, *split).permute(2, 0, 3, 1, 4)  # (B, heads, L, …)
        mask = embeddings.token_mask[:, None, None]
        h = nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return _residual(x, self.out(h), self.scale)


def _residual(x: Tensor, h: Tensor, scale: float) -> Tensor:
    """The scaled residual sum, in the memory format of x."""
    total = x + h
    return total if scale == 1 else scale * total
