"""Where a step's time goes: its phases, the kinds of its kernels, and its waits for the GPU."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.training.trainer import Execution, Trainer
from tests.benchmarks.gpu_day.day import Day, synchronised
from tests.benchmarks.gpu_day.training import FASTEST, PRECISIONS, VARIANTS, Variant
from tests.benchmarks.phases import marked
from tests.benchmarks.training_speed import trainer_of

WARM_UP, TIMED, PROFILED, WATCHED = 20, 50, 10, 100  # steps
KINDS = {  # of kernels, by their names; the first that matches
    "layout": "nchwtonhwc|nhwctonchw|nchw|transpose",
    "normalisation": "norm|moments|computefused|welford",
    "attention": "flash|fmha|attention|softmax",
    "fused by the compiler": "triton",
    "convolutions and products": "conv|gemm|cutlass|xmma|wgrad|dgrad|cudnn|cublas|nvjet|sm90",
    "optimiser, average, clipping": "multi_tensor|adam|lerp",
    "copies": "memcpy|memset|copy",
    "pointwise": "elementwise|reduce|cat",
}
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def run(day: Day) -> None:
    """Eager, and what should be the fastest."""
    for name in ("eager",) if day.dry else ("eager", FASTEST):
        day.need(20)
        split(day, f"cifar10 128 bf16 {name}", VARIANTS[name])


def split(day: Day, case: str, variant: Variant) -> None:
    """Measure one variant within one training, a range of steps for each kind of measurement."""
    torch.compiler.reset()
    execution = Execution(day.device, PRECISIONS["bf16"], **variant.execution)
    counts = (1, 2, 1, 2) if day.dry else (WARM_UP, TIMED, PROFILED, WATCHED)
    config = day.config("cifar10", 128)
    config = replace(config, budget=Budget(steps=sum(counts)))
    with variant.within(), trainer_of(config, execution, 2) as training:
        ranges = in_turn(counts[1:], (Phases(day, case), Kernels(day, case), Waits(day, case)))
        with at_each_step(training, counts[0], ranges):
            training.train(StopRequest())
        next(ranges, None)  # ends the last one


def in_turn(counts: tuple[int, ...], measurements: tuple[Any, ...]) -> Iterator[None]:
    """Measure so many steps with each: to be advanced before each step, and once at the end."""
    for steps, measurement in zip(counts, measurements, strict=True):
        with measurement:
            for _ in range(steps):
                yield
        measurement.report(steps)


@contextmanager
def at_each_step(training: Trainer, warm_up: int, ranges: Iterator[None]) -> Iterator[None]:
    """Advance `ranges` before each step after the first ones."""
    draw, steps = training.batches.draw, 0

    def act_and_draw(*arguments: Any) -> Any:
        nonlocal steps
        if steps >= warm_up:
            next(ranges, None)  # compiling draws a batch more
        steps += 1
        with Phases.current("data"):
            return draw(*arguments)

    with (
        mock.patch.object(training.batches, "draw", act_and_draw),
        marked(training.state, Phases.current),
    ):
        yield


class Phases:
    """Milliseconds of each phase: of the GPU's queue, its gaps included, and of the host."""

    _measuring: Phases | None = None

    def __init__(self, day: Day, case: str) -> None:
        self._day, self._case = day, case
        self._host: dict[str, float] = defaultdict(float)
        self._marks: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @staticmethod
    def current(name: str) -> AbstractContextManager[object]:
        """Time a phase, while phases are measured."""
        measuring = Phases._measuring
        return nullcontext() if measuring is None else measuring._phase(name)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started, before = time.perf_counter(), self._mark()
        yield
        self._host[name] += time.perf_counter() - started
        self._marks[name].append((before, self._mark()))

    def _mark(self) -> Any:
        if self._day.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        Phases._measuring, self._started = self, synchronised()

    def __exit__(self, *details: object) -> None:
        Phases._measuring, self._seconds = None, synchronised() - self._started

    def report(self, steps: int) -> None:
        step = 1e3 * self._seconds / steps
        self._day.add(f"{self._case}: a step", step, "ms", "with its phases timed")
        device = {name: sum(map(_between, marks)) / steps for name, marks in self._marks.items()}
        device["rest"] = step - sum(device.values())
        self._host["rest"] = self._seconds - sum(self._host.values())
        for name, milliseconds in device.items():
            note = f"{milliseconds / step:.0%}; the host {1e3 * self._host[name] / steps:.2f} ms"
            self._day.add(f"{self._case}: {name}", milliseconds, "ms", note)


def _between(marks: tuple[Any, Any]) -> float:
    """Milliseconds between two marks."""
    before, after = marks
    return 1e3 * (after - before) if isinstance(before, float) else before.elapsed_time(after)


class Kernels:
    """Kernels of a step by kind, from torch's profiler."""

    def __init__(self, day: Day, case: str) -> None:
        self._day, self._case = day, case
        on_gpu = [ProfilerActivity.CUDA] if day.device.type == "cuda" else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *on_gpu])

    def __enter__(self) -> None:
        synchronised()
        self._profile.__enter__()

    def __exit__(self, *details: object) -> None:
        synchronised()
        self._profile.__exit__(*details)

    def report(self, steps: int) -> None:
        kinds: dict[str, list[float]] = defaultdict(list)
        calls: Counter[str] = Counter()
        for event in self._profile.events():
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", 0):
                kinds[kind(event.name)].append(event.time_range.elapsed_us())
            calls[event.name] += 1
        for name, times in sorted(kinds.items(), key=lambda item: -sum(item[1])):
            note = f"{len(times) / steps:,.0f} kernels a step"
            self._day.add(f"{self._case}: kernels: {name}", sum(times) / steps / 1e3, "ms", note)
        waits = {name: calls[name] / steps for name in _WAITS if calls[name]}
        note = ", ".join(f"{name} {value:.1f}" for name, value in waits.items())
        self._day.add(f"{self._case}: waits of the runtime", sum(waits.values()), "a step", note)


def kind(kernel: str) -> str:
    """The kind of a kernel."""
    return next((k for k, words in KINDS.items() if re.search(words, kernel.lower())), "other")


class Waits:
    """Operations of torch that wait for the GPU, and the lines that call them."""

    def __init__(self, day: Day, case: str) -> None:
        self._day, self._case = day, case
        self._recording = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        self._caught = self._recording.__enter__()
        warnings.simplefilter("always")
        if self._day.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")

    def __exit__(self, *details: object) -> None:
        if self._day.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        self._recording.__exit__(*details)

    def report(self, steps: int) -> None:
        lines = Counter(
            f"{Path(warning.filename).name}:{warning.lineno}"
            for warning in self._caught or []
            if "synchronizing" in str(warning.message)
        )
        note = ", ".join(f"{where} {count}" for where, count in lines.most_common(4))
        self._day.add(f"{self._case}: waits in {steps} steps", lines.total(), "", note)
