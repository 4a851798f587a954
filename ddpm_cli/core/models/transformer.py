"""The transformer F(x, c_noise, condition) over patches: DiT, JiT, and what is between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models import positions
from ddpm_cli.core.models.embeddings import ConditionEmbedding, Embeddings
from ddpm_cli.core.models.layers import glorot, zeroed
from ddpm_cli.core.models.network import Network, weight_count
from ddpm_cli.core.models.transformer_blocks import (
    TransformerBlock,
    full_precision,
    modulate,
    token_norm,
)

_SMALL = 0.02  # deviation of context tokens' learned part at the start, as JiT


class Transformer(Network):
    """Patches as tokens, blocks of attention and an MLP, and each token back to its patch.

    DiT is of Peebles & Xie (2023), JiT of Li & He (2025). Tokens are summed up in float32.
    Noise level and condition modulate every block, whose branches start at zero (adaLN-Zero,
    Peebles & Xie 2023, section 3.2). Captions are attended to by a branch of each block, classes
    also as tokens beside the patches, in context (Li & He 2025, section 4.4).
    """

    place: Tensor | None
    rotations: Tensor | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        squares = config.patch**2
        inputs = (config.channels + config.given_channels) * squares
        narrow = config.bottleneck or config.width
        self.embedding = ConditionEmbedding(config)
        # Of the pixels of a patch; a bottleneck has no bias, for the layer after it has one.
        self.inputs = glorot(nn.Conv2d(inputs, narrow, 1, bias=config.bottleneck is None))
        self.widen = None
        if config.bottleneck is not None:
            self.widen = glorot(nn.Linear(narrow, config.width))
        self.context: nn.Parameter | None = None
        if config.classes and config.context_tokens:
            start = _SMALL * torch.randn(config.context_tokens, config.width)
            self.context = nn.Parameter(start)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.norm = token_norm(config)
        self.modulation = zeroed(nn.Linear(config.embedding_dim, 2 * config.width))
        outputs = config.channels * squares * (2 if config.learned_variance else 1)
        self.outputs = zeroed(nn.Linear(config.width, outputs))
        # Constants, which move with the weights and are in no file.
        place, rotations = positions.tables(config, *grid_of(config))
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W) of any H and W, c_noise (B,), condition -> F (B, C or 2 C, H, W).

        Positions are counted in patches from the image's corner, whatever its size.
        """
        embeddings = self.embedding(c_noise, condition)
        h = self.inputs(self.patches(x, condition))
        rows, columns = h.shape[2:]
        place, rotations = self._tables(rows, columns, h.device)
        h = self._through_blocks(self._tokens(h, place), embeddings, rotations)
        shift, scale = self.modulation(embeddings.global_embedding)[:, None].chunk(2, dim=-1)
        h = self.outputs(modulate(self.norm(h), shift, scale))
        return self.pixels(h.transpose(1, 2).unflatten(2, (rows, columns)), x)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The blocks."""
        return tuple(self.blocks)

    def forward_operations(self) -> int:
        """Floating point operations of one image's forward pass, in matrix products and attention.

        Those of captions' tokens are left out.
        """
        config = self.config
        tokens = math.prod(grid_of(config))
        beside = 0 if self.context is None else len(self.context)
        products = partial(weight_count, dimensions=(2, 4))
        per_token = products(self.inputs, self.outputs, *filter(None, [self.widen]))
        once = products(self.modulation, self.embedding.first, self.embedding.second)
        total = tokens * per_token + once
        for index, block in enumerate(cast(Iterable[TransformerBlock], self.blocks)):
            length = tokens + (beside if index >= config.context_from else 0)
            total += block.multiplications(length)
        return 2 * total

    def _tables(
        self, rows: int, columns: int, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """The positions that are added, and that rotate: of the config's size those kept."""
        if (rows, columns) == grid_of(self.config):
            return self.place, self.rotations
        return positions.tables(self.config, rows, columns, device)

    def _tokens(self, h: Tensor, place: Tensor | None) -> Tensor:
        """Patches h (B, C', rows, columns) as tokens at their places: (B, L, D), float32."""
        h = h.flatten(2).transpose(1, 2)
        h = full_precision(h if self.widen is None else self.widen(h))
        return h if place is None else h + place

    def _through_blocks(
        self, h: Tensor, embeddings: Embeddings, rotations: Tensor | None
    ) -> Tensor:
        """Tokens h (B, L, D) through all blocks, from some block on with the class beside them."""
        context = None
        for index, block in enumerate(self.blocks):
            if self.context is not None and index == self.config.context_from:
                assert embeddings.class_embedding is not None
                context = embeddings.class_embedding[:, None] + self.context
                h = torch.cat([context.to(h.dtype), h], dim=1)
            h = self.through(block, h, embeddings, rotations)
        return h if context is None else h[:, context.shape[1] :]


def grid_of(config: NetworkConfig) -> tuple[int, int]:
    """Rows and columns of patches in an image of the config's size."""
    height, width = (math.ceil(side / config.patch) for side in config.size)
    return height, width
