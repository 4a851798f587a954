"""Images/s and TFLOP/s of the training step, for every variant of it that there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ddpm_cli.core.training.trainer import Execution
from tests.benchmarks.gpu_day.day import Day
from tests.benchmarks.training_speed import images_per_second, operations


@dataclass(frozen=True)
class Variant:
    """A way to execute the step: fields of Execution, and what else is in effect meanwhile."""

    execution: dict[str, Any] = field(default_factory=dict)
    within: Callable[[], AbstractContextManager[object]] = nullcontext


VARIANTS = {  # the first is what the others are compared with
    "eager": Variant(),
    "compile": Variant({"compiled": True}),
}
CASES = (  # in the order of their worth: time may run out
    *(("cifar10", 128, "bf16", name) for name in VARIANTS),
    *(("cifar10", 512, "bf16", name) for name in VARIANTS),
    *(("edm-cifar10", 512, "bf16", name) for name in VARIANTS),
    ("cifar10", 128, "fp32", "eager"),
    *(("edm-cifar10", 128, "bf16", name) for name in VARIANTS),
)
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SECONDS = {"eager": 12, "compile": 45}  # with initialisation, and compilation where there is any
STEPS = 120


def run(day: Day) -> None:
    """Measure the cases; a case that fails is a row, and the next one follows."""
    eager: dict[tuple[str, int, str], float] = {}
    for preset, batch, precision, name in CASES:
        case = f"{preset} {batch} {precision} {name}"
        try:
            day.need(_SECONDS["compile" if "compile" in name else "eager"])
            speed = measured(day, preset, batch, precision, VARIANTS[name])
        except Exception as error:
            day.add(case, None, note=f"{type(error).__name__}: {str(error)[:200]}")
            continue
        base = eager.setdefault((preset, batch, precision), speed) if name == "eager" else None
        base = base or eager.get((preset, batch, precision))
        config = day.config(preset, batch)
        note = f"{1e3 * config.optimiser.batch / speed:.1f} ms a step, "
        note += f"{speed * operations(config) / 1e12:.4g} TFLOP/s"
        day.add(case, speed, "images/s", note + (f", {speed / base:.2f} x eager" if base else ""))


def measured(day: Day, preset: str, batch: int, precision: str, variant: Variant) -> float:
    """Images per second of one case, with nothing compiled or allocated by those before it."""
    torch.compiler.reset()
    if day.device.type == "cuda":
        torch.cuda.empty_cache()
    execution = Execution(day.device, PRECISIONS[precision], **variant.execution)
    with variant.within():
        steps = 4 if day.dry else STEPS
        return images_per_second(day.config(preset, batch), execution, steps)
