"""Images/s and TFLOP/s of the training step, for every variant of it that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.models import group_norm
from ddpm_cli.core.training.trainer import Execution
from tests.benchmarks.gpu_day.day import Day
from tests.benchmarks.training_speed import images_per_second, operations
from tests.support.training import Messages


@dataclass(frozen=True)
class Variant:
    """A way to execute the step: fields of Execution, and what else is in effect meanwhile."""

    execution: dict[str, Any] = field(default_factory=dict)
    compiles: bool = False
    within: Callable[[], AbstractContextManager[object]] = nullcontext


@contextmanager
def torchs_norm() -> Iterator[None]:
    """Group normalisation by torch's layers, as before there was one of ours."""
    with (
        mock.patch.object(group_norm, "can_fuse", lambda _: False),  # eager
        mock.patch.object(group_norm, "formula", group_norm.unfused),  # compiled
    ):
        yield


VARIANTS = {  # the first is what the others are compared with
    "eager, torch's norm": Variant(within=torchs_norm),
    "eager": Variant(),
    "compiled": Variant({"compiled": True}, compiles=True),
    "graph": Variant({"cuda_graph": True}),
    "compiled, graph": Variant({"compiled": True, "cuda_graph": True}, compiles=True),
    "compiled, torch's norm": Variant({"compiled": True}, True, torchs_norm),
}
FASTEST = "compiled"
CASES = (  # preset, batch, precision, variant, in the order of their worth: time may run out
    *(("cifar10", 128, "bf16", name) for name in VARIANTS),
    *(("cifar10", 512, "bf16", name) for name in VARIANTS if name != "compiled, torch's norm"),
    ("edm-cifar10", 512, "bf16", "eager, torch's norm"),
    ("edm-cifar10", 512, "bf16", "compiled"),
    ("cifar10", 128, "fp32", "eager"),
    ("edm-cifar10", 512, "bf16", "eager"),
    *(("edm-cifar10", 128, "bf16", name) for name in ("eager", "compiled")),
)
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
STEPS, SECONDS = 160, 10.0  # of a case, whichever ends first; half of them to warm up
_TRACING = 20  # seconds more that a case takes which was compiled ahead


def cases(day: Day) -> list[tuple[str, int, str, str]]:
    """Preset, batch, precision and variant of all cases; of a dry run each variant once."""
    return list(CASES[: len(VARIANTS)] if day.dry else CASES)


def run(day: Day) -> None:
    """Measure the cases; a case that fails is a row, and the next one follows."""
    first: dict[tuple[str, int, str], tuple[str, float]] = {}
    for preset, batch, precision, name in cases(day):
        case, variant = f"{preset} {batch} {precision} {name}", VARIANTS[name]
        try:
            day.need(SECONDS + 3 + _TRACING * variant.compiles)
            speed, notices = measured(day, preset, batch, precision, variant)
        except Exception as error:
            day.add(case, None, note=f"{type(error).__name__}: {str(error)[:200]}")
            continue
        before, base = first.setdefault((preset, batch, precision), (name, speed))
        config = day.config(preset, batch)
        flops = speed * operations(config) / 1e12
        note = f"{1e3 * config.optimiser.batch / speed:.1f} ms a step, {flops:.4g} TFLOP/s"
        note = "; ".join([f"{note}, {speed / base:.2f} x {before}", *notices])
        day.add(case, speed, "images/s", note)


def measured(
    day: Day, preset: str, batch: int, precision: str, variant: Variant, steps: int = STEPS
) -> tuple[float, list[str]]:
    """Images per second of one case, with nothing compiled or allocated by those before it.

    And what the training said, as that a step could not be recorded.
    """
    torch.compiler.reset()
    if day.device.type == "cuda":
        torch.cuda.empty_cache()
    execution = Execution(day.device, PRECISIONS[precision], **variant.execution)
    budget = Budget(steps=4 if day.dry else steps, minutes=SECONDS / 60)
    said = Messages()
    with variant.within():
        speed = images_per_second(day.config(preset, batch), execution, budget, said)
    return speed, said.messages
