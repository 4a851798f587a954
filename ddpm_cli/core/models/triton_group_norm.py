"""Group normalisation, modulation and SiLU in one kernel for each direction, in channels-last.

A program normalises a few whole groups of an image: it reads them once for the statistics and once
more, from the cache, for the result. Sums are taken in float32, in an order that depends on the
shape alone, so results are the same every time. Triton compiles the kernels where they are used.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_SECTOR = 32  # bytes that a GPU reads at least: so many of each pixel belong to a program
_PROGRAMS = 512  # several for each of a GPU's processors, where the groups suffice
_TILE = 4096  # elements that a program holds at a time


@triton.jit
def _over_groups(values, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """Each channel's value replaced by the sum over its group."""
    sums = tl.sum(tl.reshape(values, [GROUPS, LANES]), axis=1)
    return tl.reshape(tl.broadcast_to(sums[:, None], [GROUPS, LANES]), [GROUPS * LANES])


@triton.jit
def _affine(
    weight_ptr,
    bias_ptr,
    c_ptr,
    image,
    channel,
    channels,
    valid,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Per channel: what is added before, weight, bias, scale, and gain and offset after it."""
    weight = tl.load(weight_ptr + channel, mask=valid, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=valid, other=0.0).to(tl.float32)
    added = tl.zeros_like(weight)
    scale = tl.zeros_like(weight) + 1.0
    shift = tl.zeros_like(weight)
    if ADDED:
        row = c_ptr + image * channels + channel
        added = tl.load(row, mask=valid, other=0.0).to(tl.float32)
    if SCALED:
        row = c_ptr + image * (2 * channels) + channel
        scale += tl.load(row, mask=valid, other=0.0).to(tl.float32)
        shift = tl.load(row + channels, mask=valid, other=0.0).to(tl.float32)
    return added, weight, bias, scale, weight * scale, bias * scale + shift


@triton.jit
def _forward_kernel(
    x_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    c_ptr,
    pixels,
    channels,
    blocks,
    epsilon,
    SIZE: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    PIXELS: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
    SILU: tl.constexpr,
):
    image = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.arange(0, GROUPS * LANES)
    group = (tl.program_id(0) % blocks) * GROUPS + lane // LANES
    channel = group * SIZE + lane % LANES
    valid = (lane % LANES < SIZE) & (channel < channels)
    added, _, _, _, gain, offset = _affine(
        weight_ptr, bias_ptr, c_ptr, image, channel, channels, valid, ADDED, SCALED
    )
    x_ptr += image * pixels * channels
    out_ptr += image * pixels * channels

    # Mean and sum of squared deviations of each channel, by tiles (Chan et al. 1979), then of each
    # group: stable where the mean is large.
    count = 0.0
    mean = tl.zeros([GROUPS * LANES], tl.float32)
    squares = tl.zeros([GROUPS * LANES], tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & valid[None, :]
        places = pixel[:, None] * channels + channel[None, :]
        h = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        here = tl.minimum(pixels - start, PIXELS).to(tl.float32)
        here_mean = tl.sum(h, axis=0) / here
        deviation = tl.where(inside, h - here_mean[None, :], 0.0)
        delta = here_mean - mean
        share = here / (count + here)
        squares += tl.sum(deviation * deviation, axis=0) + delta * delta * count * share
        mean += delta * share
        count += here
    mean = tl.where(valid, mean + added, 0.0)
    group_mean = _over_groups(mean, GROUPS, LANES) / SIZE
    deviation = tl.where(valid, mean - group_mean, 0.0)
    spread = tl.where(valid, squares + count * deviation * deviation, 0.0)
    variance = _over_groups(spread, GROUPS, LANES) / (SIZE * count)
    rstd = 1 / tl.sqrt(variance + epsilon)

    place = image * (channels // SIZE) + group
    first = (lane % LANES == 0) & valid
    tl.store(mean_ptr + place, group_mean, mask=first)
    tl.store(rstd_ptr + place, rstd, mask=first)

    centre = group_mean - added
    gain *= rstd
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & valid[None, :]
        places = pixel[:, None] * channels + channel[None, :]
        h = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        h = (h - centre[None, :]) * gain[None, :] + offset[None, :]
        if SILU:
            h *= tl.sigmoid(h)
        tl.store(out_ptr + places, h.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_tile(
    x_ptr,
    grad_ptr,
    start,
    pixels,
    channel,
    channels,
    valid,
    centre,
    rstd,
    gain,
    offset,
    PIXELS: tl.constexpr,
    SILU: tl.constexpr,
):
    """Where a tile lies, what of it is inside, its normalised x, and the gradient before SiLU."""
    pixel = start + tl.arange(0, PIXELS)
    inside = (pixel < pixels)[:, None] & valid[None, :]
    places = pixel[:, None] * channels + channel[None, :]
    h = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + places, mask=inside, other=0.0).to(tl.float32)
    normal = tl.where(inside, (h - centre[None, :]) * rstd[None, :], 0.0)
    if SILU:
        h = normal * gain[None, :] + offset[None, :]
        gate = tl.sigmoid(h)
        grad *= gate * (1 + h * (1 - gate))
    return places, inside, normal, grad


@triton.jit
def _backward_kernel(
    x_ptr,
    grad_ptr,
    dx_ptr,
    dc_ptr,
    affine_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    c_ptr,
    images,
    pixels,
    channels,
    blocks,
    SIZE: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    PIXELS: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
    SILU: tl.constexpr,
):
    image = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.arange(0, GROUPS * LANES)
    group = (tl.program_id(0) % blocks) * GROUPS + lane // LANES
    channel = group * SIZE + lane % LANES
    valid = (lane % LANES < SIZE) & (channel < channels)
    added, weight, bias, scale, gain, offset = _affine(
        weight_ptr, bias_ptr, c_ptr, image, channel, channels, valid, ADDED, SCALED
    )
    place = image * (channels // SIZE) + group
    rstd = tl.load(rstd_ptr + place, mask=valid, other=0.0)
    centre = tl.load(mean_ptr + place, mask=valid, other=0.0) - added
    x_ptr += image * pixels * channels
    grad_ptr += image * pixels * channels
    dx_ptr += image * pixels * channels

    # Sums over the pixels of the gradient, of its product with the normalised x, and of that.
    of_grad = tl.zeros([GROUPS * LANES], tl.float32)
    of_product = tl.zeros([GROUPS * LANES], tl.float32)
    of_normal = tl.zeros([GROUPS * LANES], tl.float32)
    for start in range(0, pixels, PIXELS):
        places, inside, normal, grad = _gradient_tile(
            x_ptr, grad_ptr, start, pixels, channel, channels, valid,
            centre, rstd, gain, offset, PIXELS, SILU,
        )  # fmt: skip
        of_grad += tl.sum(grad, axis=0)
        of_product += tl.sum(grad * normal, axis=0)
        if ADDED:
            of_normal += tl.sum(normal, axis=0)

    affine_ptr += image * channels + channel
    tl.store(affine_ptr, scale * of_product, mask=valid)
    tl.store(affine_ptr + images * channels, scale * of_grad, mask=valid)
    elements = SIZE * pixels
    mean_grad = _over_groups(gain * of_grad, GROUPS, LANES) / elements
    mean_product = _over_groups(gain * of_product, GROUPS, LANES) / elements
    if ADDED:
        summed = rstd * (gain * of_grad - pixels * mean_grad - mean_product * of_normal)
        row = dc_ptr + image * channels + channel
        tl.store(row, summed.to(dc_ptr.dtype.element_ty), mask=valid)
    if SCALED:
        row = dc_ptr + image * (2 * channels) + channel
        of_scale = weight * of_product + bias * of_grad
        tl.store(row, of_scale.to(dc_ptr.dtype.element_ty), mask=valid)
        tl.store(row + channels, of_grad.to(dc_ptr.dtype.element_ty), mask=valid)

    for start in range(0, pixels, PIXELS):
        places, inside, normal, grad = _gradient_tile(
            x_ptr, grad_ptr, start, pixels, channel, channels, valid,
            centre, rstd, gain, offset, PIXELS, SILU,
        )  # fmt: skip
        dx = gain[None, :] * grad - mean_grad[None, :] - normal * mean_product[None, :]
        dx *= rstd[None, :]
        tl.store(dx_ptr + places, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def blocks_and_constants(
    shape: torch.Size, itemsize: int, c: Tensor | None, groups: int, silu: bool
) -> tuple[int, dict[str, Any]]:
    """Programs for each image, and what is compiled into the kernels."""
    images, channels, height, width = shape
    size = channels // groups
    lanes = triton.next_power_of_2(size)
    # As many groups as fill a sector, but not so many that processors of the GPU stay idle.
    filled = triton.next_power_of_2(triton.cdiv(_SECTOR, size * itemsize))
    together = min(filled, triton.next_power_of_2(groups))
    while together > 1 and images * triton.cdiv(groups, together) < _PROGRAMS:
        together //= 2
    tile = max(1, _TILE // (together * lanes))
    return triton.cdiv(groups, together), {
        "SIZE": size,
        "LANES": lanes,
        "GROUPS": together,
        "PIXELS": min(tile, triton.next_power_of_2(height * width)),
        "ADDED": c is not None and c.shape[1] == channels,
        "SCALED": c is not None and c.shape[1] != channels,
        "SILU": silu,
    }


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out, mean, rstd = _outputs(x, weight, bias, c, groups, epsilon, silu)
    blocks, constants = blocks_and_constants(x.shape, x.element_size(), c, groups, silu)
    pixels = x.shape[2] * x.shape[3]
    with torch.cuda.device_of(x):
        _forward_kernel[(len(x) * blocks,)](
            x, out, mean, rstd, weight, bias, x if c is None else c.contiguous(),
            pixels, x.shape[1], blocks, epsilon, **constants,
        )  # fmt: skip
    return out, mean, rstd


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, affine, dc = _gradients(grad, x, weight, bias, c, mean, rstd, silu)
    blocks, constants = blocks_and_constants(x.shape, x.element_size(), c, mean.shape[1], silu)
    pixels = x.shape[2] * x.shape[3]
    with torch.cuda.device_of(x):
        _backward_kernel[(len(x) * blocks,)](
            x, grad, dx, dc, affine, mean, rstd, weight, bias, x if c is None else c.contiguous(),
            len(x), pixels, x.shape[1], blocks, **constants,
        )  # fmt: skip
    return dx, affine, dc


def _outputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output in x's memory format, and mean and 1 / standard deviation (B, groups)."""
    mean, rstd = (x.new_empty((len(x), groups), dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), mean, rstd


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias by image (2, B, C), and of c (of no size without one)."""
    affine = x.new_empty((2, len(x), x.shape[1]), dtype=torch.float32)
    return torch.empty_like(x), affine, x.new_empty(0) if c is None else c.new_empty(c.shape)


# As operators of torch, whose shapes are known without running them: fake tensors and modes that
# record operators see them as one each.
_library = torch.library.Library("ddpm", "FRAGMENT")
_library.define(
    "group_norm(Tensor x, Tensor weight, Tensor bias, Tensor? c, int groups, float epsilon, "
    "bool silu) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "group_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor? c, "
    "Tensor mean, Tensor rstd, bool silu) -> (Tensor, Tensor, Tensor)"
)
for _name, _kernel, _shapes in (
    ("group_norm", _forward, _outputs),
    ("group_norm_backward", _backward, _gradients),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ddpm::{_name}", _shapes, lib=_library)
