"""Blocks of a transformer: attention, to captions as well, and an MLP, modulated by adaLN-Zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models import positions
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.layers import glorot, zeroed
from ddpm_cli.core.models.network import weight_count

_RATIO = 4  # of the MLP's width to the token's


class TransformerBlock(nn.Module):
    """Self-attention, attention to the caption if there are captions, and an MLP, as residuals.

    The embedding gives shift, scale and gate of attention and MLP (Peebles & Xie 2023, section 3.2,
    adaLN-Zero): the gates start at 0, so that the block starts as the identity.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(config.embedding_dim, 6 * config.width))
        self.norm1 = token_norm(config)
        self.attention = Attention(config)
        self.text = None if config.text is None else TextAttention(config)
        self.norm2 = token_norm(config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else GELU(config)

    def forward(self, h: Tensor, embeddings: Embeddings, rotations: Tensor | None) -> Tensor:
        """h (B, L, D) -> the same shape; rotations as in `positions`, None without."""
        modulation = self.modulation(embeddings.global_embedding)[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        h = h + gate1 * self.attention(modulate(self.norm1(h), shift1, scale1), rotations)
        if self.text is not None:
            h = h + self.text(h, embeddings)
        return torch.add(h, gate2 * self.mlp(modulate(self.norm2(h), shift2, scale2)))

    def multiplications(self, length: int) -> int:
        """Of matrix products and self-attention, for one image of so many tokens.

        Those of a caption's tokens, which may be of any number, are left out.
        """
        per_token: list[nn.Module] = [self.attention, self.mlp]
        if self.text is not None:
            per_token += [self.text.query, self.text.out]
        weights = weight_count(*per_token, dimensions=(2,))
        pairs = 2 * self.attention.out.in_features * length**2  # q k^T, and the weighted values
        return length * weights + pairs + self.modulation.weight.numel()


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, with positions rotated into queries and keys."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads_of(width)
        self.qkv = glorot(nn.Linear(width, 3 * width), joined=3)
        head, normed = width // self.heads, config.qk_norm
        self.q_norm = nn.RMSNorm(head, eps=config.epsilon) if normed else nn.Identity()
        self.k_norm = nn.RMSNorm(head, eps=config.epsilon) if normed else nn.Identity()
        self.out = glorot(nn.Linear(width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, rotations: Tensor | None) -> Tensor:
        """h (B, L, D) -> the same shape."""
        q, k, v = _split(self.qkv(h), 3, self.heads)
        q, k = self.q_norm(full_precision(q)), self.k_norm(full_precision(k))
        if rotations is not None:
            q, k = positions.rotate(q, rotations), positions.rotate(k, rotations)
        h = nnf.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        out: Tensor = self.dropout(self.out(h.transpose(1, 2).flatten(2)))
        return out


class TextAttention(nn.Module):
    """Attention of all tokens to those of the caption; it starts as zero.

    As the U-Net's text-attn (Rombach et al. 2022, section 3.3), so that captions can be added to a
    trained network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        assert config.text is not None
        self.heads = config.heads_of(config.width)
        self.norm = token_norm(config)
        self.query = glorot(nn.Linear(config.width, config.width))
        self.token_norm = nn.LayerNorm(config.text.width)
        self.key_value = glorot(nn.Linear(config.text.width, 2 * config.width), joined=2)
        self.out = zeroed(nn.Linear(config.width, config.width))

    def forward(self, h: Tensor, embeddings: Embeddings) -> Tensor:
        """h (B, L, D) -> the same shape."""
        assert embeddings.tokens is not None and embeddings.token_mask is not None
        (q,) = _split(self.query(self.norm(h)), 1, self.heads)
        k, v = _split(self.key_value(self.token_norm(embeddings.tokens)), 2, self.heads)
        mask = embeddings.token_mask[:, None, None]
        h = nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(h.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """SiLU-gated linear units (Shazeer 2020, equation 6), of as many weights as `GELU` has."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        hidden = 2 * _RATIO * config.width // 3
        self.first = glorot(nn.Linear(config.width, 2 * hidden), joined=2)
        self.dropout = nn.Dropout(config.dropout)
        self.second = glorot(nn.Linear(hidden, config.width))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, L, D) -> the same shape."""
        gate, value = self.first(h).chunk(2, dim=-1)
        out: Tensor = self.second(self.dropout(nnf.silu(gate) * value))
        return out


class GELU(nn.Module):
    """A hidden layer of four times the width, with GELU in its tanh form, as DiT."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.first = glorot(nn.Linear(config.width, _RATIO * config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.second = glorot(nn.Linear(_RATIO * config.width, config.width))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, L, D) -> the same shape."""
        out: Tensor = self.second(self.dropout(nnf.gelu(self.first(h), approximate="tanh")))
        return out


def token_norm(config: NetworkConfig) -> nn.Module:
    """Normalisation of each token: by its root mean square, or DiT's without learned scales."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=config.epsilon)
    return nn.LayerNorm(config.width, eps=config.epsilon, elementwise_affine=False)


def full_precision(x: Tensor) -> Tensor:
    """At least in float32, in which tokens are normalised and summed up."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """h (B, L, D), shifted and scaled by (B, 1, D)."""
    return h * (1 + scale) + shift


def _split(h: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, L, parts D) -> so many tensors (B, heads, L, D / heads)."""
    batch, length, channels = h.shape
    h = h.reshape(batch, length, parts, heads, channels // (parts * heads))
    return torch.unbind(h.permute(2, 0, 3, 1, 4))
