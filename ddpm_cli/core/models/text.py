"""Caption encoders: a small transformer over bytes, or a frozen encoder's token vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.models.layers import embedding_table, glorot, zeroed

BYTES = 256  # values of a byte


class TextEmbedding(nn.Module):
    """Map captions to tokens for cross-attention (Nichol et al. 2022, GLIDE, section 4).

    Bytes pass through a transformer that is trained together with the U-Net; a frozen encoder's
    vectors are used as they are. An empty caption is one learned null token, the same for every
    image, which therefore acts on the network as a bias.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(config.width))
        self.bytes = ByteTransformer(config) if config.encoder == "bytes" else None

    def empty(self, like: Tensor) -> Tensor:
        """An empty caption for each of the images of `like` (B, …), on its device."""
        dtype = torch.float32 if self.bytes is None else torch.int64
        shape = (1, len(self.null)) if self.bytes is None else (1,)
        return torch.zeros(len(like), *shape, dtype=dtype, device=like.device)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) and their mask (B, L) bool, False for padding.

        text: bytes plus one (B, L), or vectors (B, L, D); zeros are padding.
        """
        present = text != 0 if text.ndim == 2 else (text != 0).any(dim=2)
        empty = ~present[:, :1]
        mask = present | (torch.arange(present.shape[1], device=present.device) == 0)
        tokens = text if self.bytes is None else self.bytes(text, mask)
        return torch.where(empty[:, :, None], self.null.to(tokens.dtype), tokens), mask


class ByteTransformer(nn.Module):
    """A transformer over bytes with learned position embeddings."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.values = embedding_table(1 + BYTES, config.width)
        self.places = embedding_table(config.length, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """text (B, L) int64, mask (B, L) bool -> (B, L, D)."""
        h = self.values(text) + self.places.weight[: text.shape[1]]
        for layer in self.layers:
            h = layer(h, mask)
        out: Tensor = self.norm(h)
        return out


class Layer(nn.Module):
    """A pre-norm transformer layer: self-attention and an MLP (Xiong et al. 2020)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = glorot(nn.Linear(width, 3 * width), joined=3)
        self.out = zeroed(nn.Linear(width, width))
        self.norm2 = nn.LayerNorm(width)
        self.first = glorot(nn.Linear(width, 4 * width))
        self.second = zeroed(nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, L, D), mask (B, L) bool -> (B, L, D)."""
        batch, length, width = h.shape
        qkv = self.qkv(self.norm1(h)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, L, channels per head)
        attended = nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        h = h + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return torch.add(h, self.second(nnf.gelu(self.first(self.norm2(h)))))
