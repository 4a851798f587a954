"""Kernels of a compiled network, scheduled by torch's compiler as for an H200, without a GPU.

    python tests/benchmarks/fused_groups.py [PRESET ...]

The network's forward and backward graphs are traced on the CPU in bf16, moved on paper to a GPU
with an H200's properties, lowered and fused; nothing is generated or run. Needs Triton. What it
patches is private to torch: it is known to work with torch 2.14.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor import ir, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL
from ddpm_cli.core.models import group_norm
from ddpm_cli.core.models.embeddings import AUGMENTATIONS
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import devices
from tests.benchmarks.training_speed import preset_config

GPU = torch.device("cuda", 0)
H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    warp_size=32,
    total_memory=141 * 2**30,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20,
)
PRETENDED: dict[str, Callable[..., Any]] = {  # functions of torch.cuda
    "_get_device_properties": lambda *_: H200,
    "get_device_properties": lambda *_: H200,
    "get_device_capability": lambda *_: (9, 0),
    "current_device": lambda: 0,
    "device_count": lambda: 1,
    "is_available": lambda: True,
    "_lazy_init": lambda: None,
    "synchronize": lambda *_: None,
}


def counting(counts: list[tuple[int, int]]) -> Callable[[torch.fx.GraphModule, Any], Any]:
    """A compiler that appends a graph's operations and kernels, and runs it as it is."""

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        mode, moved = detect_fake_mode(inputs), copy.deepcopy(graph)
        for node in moved.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": GPU}
        moved.recompile()
        with ExitStack() as stack:
            for name, function in PRETENDED.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, function, create=True))
            stack.enter_context(mock.patch.object(scheduler, "has_triton", lambda *_: True))
            lowered = GraphLowering(moved, shape_env=mode.shape_env)
            for context in (mode, DebugContext(), V.set_graph_handler(lowered)):
                stack.enter_context(context)
            stack.enter_context(V.set_fake_mode(mode))
            lowered.run(*(on_gpu(value) for value in inputs))
            lowered._update_scheduler()
            kernels = sum(map(is_kernel, lowered.scheduler.nodes))
        operations = sum(node.op == "call_function" for node in graph.graph.nodes)
        counts.append((operations, kernels))
        return make_boxed_func(graph.forward)

    return compiler


def on_gpu(value: Any) -> Any:
    """A fake tensor of the same shape and layout on the GPU."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=GPU)


def is_kernel(node: Any) -> bool:
    """Whether something is launched: not for one of several outputs, nor for what is a view."""
    nothing = isinstance(node, scheduler.NopKernelSchedulerNode)
    return not nothing and not isinstance(node.node, ir.MultiOutput)


def count(preset: str) -> list[tuple[int, int]]:
    """Operations and kernels of the forward and of the backward graph."""
    config, cpu = preset_config(preset, 2).network, torch.device("cpu")
    network = UNet(replace(config, dropout=0.0)).train()  # whose random numbers need a pass more
    network = network.to(memory_format=torch.channels_last)
    counts: list[tuple[int, int]] = []
    backend = aot_autograd(
        fw_compiler=counting(counts),
        bw_compiler=counting(counts),
        decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )
    network.compile(backend=backend)
    augmented = torch.zeros(2, AUGMENTATIONS) if config.augmented else None
    condition = UNCONDITIONAL._replace(augmented=augmented)
    x = torch.zeros(2, config.channels, *config.size)
    with (
        devices.autocast(cpu, torch.bfloat16),
        mock.patch.object(group_norm, "unfused", group_norm.formula),  # as compiled on a GPU
    ):
        out = network(x, torch.zeros(2), condition)
    out.float().square().sum().backward()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["cifar10"], metavar="PRESET")
    for preset in parser.parse_args().presets:
        torch.compiler.reset()
        for name, (operations, kernels) in zip(("forward", "backward"), count(preset), strict=True):
            print(f"{preset}, {name}: {operations:,} operations, {kernels:,} kernels", flush=True)


if __name__ == "__main__":
    main()
