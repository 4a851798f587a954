"""The kernels of group normalisation, run by Triton's interpreter, against torch in float64.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_group_norm

A process of its own, because the variable must be set before Triton is imported. Writes a line for
each case, and fails at the first one that is wrong.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.models import group_norm, triton_group_norm

EPSILON = 1e-6
FORMS = {"plain": 0, "added": 1, "scaled": 2}  # channels of c, as multiples of x's
# A few rounding errors of sums in float32; and one rounding to bf16's 8 bits of what is stored in
# bf16, beside those of its inputs, which float64 gets too.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}

# Groups of 4, 3, 12 and 2 channels; a last tile that is not full; one pixel; several images. The
# second number: elements in a tile; the third: at least so many programs, if the groups suffice.
SHAPES = {
    "odd": ((1, 12, 5, 7), 3, 4096, 512),
    "tiles": ((2, 6, 9, 11), 2, 64, 512),
    "one pixel": ((2, 36, 1, 1), 3, 4096, 512),
    "several groups": ((1, 96, 3, 5), 24, 4096, 1),
    "many groups": ((1, 20, 3, 3), 10, 32, 1),
}


def reference(x: Tensor, weight: Tensor, bias: Tensor, c: Tensor | None, groups: int) -> Tensor:
    if c is not None and c.shape[1] == x.shape[1]:
        x = x + c[:, :, None, None]
    h = nnf.group_norm(x, groups, weight, bias, EPSILON)
    if c is not None and c.shape[1] != x.shape[1]:
        scale, shift = c[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return h


def inputs(shape: tuple[int, ...], dtype: torch.dtype, multiple: int) -> list[Tensor | None]:
    """x, of a mean that is not small, weight, bias and c."""
    batch, channels = shape[:2]
    x = (3 + 2 * torch.randn(shape)).to(dtype).contiguous(memory_format=torch.channels_last)
    c = torch.randn(batch, multiple * channels).to(dtype) if multiple else None
    return [x, torch.randn(channels), torch.randn(channels), c]


def check(shape_name: str, dtype: torch.dtype, form: str, silu: bool) -> None:
    shape, groups, triton_group_norm._TILE, triton_group_norm._PROGRAMS = SHAPES[shape_name]
    tensors = inputs(shape, dtype, FORMS[form])
    for tensor in tensors:
        if tensor is not None:
            tensor.requires_grad_()
    out = group_norm.Fused.apply(*tensors, groups, EPSILON, silu)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    expected = reference(*exact, groups)  # type: ignore[arg-type]
    expected = nnf.silu(expected) if silu else expected

    grad = torch.randn(shape).to(dtype)  # NCHW, which the kernel does not take as it is
    own = torch.autograd.grad(out, [t for t in tensors if t is not None], grad)
    others = torch.autograd.grad(expected, [t for t in exact if t is not None], grad.double())
    for name, one, other in zip(
        ("out", "x", "weight", "bias", "c"), (out, *own), (expected, *others), strict=False
    ):
        stored = torch.float32 if name in ("weight", "bias") else dtype
        error = (one.double() - other).norm().item() / other.norm().item()
        assert one.shape == other.shape
        assert error < TOLERANCE[stored], f"{name} is wrong by {error:.1e}"


def check_second_derivatives() -> None:
    """Of the squared norm of a gradient, as in a gradient penalty."""
    x, weight, bias, c = inputs((2, 6, 2, 3), torch.float32, 2)
    results = []
    for dtype, layer in ((torch.float32, group_norm.Fused.apply), (torch.float64, None)):
        parts = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias, c)]  # type: ignore[union-attr]
        out = layer(*parts, 2, EPSILON, True) if layer else nnf.silu(reference(*parts, 2))
        (grad,) = torch.autograd.grad(out.square().sum(), parts[0], create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), parts))
    for one, other in zip(*results, strict=True):
        assert (one.double() - other).norm() < 2e-5 * other.norm()


def main() -> None:
    torch.manual_seed(0)
    every = itertools.product(TOLERANCE, FORMS, (False, True))
    some = [(torch.float32, "scaled", True), (torch.bfloat16, "added", True)]
    for shape_name in SHAPES:
        for dtype, form, silu in every if shape_name == "odd" else some:
            print(shape_name, dtype, form, "silu" if silu else "", flush=True)
            check(shape_name, dtype, form, silu)
    print("second derivatives", flush=True)
    check_second_derivatives()


if __name__ == "__main__":
    main()
