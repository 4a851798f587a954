"""Group normalisation, then modulation, then an activation: one layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as nnf
from torch.overrides import handle_torch_function, has_torch_function_unary

from ddpm_cli.core.errors import first_line


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018), optionally modulated and activated by SiLU.

    Eager on CUDA, images in channels-last stay so: a kernel of ours reads and writes them in their
    own precision, bf16 under autocast, with statistics in float32; torch's would convert to NCHW
    and, under autocast, to float32. Where it cannot be used, and on all other devices, it is
    torch's. On GPUs torch.compile gets a formula, which it fuses with what stands around it.
    """

    def forward(self, x: Tensor, c: Tensor | None = None, silu: bool = False) -> Tensor:
        """x (B, C, H, W), modulated by c as in `modulated` -> the same shape."""
        arguments = (self.weight, self.bias, c, self.num_groups, self.eps, silu)
        if torch.compiler.is_compiling():
            # On a CPU torch's operator is the faster one compiled, too, by a sixth.
            return (unfused if x.device.type == "cpu" else formula)(x, *arguments)
        return eager(x, *arguments)


def modulated(normalise: Callable[[Tensor], Tensor], h: Tensor, c: Tensor | None) -> Tensor:
    """Normalise h (B, C, H, W) and modulate it by c.

    c (B, C) is added before the normalisation (DDPM). Of c (B, 2 C) the first half scales and the
    second half shifts the normalised h (FiLM, Perez et al. 2018; Nichol & Dhariwal 2021).
    """
    if c is None:
        return normalise(h)
    c = c[:, :, None, None]
    if c.shape[1] == h.shape[1]:
        return normalise(h + c)
    scale, shift = c.chunk(2, dim=1)
    return normalise(h) * (1 + scale) + shift


def eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> Tensor:
    """The layer by the kernels of ours where they can be used, and else by torch's."""
    arguments = (weight, bias, c, groups, epsilon, silu)
    if has_torch_function_unary(x):
        return handle_torch_function(eager, (x,), x, *arguments)
    if not x.is_cuda:
        return unfused(x, *arguments)
    # Derivatives along directions, and functions that torch.func transforms, need operators that
    # torch can differentiate in these ways.
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return formula(x, *arguments)
    return cast(Tensor, Fused.apply(x, *arguments)) if can_fuse(x) else unfused(x, *arguments)


def unfused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> Tensor:
    """The layer by torch's operators: to the bit what it is as layers of its own."""
    h = modulated(lambda h: nnf.group_norm(h, groups, weight, bias, epsilon), x, c)
    return nnf.silu(h) if silu else h


def formula(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    c: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> Tensor:
    """The layer written by mean and variance, at least in float32, in the memory format of x."""

    def normalise(h: Tensor) -> Tensor:
        grouped = h.reshape(len(h), groups, -1, *h.shape[2:])
        variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
        h = ((grouped - mean) * (variance + epsilon).rsqrt()).flatten(1, 2)
        return h * weight[:, None, None] + bias[:, None, None]

    precise = x if x.dtype == torch.float64 else x.float()
    h = modulated(normalise, precise, None if c is None else c.to(precise.dtype))
    return (nnf.silu(h) if silu else h).to(x.dtype)


class Fused(torch.autograd.Function):
    """`formula` by the kernels of ours: of x in channels-last, whose dtype and format it keeps.

    It saves its inputs and the statistics for the backward pass, and computes the rest again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        c: Tensor | None,
        groups: int,
        epsilon: float,
        silu: bool,
    ) -> Tensor:
        """The output; the kernels are registered by then."""
        arguments = (weight, bias, c, groups, epsilon, silu)
        out: Tensor
        out, mean, rstd = torch.ops.ddpm.group_norm(x, *arguments)
        ctx.save_for_backward(x, weight, bias, c, mean, rstd)
        ctx.arguments = groups, epsilon, silu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, bias and c."""
        x, weight, bias, c, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            inputs = [tensor for tensor in (x, weight, bias, c) if tensor is not None]
            grads = _gradients(formula(x, weight, bias, c, *ctx.arguments), inputs, grad)
            return *grads, *[None] * (7 - len(grads))
        grad, silu = grad.contiguous(memory_format=torch.channels_last), ctx.arguments[-1]
        of_x, by_image, of_c = torch.ops.ddpm.group_norm_backward(
            grad, x, weight, bias, c, mean, rstd, silu
        )
        of_weight, of_bias = by_image.sum(dim=1)
        return of_x, of_weight, of_bias, None if c is None else of_c, None, None, None


def _gradients(out: Tensor, inputs: list[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Differentiable gradients; None of those inputs that need none."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def can_fuse(x: Tensor) -> bool:
    """Whether the kernels of ours take x."""
    return (
        x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not why_unfused(x.device)
    )


@cache
def why_unfused(device: torch.device) -> str:
    """Register the kernels of ours; why they cannot be used on a device, empty where they can.

    Known by trying them: without a C compiler, or on an old GPU, Triton is there and fails.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    try:
        importlib.import_module("ddpm_cli.core.models.triton_group_norm")
        if device.type == "cuda" and torch.cuda.is_available():  # else there are only fake tensors
            with unset_fake_temporarily(), torch.no_grad():
                x, weight = torch.ones(1, 1, 4, 4, device=device), torch.ones(4, device=device)
                Fused.apply(x.movedim(3, 1), weight, weight, None, 1, 1.0, True)
    except Exception as error:  # of many types: a missing compiler, missing headers, an old GPU
        return first_line(error)
    return ""
