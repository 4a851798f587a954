"""Preview grids sampled during training, always from the same noise, to compare them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.conditioning.requests import default_plan
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.sampling import sample
from ddpm_cli.core.generation.data_conditions import plan_of, representative_rows
from ddpm_cli.core.generation.model import Model, usual_sampling
from ddpm_cli.core.generation.starts.given import of_data, shown
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.runtime.seeds import ImageNoise

_STEPS = 20


def save_preview(
    run: RunDirectory,
    denoiser: Denoiser,
    config: RunConfig,
    images: int,
    device: torch.device,
    training: DecodedImages | None = None,
) -> None:
    """Write a grid sampled from the averaged weights after so many images seen.

    training: the images trained on, of which some give a network its images; each is shown beside
    what is sampled of it.
    """
    count, network = config.preview, config.network
    if count == 0:
        return
    condition, beside = _condition(run, denoiser, config, images, device, training)
    noise = ImageNoise(range(count), (network.channels, *network.size), device)
    x = final_state(sample(denoiser, noise, condition, usual_sampling(config, _STEPS)))
    sampled = to_uint8(x).cpu().numpy()
    if beside is not None:
        sampled = np.concatenate([beside, sampled], axis=3)
    files.write_png(run.preview(images), sheets.enlarge(sheets.grid(sampled), 256))


def _condition(
    run: RunDirectory,
    denoiser: Denoiser,
    config: RunConfig,
    images: int,
    device: torch.device,
    training: DecodedImages | None,
) -> tuple[Condition, NDArray[np.uint8] | None]:
    """The condition of the images of a preview, and those that are given, to be shown."""
    indices = range(config.preview)
    if not config.network.given_channels or training is None:
        plan = default_plan(config).encode_prompts(config, device, Silent())
        return plan.condition(indices, device), None
    rows = representative_rows(training, config.preview)
    plan = plan_of(config, training, rows, device, Silent())
    model = Model(run.weights, denoiser, config, images, "", device, torch.float32)
    given = of_data(model, training, rows)
    assert given is not None
    condition = given.add(plan.condition(indices, device), indices, indices)
    return condition, shown(model, condition)
