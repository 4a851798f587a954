"""Sampling images from a trained model: request, noise, sampler, uint8 batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.conditioning.labels import Label
from ddpm_cli.core.conditioning.requests import ConditionPlan, ConditionRequest, plan_conditions
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import output_names
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.denoiser import NetworkFn
from ddpm_cli.core.diffusion.editing import Edit
from ddpm_cli.core.diffusion.samplers import SamplerStep, final_state
from ddpm_cli.core.diffusion.sampling import grid, sample, visited
from ddpm_cli.core.diffusion.settings import CONSISTENCY, Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import batching
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.compilation import Compiler
from ddpm_cli.core.generation.guides import check_guide
from ddpm_cli.core.generation.model import Model, check_sampling, warning
from ddpm_cli.core.generation.starts.given import Given, check_given
from ddpm_cli.core.generation.starts.initial import InitialImages, InitialRequest
from ddpm_cli.core.generation.starts.starting_noise import StartingNoise
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.runtime.seeds import ImageNoise

DEFAULT_COUNT = 16  # images
_VISIBLE = 0.1  # signal level from which an image is visible in the noise


@dataclass(frozen=True)
class GenerationRequest:
    """Images to generate: image i has the seed `seed + i`, which fixes its noise and condition."""

    count: int
    seed: int
    conditions: ConditionPlan
    sampling: Sampling
    given: Given | None = None  # the images that they are conditioned on, if the model is
    init: InitialImages | None = None  # what they begin at, in place of noise alone
    noise: StartingNoise | None = None  # in place of that of their seeds

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"-n must be at least 1, not {self.count}")

    def label_and_prompt(self, index: int) -> tuple[Label | None, str | None]:
        """The class label and the prompt of image `index`."""
        return self.conditions.label(self.seed + index), self.conditions.prompt(self.seed + index)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the images that are begun at, or else given; none of a cascade's."""
        if self.init is not None:
            return self.init.images.names
        return () if self.given is None else self.given.names

    @property
    def inputs_record(self) -> dict[str, Any]:
        """What is recorded of the images and the noise that it starts from, whatever has any."""
        return {
            **({} if self.given is None else self.given.record),
            **({} if self.init is None else self.init.document),
            **({} if self.noise is None else self.noise.document),
        }

    def input_hashes(self, index: int) -> dict[str, str]:
        """SHA-256 of the pixels of those images that image `index` is made of."""
        given = {} if self.given is None else self.given.hashes(index)
        return given | ({} if self.init is None else self.init.hashes(index))

    @cached_property
    def file_names(self) -> tuple[str, ...]:
        """The name of each image's file: 000000.png and up, or that of the image it is made of."""
        if self.inputs:
            return output_names(self.inputs, self.count)
        return tuple(f"{index:06d}.png" for index in range(self.count))

    def seeds(self, indices: Sequence[int]) -> list[int]:
        """The seeds of the images of these indices."""
        return [self.seed + index for index in indices]


def resolve_sampling(model: Model, sampling: Sampling) -> Sampling:
    """Settings as they are for a model. Raises UsageError or DdpmError where it cannot have them.

    That is with its number of steps, and with guidance as a condition where it learned it.
    """
    schedule = model.denoiser.schedule
    sampling = replace(sampling, guidance_learned=model.config.network.guidance)
    sampling = sampling.with_default_steps(len(schedule))
    check_sampling(model, sampling)
    grid(schedule, sampling)  # raises
    return sampling


def resolve_request(
    model: Model,
    count: int | None,
    seed: int,
    request: ConditionRequest,
    sampling: Sampling,
    reporter: Reporter,
    default_count: int = DEFAULT_COUNT,
    given: Given | None = None,
    initial: InitialRequest | None = None,
    noise: StartingNoise | None = None,
) -> GenerationRequest:
    """Check a request against the model. Raises UsageError or DdpmError where it cannot be met.

    count: images; None: as many as the condition request says, or the images given, or else
    `default_count`; of images to begin at, and of noise, each of them at least.
    """
    check_given(model, given)
    sampling = resolve_sampling(model, sampling)
    if odd := warning(model, sampling):
        reporter.say(Warned(odd))
    plan = plan_conditions(model.config, request, str(model.path))
    init = None if initial is None else initial.open(model.config.network, reporter)
    check_guide(model, sampling, None if init is None else init.blank)
    if count is None and (init is not None or noise is not None):
        count = max(plan.count or 0, *(len(each) for each in (init, noise) if each is not None))
    if count is None:
        count = plan.count or (given and given.count) or default_count
    plan = plan.encode_prompts(model.config, model.device, reporter)
    return GenerationRequest(count, seed, plan, sampling, given, init, noise)


def late_start_warning(model: Model, request: GenerationRequest) -> str | None:
    """A warning where the sampler starts at a noise level at which images are still visible."""
    schedule = model.denoiser.schedule
    first = float(grid(schedule, request.sampling)[0])
    signal = 1 / math.sqrt(1 + first**2)
    if signal < _VISIBLE or first == schedule.sigma[-1]:
        return None
    remedy = "start at more noise" if request.sampling.spacing is None else "use --spacing trailing"
    return (
        f"the first step is at sigma {first:.3g}, where {100 * signal:.0f} % of an image is "
        f"visible, but sampling starts from pure noise: expect poor images, or {remedy}"
    )


def notices(model: Model, request: GenerationRequest) -> list[str]:
    """What is going to be sampled, and a warning where that starts with too little noise."""
    sampling = request.sampling
    told = (
        f"{model.about}; {', '.join(sampler_told(sampling).values())}, "
        f"{guidance_told(model, sampling)}"
    )
    no_guide = guide_warning(model, sampling)
    if request.init is not None:
        steps = steps_of(model, request) or "no"
        return [
            told,
            f"{request.init.told}: {steps} {'step is' if steps == 1 else 'steps are'} taken",
            *filter(None, [no_guide]),
        ]
    return [told, *filter(None, (no_guide, late_start_warning(model, request)))]


def guide_warning(model: Model, sampling: Sampling) -> str | None:
    """A warning where a guide is chosen whose weight lets it change nothing."""
    if model.guide is None or sampling.guidance != 1:
        return None
    return Warned("--guide has no effect at --guidance 1: give more, such as --guidance 1.7")


def sampler_told(sampling: Sampling) -> dict[str, str]:
    """The sampler, its steps, and eta where it takes one, in words, by their names."""
    steps = f"{sampling.steps} step" + "s" * (sampling.steps != 1)
    told = {"sampler": sampling.sampler, "steps": steps}
    return told if sampling.sampler == CONSISTENCY else told | {"eta": f"eta {sampling.eta:g}"}


def guidance_told(model: Model, sampling: Sampling) -> str:
    """How images are guided, in words."""
    if model.guide is None:
        return f"guidance {sampling.guidance:g}"
    told = f"guidance {sampling.guidance:g} by {model.guide.about}"
    if sampling.class_guidance == 1:
        return told
    return f"{told}; class guidance {sampling.class_guidance:g}"


def networks_of(model: Model) -> list[NetworkFn]:
    """The networks that are called: the model's, and its guide's where it has one."""
    return [each.denoiser.network for each in (model, model.guide) if each is not None]


def call_operations(model: Model, request: GenerationRequest, batch: int | None) -> int:
    """Floating point operations of a network call, forward, on a CPU: `batch` images at a time.

    Of a model and its guide those of the larger call.
    """
    images = min(request.count, batch or batching.DEFAULT)
    branches = 1 if request.sampling.class_weight in (0, 1) else 2
    own, *others = (cast(Network, each).forward_operations() for each in networks_of(model))
    return images * max([branches * own, *others])


def sample_batches(
    model: Model,
    request: GenerationRequest,
    indices: Sequence[int],
    batch: Batch,
    reporter: Reporter,
    compiled: bool | None = False,
    ranks: int = 1,
) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
    """Sample the images of these indices in batches: yields (indices, images (B, C, H, W)).

    batch: images at a time; None: as many as the device's memory allows. Where it runs out, and the
    number is not the user's, the same images are sampled half as many at a time. Raises DdpmError
    where that does not help. compiled: whether to compile the network; None: where it pays.
    ranks: how many sample equal shares, so that the progress of one is that of all.
    """

    everywhere = replace(request.sampling, guidance_interval=(0.0, math.inf))

    def trial(count: int) -> object:  # a step of the most calls, which the first may not be
        guided = replace(request, sampling=everywhere)
        return next(sample_steps(model, guided, indices[:count]), None)

    size = batching.choose(batch, len(indices), model.device, trial)
    compiler = Compiler(networks_of(model), compiled, model.device, reporter)
    started, done = time.monotonic(), 0
    with reporter.bar("sampling", ranks * len(indices), "images") as bar:

        def advance(images: float) -> None:
            sampled, seconds = ranks * (done + images), max(time.monotonic() - started, 1e-9)
            bar.update(sampled, f"{sampled / seconds:.3g} images/s")

        while done < len(indices):
            chosen = indices[done : done + size.images]
            began, work = time.monotonic(), partial(_sample_batch, model, request, chosen, advance)
            images = size.attempt(len(chosen), partial(compiler.run, len(chosen), work), reporter)
            if images is not None:
                each = (time.monotonic() - began) / len(chosen)
                yield chosen, images
                done += len(chosen)
                compiler.consider(each * (len(indices) - done))


def _sample_batch(
    model: Model,
    request: GenerationRequest,
    indices: Sequence[int],
    advance: Callable[[float], None],
) -> NDArray[np.uint8]:
    """Sample these images at once, (B, C, H, W); calls `advance` with the images done, in parts."""
    count = steps_of(model, request)

    def steps() -> Iterator[SamplerStep]:
        for step in sample_steps(model, request, indices):
            yield step
            advance(len(indices) * (step.index + 1) / count)

    if request.init is not None and count == 0:  # images to begin at come back as they are
        x = request.init.edit(indices, model.device).images
    else:
        x = final_state(steps())
    return to_uint8(x).cpu().numpy()


def steps_of(model: Model, request: GenerationRequest) -> int:
    """How many steps are taken: fewer from an image on than from pure noise."""
    edit = None if request.init is None else request.init.blank
    return len(visited(model.denoiser.schedule, request.sampling, edit)) - 1


def finished(model: Model, request: GenerationRequest, index: int, image: ImageArray) -> ImageArray:
    """A sampled image (C, H, W) as it is written: that of an image it begins at has its size."""
    if request.init is None:
        return image
    return request.init.finished(index, image, drawn=steps_of(model, request) > 0)


def sample_steps(
    model: Model, request: GenerationRequest, indices: Sequence[int]
) -> Iterator[SamplerStep]:
    """Sample one batch, yielding every step."""
    condition = condition_of(model, request, indices)
    with devices.autocast(model.device, model.precision):
        noise = image_noise(model, request, indices)
        edit = edit_of(model, request, indices)
        guide = model.guide_denoiser
        yield from sample(model.denoiser, noise, condition, request.sampling, edit, guide=guide)


def edit_of(model: Model, request: GenerationRequest, indices: Sequence[int]) -> Edit | None:
    """What is begun at, or what is known of images that are given with a mask."""
    if request.init is not None:
        return request.init.edit(indices, model.device)
    return None if request.given is None else request.given.known(indices, request.seeds(indices))


def condition_of(model: Model, request: GenerationRequest, indices: Sequence[int]) -> Condition:
    """The condition of these images, on the model's device."""
    seeds = request.seeds(indices)
    condition = request.conditions.condition(seeds, model.device)
    return condition if request.given is None else request.given.add(condition, indices, seeds)


def image_noise(model: Model, request: GenerationRequest, indices: Sequence[int]) -> ImageNoise:
    """The noise source of these images; its first draw is the initial state."""
    network = model.config.network
    shape = (network.channels, *network.size)
    key = "given image" if network.given_channels else "image"  # other noise than a first model's
    first = None if request.noise is None else request.noise.rows(indices)
    return ImageNoise(request.seeds(indices), shape, model.device, key, first)
