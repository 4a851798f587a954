"""The layer of normalisation, modulation and activation, on every path that it can take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.models import group_norm
from ddpm_cli.core.models.blocks import ResidualBlock
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.group_norm import GroupNorm
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.training import session
from tests.support.networks import CONFIG

MULTIPLES = {"plain": 0, "added": 1, "scaled": 2}  # channels of c, as multiples of x's
every_form = pytest.mark.parametrize("form", MULTIPLES)
with_and_without_silu = pytest.mark.parametrize("silu", [False, True])
torch_imports_its_jit = pytest.mark.filterwarnings("ignore:.torch.jit.script.:FutureWarning")
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def layer_and_inputs(form: str, **options: Any) -> tuple[GroupNorm, Tensor, Tensor | None]:
    """A layer of 12 channels in 3 groups, x in channels-last, and c."""
    torch.manual_seed(0)
    layer, multiple = GroupNorm(3, 12, eps=1e-6, **options), MULTIPLES[form]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 12, 5, 7, **options).to(memory_format=torch.channels_last)
    c = torch.randn(2, multiple * 12, **options).requires_grad_() if multiple else None
    return layer, x.requires_grad_(), c


def written_out(layer: GroupNorm, x: Tensor, c: Tensor | None, silu: bool) -> Tensor:
    """By torch's layer, as separate operators."""
    plain = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
    plain.weight, plain.bias = layer.weight, layer.bias
    if c is not None and c.shape[1] == 12:
        x = x + c[:, :, None, None]
    h = plain(x)
    if c is not None and c.shape[1] == 24:
        scale, shift = c[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return nnf.silu(h) if silu else h


def with_gradients(out: Tensor, layer: GroupNorm, x: Tensor, c: Tensor | None) -> list[Tensor]:
    wanted = [x, *layer.parameters(), *([] if c is None else [c])]
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, wanted, torch.randn_like(out))]


@every_form
@with_and_without_silu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_every_bit_is_that_of_torchs_layer(
    form: str, silu: bool, dtype: torch.dtype
) -> None:
    layer, x, c = layer_and_inputs(form)
    with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
        h, c_h = x.to(dtype), None if c is None else c.to(dtype)
        ours = with_gradients(layer(h, c_h, silu=silu), layer, x, c)
        theirs = with_gradients(written_out(layer, h, c_h, silu), layer, x, c)
    assert list(layer.state_dict()) == ["weight", "bias"]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


@every_form
@with_and_without_silu
def test_the_formula_is_the_layer(form: str, silu: bool) -> None:
    """To a few rounding errors of float32."""
    layer, x, c = layer_and_inputs(form)
    out = group_norm.formula(x, layer.weight, layer.bias, c, 3, 1e-6, silu)
    assert out.is_contiguous(memory_format=torch.channels_last)
    ours = with_gradients(out, layer, x, c)
    theirs = with_gradients(written_out(layer, x, c, silu), layer, x, c)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 2e-6 * other.norm()


@torch_imports_its_jit
@every_form
@with_and_without_silu
def test_the_formula_has_first_and_second_derivatives(form: str, silu: bool) -> None:
    """Backward, forward, and backward twice, against finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    channels = 4
    shapes = ((1, channels, 2, 2), (channels,), (channels,), (1, MULTIPLES[form] * channels))
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes[: 4 if MULTIPLES[form] else 3]
    ]

    def layer(x: Tensor, weight: Tensor, bias: Tensor, c: Tensor | None = None) -> Tensor:
        return group_norm.formula(x, weight, bias, c, 2, 1e-2, silu)

    assert torch.autograd.gradcheck(layer, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(layer, inputs)


def test_the_formula_keeps_the_precision_of_half_precision_images() -> None:
    """Statistics in float32: bf16's would be wrong where the mean is large."""
    layer, x, _ = layer_and_inputs("plain")
    shifted = (x.detach() + 100).to(torch.bfloat16)
    out = group_norm.formula(shifted, layer.weight, layer.bias, None, 3, 1e-6, False)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, layer(shifted.float()).to(torch.bfloat16), rtol=0.01, atol=0.01)


class Operators(TorchDispatchMode):
    """Records the operators that run, but for those that only look at tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not function.name().startswith(("prim::", "aten::detach")):
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_a_machine_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on it names the reason once, and goes on with torch's normalisation."""
    monkeypatch.setattr(group_norm, "find_spec", lambda name: None)
    group_norm.why_unfused.cache_clear()
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(devices, "choose_precision", lambda name, device: torch.bfloat16)
    lines: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "say", lines.append)
    session.execution_on(MachineConfig(), reporter)
    group_norm.why_unfused.cache_clear()
    (line,) = lines
    assert "Triton is not installed" in line


@with_triton
@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_is_one_operator_each_way(form: str, dtype: torch.dtype) -> None:
    """Seen by torch's fake tensors, which have a device, shape and format, but no content."""
    with FakeTensorMode(), Operators() as operators:
        layer, x, c = layer_and_inputs(form, device="cuda")
        h, c = (None if t is None else t.to(dtype) for t in (x, c))
        operators.names.clear()
        out = layer(h, c, silu=True)
        assert (out.dtype, out.shape, out.device.type) == (dtype, x.shape, "cuda")
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert operators.names == ["ddpm::group_norm"]

    with FakeTensorMode(), Operators() as operators:  # torch goes backward on GPUs only with one
        layer, x, c = layer_and_inputs(form)
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, c) if t is not None]
        inputs[1:1] = layer.parameters()
        out = group_norm.Fused.apply(*inputs, *[None] * (4 - len(inputs)), 3, 1e-6, True)
        ones = torch.ones_like(out)
        operators.names.clear()
        grads = torch.autograd.grad(out, inputs, ones)
        for grad, tensor in zip(grads, inputs, strict=True):
            assert (grad.dtype, grad.shape) == (tensor.dtype, tensor.shape)
        assert grads[0].is_contiguous(memory_format=torch.channels_last)
    assert operators.names == [
        "ddpm::group_norm_backward",
        "aten::sum.dim_IntList",
        "aten::unbind.int",
    ]


@with_triton
def test_what_the_kernel_does_not_take_is_left_to_torch() -> None:
    """Images in NCHW, in float64; and on machines where Triton does not work."""

    def operators(change: Callable[[Tensor], Tensor] = lambda x: x, **options: Any) -> list[str]:
        with FakeTensorMode(), torch.no_grad(), Operators() as operators:
            layer, x, _ = layer_and_inputs("plain", device="cuda", **options)
            x = change(x)
            operators.names.clear()
            layer(x)
        return operators.names

    assert operators() == ["ddpm::group_norm"]
    assert operators(lambda x: x.contiguous()) == ["aten::native_group_norm"]
    assert operators(dtype=torch.float64) == ["aten::native_group_norm"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_norm, "why_unfused", lambda device: "no C compiler")
        assert operators() == ["aten::native_group_norm"]


@torch_imports_its_jit
@with_triton
def test_on_a_gpu_other_derivatives_take_the_formula() -> None:
    """Along a direction, and of functions that torch.func transforms."""
    with FakeTensorMode():
        layer, x, _ = layer_and_inputs("plain", device="cuda")
        x = x.detach()
        _, derivative = torch.func.jvp(layer, (x,), (x,))
        assert derivative.shape == x.shape
        with forward_ad.dual_level():
            dual = layer(forward_ad.make_dual(x, x))
            assert forward_ad.unpack_dual(dual).tangent.shape == x.shape


@with_triton
def test_the_kernels_in_tritons_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted_group_norm"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 12 + 4 * 2 + 1


@with_triton
@pytest.mark.parametrize("sizes", [{}, {"images": 1, "pixels": 1, "blocks": 1}])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(sizes: dict[str, int]) -> None:
    """As the interpreter knows no types. Triton compiles numbers that are 1 into the kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ddpm_cli.core.models import triton_group_norm

    c = torch.empty(1, 24, device="meta")
    _, constants = triton_group_norm.blocks_and_constants(torch.Size((1, 12, 2, 2)), 2, c, 3, True)
    for kernel in (triton_group_norm._forward_kernel, triton_group_norm._backward_kernel):
        names = kernel.arg_names
        constant = {name: value for name, value in (constants | sizes).items() if name in names}
        signature = {name: "*bf16" if name.endswith("_ptr") else "i32" for name in names}
        signature |= dict.fromkeys(("mean_ptr", "rstd_ptr", "weight_ptr", "bias_ptr"), "*fp32")
        signature |= {"affine_ptr": "*fp32", "epsilon": "fp32"} | dict.fromkeys(
            constant, "constexpr"
        )
        signature = {name: signature[name] for name in names}
        values = {(names.index(name),): value for name, value in constant.items()}
        source = ASTSource(kernel, signature, constexprs=values)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert ".target sm_90" in compiled.asm["ptx"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_compiled_it_is_one_graph_each_way(device: str) -> None:
    """On a CPU of torch's operator; elsewhere of a formula, which can be fused."""
    block = ResidualBlock(8, 8, replace(CONFIG, modulation="scale-shift")).to(device)
    block.to(memory_format=torch.channels_last)
    graphs: list[str] = []

    def record(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    block.compile(backend=aot_autograd(fw_compiler=record), fullgraph=True)
    x = torch.randn(2, 8, 4, 4, device=device).to(memory_format=torch.channels_last)
    out = block(x, Embeddings(torch.randn(2, CONFIG.embedding_dim, device=device)))
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.sum().backward()
    assert len(graphs) == 2
    assert all("convolution" in graph for graph in graphs)
    assert ["group_norm" in graph for graph in graphs] == 2 * [device == "cpu"]


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@every_form
@with_and_without_silu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 96, 7, 5), (2, 128, 32, 32), (1, 64, 1, 1), (130, 36, 3, 3)])
def test_on_cuda_it_is_torchs_layer(
    shape: tuple[int, ...], form: str, silu: bool, dtype: torch.dtype
) -> None:
    """To 1e-6 in float32, and to one rounding of the results in bf16."""
    assert not group_norm.why_unfused(torch.device("cuda"))
    torch.manual_seed(0)
    layer = GroupNorm(shape[1] // 4, shape[1], eps=1e-6).cuda()
    x = torch.randn(shape, device="cuda").to(dtype).to(memory_format=torch.channels_last)
    multiple = MULTIPLES[form]
    c = torch.randn(shape[0], multiple * shape[1], device="cuda").to(dtype) if multiple else None
    inputs = [x, layer.weight, layer.bias, *([] if c is None else [c])]
    grad = torch.randn_like(x)
    results = []
    for double in (False, True):
        tensors = [t.detach().double() if double else t.detach() for t in inputs]
        for tensor in tensors:
            tensor.requires_grad_()
        *parameters, c_in = tensors if multiple else (*tensors, None)
        apply = group_norm.formula if double else group_norm.eager
        out = apply(*parameters, c_in, layer.num_groups, layer.eps, silu)
        results.append([out, *torch.autograd.grad(out, tensors, grad.to(out.dtype))])
    for one, other in zip(*results, strict=True):
        tolerance = 2**-8 if one.dtype == torch.bfloat16 else 2e-6
        assert (one.double() - other).norm() < tolerance * other.norm()
