"""What blocks are told besides the picture: noise level, class, augmentation, text."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import NULL_CLASS
from ddpm_cli.core.models.layers import embedding, glorot, zeroed
from ddpm_cli.core.models.text import TextEmbedding

AUGMENTATIONS = 9  # numbers that say how training moved a picture


class BlockContext(NamedTuple):
    """What every block is told besides the picture."""

    vector: Tensor  # (B, E): noise level, class, the whole text; ready for a linear layer
    classes: Tensor | None = None  # (B, E): the class alone, as ready
    tokens: Tensor | None = None  # (B, L, D): the text
    seen: Tensor | None = None  # (B, L) bool: which of the tokens are there


def sinusoidal(values: Tensor, width: int, order: str, longest: float = 10_000) -> Tensor:
    """Position encoding of real numbers (Vaswani et al. 2017, section 3.5): (B,) -> (B, width).

    "sin-cos" is DDPM's: sines, then cosines, of rates that end at 1/`longest` exactly. "cos-sin" is
    improved DDPM's: cosines first, and the rates stop one short of that.
    """
    half = width // 2
    last = max(half - 1, 1) if order == "sin-cos" else half
    rates = torch.exp(
        torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(longest) / last)
    )
    angles = values.float()[:, None] * rates
    parts = (angles.sin(), angles.cos())
    return torch.cat(parts if order == "sin-cos" else parts[::-1], dim=1)


class ConditionEmbedding(nn.Module):
    """Noise level and condition as the context that the blocks read."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_dim
        self.first = glorot(nn.Linear(config.width, width))
        self.second = glorot(nn.Linear(width, width))
        self.augmented = (
            glorot(nn.Linear(AUGMENTATIONS, config.width, bias=False)) if config.augmented else None
        )
        self.classes = self.class_map = None
        if config.classes:
            rows = len(config.classes) + config.null_class  # row 0: the null class, if there is one
            self.classes = embedding(rows, config.class_width or width)
            if config.class_width is not None:
                self.class_map = glorot(nn.Linear(config.class_width, width))
        self.text = self.text_map = None
        if config.text is not None:
            self.text = TextEmbedding(config.text)
            self.text_map = zeroed(nn.Linear(config.text.width, width))

    def forward(self, c_noise: Tensor, condition: Condition) -> BlockContext:
        """c_noise (B,) and what the B pictures should show -> context."""
        encoded = sinusoidal(c_noise, self.config.width, self.config.encoding)
        if self.augmented is not None:
            moved = condition.augmented
            if moved is None:
                moved = encoded.new_zeros(len(encoded), AUGMENTATIONS)
            encoded = encoded + self.augmented(moved)
        vector = self.second(nnf.silu(self.first(encoded)))
        classes = None
        if self.classes is not None:
            classes = self._classes(condition.labels, c_noise)
            vector, classes = vector + classes, nnf.silu(classes)
        if self.text is None or self.text_map is None:
            return BlockContext(nnf.silu(vector), classes)
        text = self.text.nothing(c_noise) if condition.text is None else condition.text
        tokens, seen = self.text(text)
        even = nnf.layer_norm(tokens, tokens.shape[-1:])  # frozen encoders' vectors are of any size
        vector = vector + self.text_map(_mean(even, seen))
        return BlockContext(nnf.silu(vector), classes, tokens, seen)

    def _classes(self, labels: Tensor | None, c_noise: Tensor) -> Tensor:
        assert self.classes is not None
        if labels is None:
            labels = torch.full_like(c_noise, NULL_CLASS, dtype=torch.int64)
        embedded: Tensor = self.classes(labels + self.config.null_class)
        return embedded if self.class_map is None else self.class_map(embedded)


def _mean(tokens: Tensor, seen: Tensor) -> Tensor:
    """The mean (B, D) of those of the tokens (B, L, D) that count, seen (B, L)."""
    there = seen[:, :, None].to(tokens.dtype)
    return (tokens * there).sum(dim=1) / there.sum(dim=1)
