"""Images between two: those of the noise between the noise of two seeds, or of two images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.labels import label_name
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.config.fields import is_whole_number
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import InputImages
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.data.placement import Placement
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model, own_sampling
from ddpm_cli.core.generation.pictures.arrangement import Arrangement, GridLayout
from ddpm_cli.core.generation.starts import inversion
from ddpm_cli.core.generation.starts.starting_noise import StartingNoise, between
from ddpm_cli.core.runtime.reporting import Reporter

_LINE = 12  # images in a row of the picture, at most


@dataclass(frozen=True)
class Interpolation:
    """The request of the images between two ends, and the ends that are images."""

    request: GenerationRequest
    ends: tuple[str, str]  # seeds or names of images
    originals: tuple[ImageArray | None, ImageArray | None]  # (C, H, W), as the network sees them

    @property
    def layout(self) -> GridLayout:
        """That of grid.png: all in a row, with the images that are ends themselves at the sides."""
        shares = [f"{share:.2f}" for share in np.linspace(0, 1, self.request.count)]
        captioned: list[tuple[int | ImageArray, str]] = list(enumerate(shares))
        for place, (end, original) in enumerate(zip(self.ends, self.originals, strict=True)):
            if original is None:
                number = -place  # the first or the last
                captioned[number] = captioned[number][0], f"seed {end}"
            else:
                captioned.insert(place * len(captioned), (original, end))
        places, captions = zip(*captioned, strict=True)
        arrangement = Arrangement(places, min(len(places), _LINE), Words(captions=captions))
        return _Fixed(arrangement=arrangement)


@dataclass(frozen=True)
class _Fixed(GridLayout):
    """A grid whose arrangement is known."""

    arrangement: Arrangement = field(kw_only=True)

    def arrange(self, model: Model, request: GenerationRequest) -> Arrangement:
        """The one that is known."""
        return self.arrangement


def resolve(
    model: Model,
    ends: tuple[str | int | Path, str | int | Path],
    count: int,
    conditions: ConditionRequest,
    sampling: Sampling,
    reporter: Reporter,
) -> Interpolation:
    """The images between two seeds, two images, or one of each. Raises DdpmError or UsageError.

    All have one class or prompt: that of the first seed unless one is given; between two images
    without guidance the null condition, where the model has one.
    """
    inversion.check_deterministic(sampling, "interpolation")
    if count < 2:
        raise UsageError(f"-n must be at least 2, the two ends, not {count}")
    if len(conditions.classes) > 1 or len(conditions.prompts) > 1:
        raise UsageError("interpolation has one class or prompt from one end to the other")
    seeds = [int(str(end)) if is_whole_number(str(end)) else None for end in ends]
    first = next((seed for seed in seeds if seed is not None), 0)
    if None in seeds:
        inversion.check_invertible(sampling)
    if seeds == [None, None]:
        sampling = inversion.without_condition(model, conditions, sampling)
    if sampling.class_weight != 0:
        conditions = _of_seed(model, first, conditions, reporter)
    request = generate.resolve_request(model, count, first, conditions, sampling, reporter)
    noise, originals = zip(*(_end(model, request, end) for end in ends), strict=True)
    name = " to ".join(map(str, ends))
    start = StartingNoise(name, between(noise[0], noise[1], count).numpy())
    names = (Path(str(ends[0])).name, Path(str(ends[1])).name)
    return Interpolation(replace(request, noise=start), names, (originals[0], originals[1]))


def _of_seed(
    model: Model, seed: int, conditions: ConditionRequest, reporter: Reporter
) -> ConditionRequest:
    """The class and prompt that the image of a seed has, for all images."""
    sampling = own_sampling(model.config, {})
    request = generate.resolve_request(model, 1, seed, conditions, sampling, reporter)
    label, prompt = request.label_and_prompt(0)
    if label is not None:
        name = label_name(label, model.config.network.classes)
        conditions = replace(conditions, classes=(name,))
    return conditions if prompt is None else replace(conditions, prompts=(prompt,))


def _end(
    model: Model, request: GenerationRequest, end: str | int | Path
) -> tuple[Tensor, ImageArray | None]:
    """The noise (C, H, W) of a seed or an image, and the image."""
    if is_whole_number(str(end)):
        seeded = replace(request, seed=int(str(end)), count=1)
        return generate.image_noise(model, seeded, [0])()[0].cpu(), None
    images = InputImages.open(str(end), "the image")
    if len(images) != 1:
        raise UsageError(f"an end is a seed or one image, and {end} has {len(images):,} of them")
    network = model.config.network
    image = Placement(images.size_of(0), network.size).onto(images.image(0, network.channels))
    noise = inversion.noise_of(model, replace(request, count=1), image[None], [0])
    return torch.as_tensor(noise[0]), image
