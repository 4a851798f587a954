"""Embeddings of the noise level and the condition, which modulate the blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.models.layers import embedding_table, glorot, zeroed
from ddpm_cli.core.models.text import TextEmbedding

_GUIDANCE = 100  # that a guidance of 1 is encoded as, of _LEVELS
_LEVELS = 1000  # that an encoding tells apart: deviations of 0 to 1, as timesteps
AUGMENTATIONS = 9  # augmentation parameters of an image (Karras et al. 2022, appendix F.2)


class Embeddings(NamedTuple):
    """The inputs of a block beside its feature map.

    E is the embedding width, L the number of tokens and D their width.
    """

    # (B, E): the noise level embedding plus class, augmentation and pooled text embedding,
    # activated (SiLU)
    global_embedding: Tensor
    class_embedding: Tensor | None = None  # (B, E), not activated
    tokens: Tensor | None = None  # (B, L, D): the caption's
    token_mask: Tensor | None = None  # (B, L) bool: False for padding


def sinusoidal(values: Tensor, width: int, order: str, longest: float = 10_000) -> Tensor:
    """Sinusoidal embedding of real numbers (Vaswani et al. 2017, section 3.5): (B,) -> (B, width).

    order "sin-cos" is DDPM's: sines before cosines, with frequencies down to 1/`longest`
    inclusive. "cos-sin" is improved DDPM's: cosines first, and 1/`longest` is excluded.
    """
    half = width // 2
    last = max(half - 1, 1) if order == "sin-cos" else half
    frequencies = torch.exp(
        torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(longest) / last)
    )
    angles = values.float()[:, None] * frequencies
    parts = (angles.sin(), angles.cos())
    return torch.cat(parts if order == "sin-cos" else parts[::-1], dim=1)


class ConditionEmbedding(nn.Module):
    """Embed the noise level and the condition."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, encoding = config.embedding_dim, config.encoding_dim
        self.first = glorot(nn.Linear(encoding, width))
        self.second = glorot(nn.Linear(width, width))
        self.augmented = (
            glorot(nn.Linear(AUGMENTATIONS, encoding, bias=False)) if config.augmented else None
        )
        self.given_noise = (
            glorot(nn.Linear(encoding, encoding, bias=False)) if config.given_noise else None
        )
        self.guidance = zeroed(nn.Linear(encoding, width)) if config.guidance else None
        self.classes = self.class_map = None
        if config.classes:
            rows = len(config.classes) + config.null_class  # row 0: the null class, if there is one
            self.classes = embedding_table(rows, config.class_width or width)
            if config.class_width is not None:
                self.class_map = glorot(nn.Linear(config.class_width, width))
        self.text = self.text_map = None
        if config.text is not None:
            self.text = TextEmbedding(config.text)
            self.text_map = zeroed(nn.Linear(config.text.width, width))

    def forward(self, c_noise: Tensor, condition: Condition) -> Embeddings:
        """c_noise (B,) and the condition of B images -> their embeddings."""
        encoded = self._encode(c_noise)
        if self.augmented is not None:
            augmentation = condition.augmented
            if augmentation is None:
                augmentation = encoded.new_zeros(len(encoded), AUGMENTATIONS)
            encoded = encoded + self.augmented(augmentation)
        if self.given_noise is not None:
            deviation = condition.given_noise
            if deviation is None:
                deviation = torch.zeros_like(c_noise)
            encoded = encoded + self.given_noise(self._encode(_LEVELS * deviation))
        embedding = self.second(nnf.silu(self.first(encoded)))
        if self.guidance is not None:
            guidance = condition.guidance
            if guidance is None:
                guidance = torch.ones_like(c_noise)  # none
            embedding = embedding + self.guidance(self._encode(_GUIDANCE * guidance))
        class_embedding = None
        if self.classes is not None:
            class_embedding = self._embed_classes(condition.labels, c_noise)
            embedding = embedding + class_embedding
        if self.text is None or self.text_map is None:
            return Embeddings(nnf.silu(embedding), class_embedding)
        text = self.text.empty(c_noise) if condition.text is None else condition.text
        tokens, mask = self.text(text)
        # The norms of a frozen encoder's vectors are arbitrary.
        normalised = nnf.layer_norm(tokens, tokens.shape[-1:])
        embedding = embedding + self.text_map(_masked_mean(normalised, mask))
        return Embeddings(nnf.silu(embedding), class_embedding, tokens, mask)

    def _encode(self, values: Tensor) -> Tensor:
        return sinusoidal(values, self.config.encoding_dim, self.config.encoding)

    def _embed_classes(self, labels: Tensor | None, c_noise: Tensor) -> Tensor:
        assert self.classes is not None
        if self.config.multi_label:
            embedded = self._summed(labels, c_noise)
        else:
            if labels is None:
                labels = torch.full_like(c_noise, NULL_CLASS, dtype=torch.int64)
            embedded = self.classes(labels + self.config.null_class)
        return embedded if self.class_map is None else self.class_map(embedded)

    def _summed(self, labels: Tensor | None, c_noise: Tensor) -> Tensor:
        """The sum of the present classes' embeddings, or that of the null class: labels (B, K)."""
        assert self.classes is not None
        weight, shape = self.classes.weight, (len(c_noise), len(self.config.classes))
        if labels is None:
            labels = torch.full(shape, NULL_CLASS, device=c_noise.device)
        if labels.shape != shape:
            raise ValueError(f"labels of a multi-label network are {shape}, not {(*labels.shape,)}")
        present = labels.clamp(min=0)
        if self.config.null_class:  # row 0 of the table
            present = torch.cat([(labels[:, :1] == NULL_CLASS).long(), present], dim=1)
        return present.to(weight.dtype) @ weight


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the unmasked tokens: tokens (B, L, D), mask (B, L) bool -> (B, D)."""
    weights = mask[:, :, None].to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1)
