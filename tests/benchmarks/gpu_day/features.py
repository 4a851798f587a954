"""Inception features per second, against pytorch-fid on the same images and stand-in weights."""

from __future__ import annotations

import importlib.util

import torch

from tests.benchmarks.gpu_day.day import Day, synchronised
from tests.benchmarks.inception_speed import extractors

BATCHES = (64, 256)


def run(day: Day) -> None:
    """Both batch sizes; pytorch-fid's default is 50."""
    installed = importlib.util.find_spec("pytorch_fid") is not None
    if not installed:
        day.add("pytorch-fid", None, note="not installed")
    for batch in (1,) if day.dry else BATCHES:
        day.need(8)
        images = torch.randint(0, 256, (8 * batch, 3, 32, 32), dtype=torch.uint8)
        images = images[:1] if day.dry else images
        rates: dict[str, float] = {}
        for name, extract in extractors(batch, day.device, peer=installed).items():
            if not day.dry:
                extract(images[: 2 * batch])
            started = synchronised()
            extract(images)
            rates[name] = len(images) / (synchronised() - started)
            note = f"ours {rates['ddpm'] / rates[name]:.2f} x" if name != "ddpm" else ""
            day.add(f"{name}, fp32, {batch} at once", rates[name], "images/s", note)
