"""The machine and its two ceilings: a large copy, and a large matrix product."""

from __future__ import annotations

import os

import torch

from tests.benchmarks.gpu_day.day import Day, synchronised


def run(day: Day) -> None:
    if day.device.type == "cuda":
        total = torch.cuda.get_device_properties(day.device).total_memory
        note = f"{torch.cuda.device_count()} visible, CUDA {torch.version.cuda}"
        day.add(torch.cuda.get_device_name(), total / 2**30, "GiB", note)
    day.add("CPU cores", len(os.sched_getaffinity(0)))
    n = 64 if day.dry else 8192
    a, b = (torch.randn(n, n, device=day.device, dtype=torch.bfloat16) for _ in range(2))
    day.add("bf16 product", 2 * n**3 / seconds(lambda: a @ b) / 1e12, "TFLOP/s", f"{n}^3")
    source = torch.randn(1024 if day.dry else 2**30, device=day.device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    day.add(
        "copy", moved / seconds(lambda: target.copy_(source)) / 1e12, "TB/s", "read and written"
    )


def seconds(work: object, repeats: int = 10) -> float:
    """Mean seconds of a call, after three."""
    for _ in range(3):
        work()
    started = synchronised()
    for _ in range(repeats):
        work()
    return (synchronised() - started) / repeats
