"""Positions of a transformer's tokens in two dimensions, counted in patches from the corner."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.embeddings import sinusoidal

_LONGEST = 10_000.0  # of the wavelengths, in multiples of the shortest


def tables(
    config: NetworkConfig, rows: int, columns: int, device: torch.device | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """`sin_cos` and `rotations` of a grid as the config's `positions` has them; None: without.

    device: None for the default one.
    """
    added = rotated = None
    if config.positions != "rope":
        added = sin_cos(rows, columns, config.width, device)
    if config.positions != "sin-cos":
        rotated = rotations(rows, columns, config.width // config.heads_of(config.width), device)
    return added, rotated


def sin_cos(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed embeddings of the positions of a grid, row by row: (rows columns, width).

    Half of the channels are sines and cosines of the column, and half of the row (as DiT's, after
    Vaswani et al. 2017, section 3.5).
    """
    row, column = _grid(rows, columns, device)
    order = "cos-sin"  # whose frequencies end before 1 / longest
    halves = [sinusoidal(place, width // 2, order, _LONGEST) for place in (column, row)]
    return torch.cat(halves, dim=1)


def rotations(rows: int, columns: int, head: int, device: torch.device | None = None) -> Tensor:
    """Angles of the rotary embedding of a grid's tokens: (2, rows columns, head / 2), cos and sin.

    Su et al. (2021), equation 34, in two dimensions: the first half of the pairs of channels turns
    with the row, the other half with the column. The product of a rotated query and a rotated key
    depends on the difference of their positions alone.
    """
    pairs = head // 4  # of each dimension
    frequencies = _LONGEST ** (-torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    angles = torch.cat([place[:, None] * frequencies for place in _grid(rows, columns, device)], 1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Queries or keys x (B, heads, L, head), of which the last tokens have positions, rotated.

    Channel i of the first half and of the second are a pair. rotations (2, L', head / 2); the
    first L - L' tokens have no position, and stay.
    """
    cos, sin = rotations.to(x.dtype)
    beside = x.shape[2] - cos.shape[0]
    first, second = x[:, :, beside:].chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([x[:, :, :beside], turned], dim=2) if beside else turned


def _grid(rows: int, columns: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Row and column of each token, float32 (rows columns,)."""
    sides = [torch.arange(n, device=device, dtype=torch.float32) for n in (rows, columns)]
    row, column = torch.meshgrid(*sides, indexing="ij")
    return row.flatten(), column.flatten()
