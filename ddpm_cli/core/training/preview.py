"""Preview grids sampled during training, always from the same noise, to compare them."""

from __future__ import annotations

import torch

from ddpm_cli.core.conditioning.requests import default_plan
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files, sheets
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.sampling import sample
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.runtime.seeds import ImageNoise

_STEPS = 20


def save_preview(
    run: RunDirectory, denoiser: Denoiser, config: RunConfig, images: int, device: torch.device
) -> None:
    """Write a grid sampled from the averaged weights after so many images seen."""
    count, network = config.preview, config.network
    if count == 0:
        return
    plan = default_plan(config).encode_prompts(config, device, Silent())
    noise = ImageNoise(range(count), (network.channels, *network.size), device)
    sampling = Sampling(min(_STEPS, config.diffusion.timesteps))
    x = None
    for step in sample(denoiser, noise, plan.condition(range(count), device), sampling):
        x = step.x
    assert x is not None
    grid = sheets.enlarge(sheets.grid(to_uint8(x).cpu().numpy()), 256)
    files.write_png(run.preview(images), grid)
