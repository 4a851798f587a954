"""Images/s of DDIM with 50 steps, against the DDIMPipeline of diffusers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.training.state import TrainingState
from tests.benchmarks.gpu_day.day import Day, synchronised
from tests.benchmarks.gpu_day.peers import diffusers_unet

STEPS = 50
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def run(day: Day) -> None:
    """Both precisions, ours and theirs in turns; one batch each, after one to warm up.

    Then ours in bf16 with its network compiled.
    """
    batch, steps = (2, 3) if day.dry else (256, STEPS)
    installed = importlib.util.find_spec("diffusers") is not None
    if not installed:
        day.add("DDIMPipeline", None, note="not installed: diffusers")
    at_once = f"{batch} at once, {steps} steps"

    def measure_ours(name: str, compiled: bool = False) -> float:
        speed = rate(our_sampler(day, PRECISIONS[name], batch, steps, compiled), batch)
        calls = f"{speed * steps / batch:.1f} network calls/s"
        case = f"ddpm, {name}{', compiled' if compiled else ''}, {at_once}"
        day.add(case, speed, "images/s", calls)
        return speed

    for name, precision in PRECISIONS.items():
        day.need(12)
        ours = measure_ours(name)
        if installed:
            theirs = rate(their_sampler(day, precision, batch, steps), batch)
            case = f"DDIMPipeline, {name}, {at_once}"
            day.add(case, theirs, "images/s", f"ours {ours / theirs:.2f} x")
    if not day.dry:
        day.need(60)
        measure_ours("bf16", compiled=True)


def rate(sample: Callable[[], object], images: int) -> float:
    """Images per second of the second call."""
    sample()
    started = synchronised()
    sample()
    return images / (synchronised() - started)


def our_sampler(
    day: Day, precision: torch.dtype, batch: int, steps: int, compiled: bool
) -> Callable[[], object]:
    config = day.config("cifar10", 128)
    network = TrainingState.initial(config, day.device).average
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(network, schedule, config.diffusion.parameterisation)
    model = Model(Path("untrained"), denoiser, config, 0, "", day.device, precision)
    settings = Sampling(steps=steps, eta=0.0)
    request = generate.resolve_request(model, batch, 0, ConditionRequest(()), settings, Silent())

    def sample() -> object:
        indices = range(batch)
        return list(generate.sample_batches(model, request, indices, batch, Silent(), compiled))

    return sample


def their_sampler(day: Day, precision: torch.dtype, batch: int, steps: int) -> Callable[[], object]:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(diffusers_unet(day).eval(), DDIMScheduler(beta_schedule="linear"))
    pipeline = pipeline.to(day.device)
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> object:
        with devices.autocast(day.device, precision):  # its numpy() knows no bf16
            return pipeline(batch_size=batch, num_inference_steps=steps, output_type="np")

    return sample
