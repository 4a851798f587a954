"""Operations, bytes and arithmetic of a training step, counted without a GPU and without computing.

    python tests/benchmarks/step_counts.py [PRESET:BATCH ...] [--json FILE]

The step runs on torch's fake tensors, which have a shape and no content, in bf16 autocast with the
kernels that a GPU would choose. Every dispatched operation that is no view counts as one launch. It
moves the bytes of its inputs and outputs, and takes the longer of its arithmetic's and its bytes'
time. So the sum is the least time of a step that launches them one by one but never waits for a
launch; the sum over convolutions, products and attention alone is that of one whose other
operations are all fused into those.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.models.group_norm import why_unfused
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.training import ema
from ddpm_cli.core.training.batches import Batch, Batches
from ddpm_cli.core.training.preparation.activations import Kernels
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step
from tests.benchmarks.phases import PHASES, marked
from tests.benchmarks.training_speed import preset_config

CASES = ("cifar10:128", "cifar10:512", "edm-cifar10:512", "photos-64:128", "small:128")
PEAK = 790e12  # FLOP/s of dense bf16 products that an H100 or H200 reaches, not the data sheet's
BANDWIDTH = {"H100": 3.0e12, "H200": 4.3e12}  # bytes/s of a large copy, read and written
LAUNCH = 5e-6  # seconds of the host for an eager operation
CPU = torch.device("cpu")

_NO_KERNEL = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh"}
_FOREACH = "torch.nn.utils.clip_grad._has_foreach_support"  # it knows no fake tensors
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass
class Phase:
    """What a part of the step dispatches."""

    operations: int = 0
    bytes: int = 0
    flops: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BANDWIDTH, 0.0))
    fused_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BANDWIDTH, 0.0))

    def add(self, moved: int, flops: int) -> None:
        self.operations += 1
        self.bytes += moved
        self.flops += flops
        for gpu, bandwidth in BANDWIDTH.items():
            seconds = max(moved / bandwidth, flops / PEAK)
            self.seconds[gpu] += seconds
            self.fused_seconds[gpu] += seconds if flops else 0.0


@dataclass(frozen=True)
class Flag:
    """A step's flag that says it is on a GPU, where the average does not read it."""

    value: Tensor
    device = torch.device("cuda")

    def __rsub__(self, other: float) -> Tensor:
        return other - self.value


class Count(TorchDispatchMode):
    """Counts what is dispatched to a device, by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.phases = {name: Phase() for name in PHASES}
        self._current = self.phases["data"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._current = self.phases[name]
        with self:
            yield

    @contextmanager
    def phase_on_gpu(self, name: str) -> Iterator[None]:
        """The same, where what is done depends on the device."""
        foreach = nullcontext() if name != "clip" else mock.patch(_FOREACH, lambda *_: True)
        with self.phase(name), foreach:
            yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if has_kernel(func):
            self._current.add(
                bytes_moved(func, args, kwargs, out), flops_of(func, args, kwargs, out)
            )
        return out


def has_kernel(func: Any) -> bool:
    """Whether an operation launches something: views and allocations do not."""
    is_view = any(
        value.alias_info is not None and not value.alias_info.is_write
        for value in func._schema.returns
    )
    name = func.overloadpacket.__name__
    return func.namespace != "prim" and not is_view and name not in _NO_KERNEL


def bytes_moved(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Bytes of all inputs and outputs; arguments written in place count twice."""
    named = zip(func._schema.arguments, args, strict=False)
    written = [
        value
        for argument, value in named
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    returned = () if func._schema.returns and written else out
    return sum(map(size, pytree.tree_leaves((args, kwargs, written, returned))))


def size(value: object) -> int:
    """Bytes of a tensor, those of its storage where it is expanded; 0 for anything else."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    packet = func.overloadpacket
    if packet is _ATTENTION:
        return int(sdpa_flop_count(*(x.shape for x in args[:3])))
    if packet is _ATTENTION_BACKWARD:
        return int(sdpa_backward_flop_count(*(x.shape for x in args[:4])))
    formula: Callable[..., int] | None = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def initial_state(config: RunConfig) -> TrainingState:
    """TrainingState.initial of fake tensors, whose layout net.to() cannot convert."""

    def to(network: nn.Module, *_: object, memory_format: Any = None) -> nn.Module:
        for parameter in network.parameters():
            if parameter.ndim == 4 and memory_format is not None:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)
        return network

    # the average is a deep copy, of tensors but not of their mode
    same = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, _: mode, create=True)
    with mock.patch.object(nn.Module, "to", to), same, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TrainingState.initial(config, CPU)


def count_step(config: RunConfig, *, fused: bool) -> dict[str, Phase]:
    """The phases of one eager training step in bf16; fused: with the group norm of ours."""
    count = Count()
    schedule = schedules.from_config(config.diffusion)
    parameterisation = config.diffusion.parameterisation
    drawn = draw_batch(config, Denoiser(nn.Identity(), schedule, parameterisation), count)
    with FakeTensorMode() as mode, Kernels("cuda", fused=fused):
        state = initial_state(config)
        state.network.train()
        denoiser = Denoiser(state.network, schedule, parameterisation)
        step = Step(config, state, state.network, denoiser, CPU, torch.bfloat16, None, SILENT)
        batch = pytree.tree_map_only(Tensor, mode.from_tensor, drawn)
        update = ema.update
        flagged = mock.patch.object(
            ema, "update", lambda *others: update(*others[:-1], Flag(others[-1]))
        )
        with flagged, marked(state, count.phase_on_gpu):
            step(batch, [0.999])  # makes the optimiser's moments
            count.phases |= {name: Phase() for name in PHASES if name != "data"}
            step(batch, [0.999])
    return count.phases


def draw_batch(config: RunConfig, denoiser: Denoiser, count: Count) -> Batch:
    """A real batch; what is prepared for the next one in a thread is not counted."""
    shape = (config.optimiser.batch, config.network.channels, *config.network.size)
    pixels = np.zeros(shape, dtype=np.uint8)
    images = DecodedImages(pixels, np.full(len(pixels), -1), np.arange(len(pixels)))
    batches = Batches(config, denoiser, images, CPU)
    with count.phase("data"):
        batch = batches.draw(0, None)
    batches.close()
    return batch


def report(case: str, norm: str) -> dict[str, Any]:
    name, batch = case.split(":")
    config = preset_config(name, int(batch))
    if NORMS[norm] and (reason := why_unfused(CPU)):  # which registers our kernels
        sys.exit(f"our normalisation cannot be counted: {reason}")
    phases = count_step(config, fused=NORMS[norm])
    return {
        "preset": name,
        "batch": int(batch),
        "norm": norm,
        "parameters": parameter_count(UNet(config.network).to("meta")),
        "phases": {name: asdict(phase) for name, phase in phases.items()},
        "flops": sum(phase.flops for phase in phases.values()),
        "bytes": sum(phase.bytes for phase in phases.values()),
        "operations": sum(phase.operations for phase in phases.values()),
        "seconds": {g: sum(p.seconds[g] for p in phases.values()) for g in BANDWIDTH},
        "fused_seconds": {g: sum(p.fused_seconds[g] for p in phases.values()) for g in BANDWIDTH},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Three tables: the work, the operations by phase, and the images/s that they allow."""
    work, operations, limits = [], [], []
    for row in rows:
        case = f"`{row['preset']}`, {row['batch']}, {row['norm']}"
        counts = [row["phases"][name]["operations"] for name in PHASES]
        operations.append([case, *(f"{count:,}" for count in [*counts, row["operations"]])])
        gigabytes = f"{row['bytes'] / 1e9:.1f}"
        work.append(
            [case, f"{row['parameters']:,}", f"{row['flops'] / row['batch'] / 1e9:.2f}", gigabytes]
        )
        times = [row["operations"] * LAUNCH, row["flops"] / PEAK]
        times += [row[kind][gpu] for gpu in BANDWIDTH for kind in KINDS.values()]
        limits.append([case, *(f"{1e3 * t:.1f} ms, {row['batch'] / t:,.0f}" for t in times)])
    titles = ["launches", "arithmetic", *(f"{gpu}, {kind}" for gpu in BANDWIDTH for kind in KINDS)]
    case = "preset, batch, normalisation"
    return "\n".join(
        [
            *table([case, "parameters", "GFLOP an image", "GB a step"], work),
            "",
            *table([case, *PHASES, "all"], operations),
            "",
            *table([case, *titles], limits),
        ]
    )


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


NORMS = {"torch's": False, "ours": True}  # whether the kernels of ours take part
KINDS = {"one by one": "seconds", "fused": "fused_seconds"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="PRESET:BATCH")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = [report(case, norm) for case in options.cases for norm in NORMS]
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
