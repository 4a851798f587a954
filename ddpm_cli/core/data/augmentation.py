"""Pictures moved at random, and what a network is told of it so that it never draws them so.

Non-leaky augmentation: Karras et al. (2022), appendix F.2, after Karras et al. (2020), "Training
generative adversarial networks with limited data". Coordinates are pixels from the picture's
centre, to the right and down; angles are radians, counter-clockwise as one sees the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as nnf

_STRENGTH = 0.2  # of scaling and stretching: a deviation is a factor of 2^0.2
_SHIFT = 1 / 8  # a deviation of a translation, as a share of the picture's side
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))


def draw_moves(count: int, probability: float, mirroring: float, random: torch.Generator) -> Tensor:
    """The parameters a_0 to a_7 of so many pictures' moves, float64 (count, 8): table 6.

    In turn: 1 to mirror left to right, 1 to mirror top to bottom, log-scale, rotation, direction
    and log-strength of a stretch, translation to the right and down. The logarithms and the
    translation are in deviations. Each of the six transformations is considered with this
    probability, but the first with that of `mirroring`, and is left at zero otherwise; a mirror
    then stands on one side or the other by a fair coin.
    """
    considered = torch.rand((count, 6), generator=random)
    coins = torch.randint(2, (count, 2), generator=random)
    angles = (torch.rand((count, 2), generator=random, dtype=torch.float64) * 2 - 1) * math.pi
    normals = torch.randn((count, 4), generator=random, dtype=torch.float64)
    moves = torch.cat([coins, normals[:, :1], angles, normals[:, 1:]], dim=1)
    allowed = considered < torch.tensor([mirroring, *5 * [probability]])
    return moves * allowed[:, [0, 1, 2, 3, 4, 4, 5, 5]]  # a stretch and a translation are two each


def labels(moves: Tensor) -> Tensor:
    """What the network is told of moves (B, 8): float32 (B, 9), zeros where nothing moved.

    Angles as points on a circle, so that nothing leaps where they come round.
    """
    left, top, scale, angle, direction, stretch, right, down = moves.unbind(dim=1)
    told = (
        *(left, top, scale),
        *(angle.cos() - 1, angle.sin()),
        *(stretch * direction.cos(), stretch * direction.sin()),
        *(right, down),
    )
    return torch.stack(told, dim=1).float()


def moved(images: Tensor, moves: Tensor) -> Tensor:
    """Move pictures (B, C, H, W) within [-1, 1] by parameters (B, 8), on the pictures' device.

    Mirrors swap pixels; the rest of a picture's moves are one resampling, and a picture without
    any stays as it is, bit for bit.
    """
    images = mirrored(images, moves[:, 0] == 1)
    images = mirrored(images, moves[:, 1] == 1, side=-2)
    (rows,) = torch.nonzero(moves[:, 2:].any(dim=1), as_tuple=True)
    if len(rows) == 0:
        return images
    chosen = rows.to(images.device)
    return images.index_copy(0, chosen, _warped(images[chosen], moves[rows]))


def mirrored(images: Tensor, chosen: Tensor, side: int = -1) -> Tensor:
    """Flip the chosen (B,) pictures of (B, C, H, W): left to right, or top to bottom (side -2)."""
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(side), images)


def _warped(images: Tensor, moves: Tensor) -> Tensor:
    """Scale, rotate, stretch and translate (B, C, H, W), which goes on as its own reflection."""
    height, width = images.shape[2:]
    points = _points(moves, height, width, images.device)
    sampled = nnf.grid_sample(
        images,
        points.flatten(1, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return sampled.reshape(*images.shape[:2], 4, height, width).mean(dim=2).clamp(-1, 1)


def _points(moves: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Where in the old picture lie the four points of which each new pixel is the mean.

    (B, 4, H, W, 2) in units of half the sides. Where a picture shrinks, a new pixel covers several
    old ones: its points lie as far apart as its area has more than one old pixel's, so that
    nothing is blurred that keeps its size.
    """
    sides = torch.tensor([width, height])
    back = torch.linalg.inv(_linear(moves))
    axes, lengths, _ = torch.linalg.svd(back)  # of what a round new pixel covers
    apart = axes * ((lengths**2 - 1).clamp(min=0) / 12).sqrt()[:, None, :]  # a box's deviation
    around = torch.stack([apart @ apart.new_tensor(c) for c in _CORNERS], dim=1)  # (B, 4, 2)
    shift = _SHIFT * sides * moves[:, 6:]
    back, around, shift, unit = (
        t.to(device, torch.float32) for t in (back, around, shift, 2 / sides)
    )
    rows, columns = (torch.arange(n, device=device) - (n - 1) / 2 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    new = torch.stack([x, y], dim=-1) - shift[:, None, None, :]  # (B, H, W, 2)
    # Sums, not matrix products, whose inputs a GPU may round to ten bits.
    old = (back[:, None, None] * new[:, :, :, None, :]).sum(dim=-1)
    return (old[:, None] + around[:, :, None, None, :]) * unit


def _linear(moves: Tensor) -> Tensor:
    """Where scale, rotation and stretch, in this order, take a point: (B, 2, 2)."""
    _, _, scale, angle, direction, stretch, _, _ = moves.unbind(dim=1)
    along = torch.exp2(_STRENGTH * stretch)
    stretched = torch.diag_embed(torch.stack([along, 1 / along], dim=1))
    turned = _rotation(direction) @ stretched @ _rotation(-direction) @ _rotation(angle)
    return torch.exp2(_STRENGTH * scale)[:, None, None] * turned


def _rotation(angle: Tensor) -> Tensor:
    """Counter-clockwise as one sees it, with the second coordinate downwards: (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
