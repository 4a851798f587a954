"""The transformer F(x, c_noise, condition) over patches: DiT, JiT, and what is between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models import positions
from ddpm_cli.core.models.embeddings import ConditionEmbedding, Embeddings
from ddpm_cli.core.models.layers import glorot, zeroed
from ddpm_cli.core.models.network import Network, given_image
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

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W) of any H and W, c_noise (B,), condition -> F (B, C or 2 C, H, W).

        Positions are counted in patches from the image's corner, whatever its size.
        """
        config, embeddings = self.config, self.embedding(c_noise, condition)
        if config.given_channels:
            x = torch.cat([x, given_image(condition, x, config.given_channels)], dim=1)
        height, width = x.shape[2:]
        below, right = (-side % config.patch for side in (height, width))
        if below or right:
            x = nnf.pad(x, (0, right, 0, below))

        h = self.inputs(nnf.pixel_unshuffle(x, config.patch))
        rows, columns = h.shape[2:]
        h = h.flatten(2).transpose(1, 2)  # (B, tokens, channels)
        h = full_precision(h if self.widen is None else self.widen(h))
        if config.positions != "rope":
            h = h + positions.sin_cos(rows, columns, config.width, h.device)
        rotations = None
        if config.positions != "sin-cos":
            head = config.width // config.heads_of(config.width)
            rotations = positions.rotations(rows, columns, head, h.device)

        context = self._context(embeddings)
        for index, block in enumerate(self.blocks):
            if context is not None and index == config.context_from:
                h = torch.cat([context.to(h.dtype), h], dim=1)
            h = self._block(block, h, embeddings, rotations)
        if context is not None:
            h = h[:, context.shape[1] :]

        shift, scale = self.modulation(embeddings.global_embedding)[:, None].chunk(2, dim=-1)
        h = self.outputs(modulate(self.norm(h), shift, scale))
        h = h.transpose(1, 2).reshape(len(x), -1, rows, columns)
        return nnf.pixel_shuffle(h, config.patch)[..., :height, :width]

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The blocks."""
        return tuple(self.blocks)

    def forward_operations(self) -> int:
        """Floating point operations of one image's forward pass, in matrix products and attention.

        Those of captions' tokens are left out.
        """
        config = self.config
        tokens = math.prod(math.ceil(side / config.patch) for side in config.size)
        beside = 0 if self.context is None else len(self.context)
        per_token = _weights(self.inputs, self.outputs, *filter(None, [self.widen]))
        once = _weights(self.modulation, self.embedding.first, self.embedding.second)
        total = tokens * per_token + once
        for index, block in enumerate(cast(Iterable[TransformerBlock], self.blocks)):
            length = tokens + (beside if index >= config.context_from else 0)
            total += block.multiplications(length)
        return 2 * total

    def _context(self, embeddings: Embeddings) -> Tensor | None:
        """The tokens of the class: (B, context tokens, width); None without."""
        if self.context is None:
            return None
        assert embeddings.class_embedding is not None
        return embeddings.class_embedding[:, None] + self.context

    def _block(
        self, block: nn.Module, h: Tensor, embeddings: Embeddings, rotations: Tensor | None
    ) -> Tensor:
        """Tokens h (B, L, D) through a block; checkpointed (Chen et al. 2016)."""
        if not (self.checkpointed and self.training and torch.is_grad_enabled()):
            return _through(block, h, embeddings, rotations)
        output: Tensor = checkpoint(
            _through,
            block,
            h,
            embeddings,
            rotations,
            use_reentrant=False,
            preserve_rng_state=self.config.dropout > 0,
        )
        return output


def _through(
    block: nn.Module, h: Tensor, embeddings: Embeddings, rotations: Tensor | None
) -> Tensor:
    output: Tensor = block(h, embeddings, rotations)
    return output


def _weights(*parts: nn.Module) -> int:
    """How many weights of matrix products there are."""
    return sum(p.numel() for part in parts for p in part.parameters() if p.ndim > 1)
