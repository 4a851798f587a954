"""The noise of images: deterministic DDIM backwards, and how well sampling leads back to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import InputImages
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.placement import Placement
from ddpm_cli.core.diffusion.editing import invert
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.sampling import grid
from ddpm_cli.core.diffusion.settings import CONSISTENCY, Sampling
from ddpm_cli.core.diffusion.thresholding import thresholded
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation import batching, generate
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model, check_sampling
from ddpm_cli.core.generation.starts.starting_noise import StartingNoise
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.seeds import ImageNoise

_SHOWN = 12  # images on the picture, at most


@dataclass(frozen=True)
class Inversion:
    """The noise of images, the images as the network sees them, and what sampling makes of it."""

    names: tuple[str, ...]
    noise: NDArray[np.float32]  # (N, C, H, W), near standard normal
    images: NDArray[np.uint8]  # (N, C, H, W)
    sampled: NDArray[np.uint8]

    @property
    def errors(self) -> list[float]:
        """Root mean square difference of each image and what is sampled, in grey levels."""
        difference = self.images.astype(np.float64) - self.sampled
        errors: list[float] = np.sqrt((difference**2).mean(axis=(1, 2, 3))).tolist()
        return errors

    @property
    def mean_error(self) -> float:
        """The mean of these."""
        return sum(self.errors) / len(self.errors)

    def picture(self) -> ImageArray:
        """The first images above what is sampled from their noise."""
        count = min(len(self.names), _SHOWN)
        pairs = np.concatenate([self.images[:count], self.sampled[:count]])
        titles = [f"{error:.1f}" for error in self.errors[:count]]
        captions = [name.rpartition("/")[2] for name in self.names[:count]]
        words = Words(
            "Images, and what is sampled from their noise (RMSE in grey levels)",
            rows=("image", "sampled"),
            captions=[*captions, *titles],
        )
        return sheets.sheet(pairs, count, words)


_NO_ODE = (
    "inversion follows the ODE of a diffusion model, and a consistency model jumps to its end: "
    "invert with its teacher"
)


def psnr(error: float) -> float | None:
    """Peak signal to noise ratio in dB of a root mean square error; None where there is none."""
    return 20 * math.log10(255 / error) if error else None


def check_deterministic(sampling: Sampling, what: str) -> None:
    """Raise UsageError for a sampler that adds noise, as then noise does not say which image."""
    if sampling.sampler == CONSISTENCY and sampling.steps != 1:
        raise UsageError(
            f"{what} needs a deterministic sampler, and --sampler {CONSISTENCY} adds noise between "
            "its steps: give --steps 1"
        )
    if sampling.eta != 0 or sampling.s_churn != 0:
        raise UsageError(
            f"{what} needs a deterministic sampler, and this one adds noise: --sampler "
            f"{sampling.sampler}, eta {sampling.eta:g}, churn {sampling.s_churn:g}"
        )


def check_invertible(sampling: Sampling) -> None:
    """Raise UsageError for a sampler whose steps are not those that are inverted."""
    if sampling.sampler == CONSISTENCY:
        raise UsageError(_NO_ODE)
    check_deterministic(sampling, "inversion")
    if sampling.sampler not in ("ddim", "euler") or sampling.unclipped_eps:
        raise UsageError(
            "inversion is of DDIM's steps: use --sampler ddim or euler without --unclipped-eps, "
            f"not {sampling.sampler}"
        )


def without_condition(model: Model, conditions: ConditionRequest, sampling: Sampling) -> Sampling:
    """Settings for images of which neither class nor prompt is said: those of the null condition.

    As they are where the model has none, or something is said.
    """
    said = conditions.classes or conditions.prompts or sampling.class_weight != 1
    null = sampling.with_class_weight(0.0)
    if said or not model.config.network.conditioned:
        return sampling
    try:
        check_sampling(model, null)
    except DdpmError:
        return sampling
    return null


def inverted(
    model: Model, request: GenerationRequest, images: InputImages, batch: Batch, reporter: Reporter
) -> Inversion:
    """Invert images, `batch` at a time, and sample from their noise. Raises DdpmError.

    The request has their number, conditions and sampler. batch: as that of `sample_batches`.
    """
    if model.config.objective.consistency is not None:
        raise DdpmError(f"{model.path}: {_NO_ODE}")
    network = model.config.network
    whole = [
        Placement(images.size_of(index), network.size).onto(images.image(index, network.channels))
        for index in range(request.count)
    ]
    pixels = np.stack(whole)

    def trial(count: int) -> object:
        return next(generate.sample_steps(model, request, range(count)))

    size = batching.choose(batch, request.count, model.device, trial)
    noise, sampled, done = [], [], 0
    with reporter.bar("inverting", request.count, "images") as bar:
        while done < request.count:
            indices = range(done, min(done + size.images, request.count))
            work = partial(_there_and_back, model, request, pixels[done : indices.stop], indices)
            found = size.attempt(len(indices), work, reporter)
            if found is not None:
                noise.append(found[0])
                sampled.append(found[1])
                done = indices.stop
                bar.update(done)
    return Inversion(images.names, np.concatenate(noise), pixels, np.concatenate(sampled))


def _there_and_back(
    model: Model, request: GenerationRequest, images: NDArray[np.uint8], indices: range
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The noise of these images (B, C, H, W), and the images sampled from it."""
    start = StartingNoise("", noise_of(model, request, images, indices).numpy())
    seed = request.seed + indices.start
    again = replace(request, seed=seed, count=len(indices), noise=start)
    x = final_state(generate.sample_steps(model, again, range(len(indices))))
    return start.values, to_uint8(x).cpu().numpy()


@torch.inference_mode()
def noise_of(
    model: Model, request: GenerationRequest, images: NDArray[np.uint8], indices: Sequence[int]
) -> Tensor:
    """The noise (B, C, H, W) of images (B, C, H, W), on the CPU: float32, near standard normal."""
    schedule, sampling = model.denoiser.schedule, request.sampling
    sigmas = grid(schedule, sampling)
    condition = generate.condition_of(model, request, indices)
    predict = guided(model.denoiser, condition, sampling, model.guide_denoiser)
    predict = thresholded(predict, sampling.threshold)
    channels, height, width = images.shape[1:]
    fresh = ImageNoise(request.seeds(indices), (channels, height, width), model.device, "inversion")
    x0 = to_unit(torch.from_numpy(images)).to(model.device)
    with devices.autocast(model.device, model.precision):
        x = final_state(invert(predict, x0, sigmas, fresh()))
    return (x.float() / schedule.prior_std(float(sigmas[0]))).cpu()
