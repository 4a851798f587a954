"""Two models in a chain: one samples small images, on which another is conditioned.

Source: Ho et al. (2022), "Cascaded diffusion models for high fidelity image generation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ddpm_cli.core.conditioning import images as given_images
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.generation.starts.given import Given, check_conditional, check_deviation
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import find_weights


def given_by(
    first: Path,
    model: Model,
    count: int | None,
    seed: int,
    conditions: ConditionRequest,
    sampling: Sampling,
    deviation: float | None,
    reporter: Reporter,
) -> Given:
    """The images of a first model, those that `ddpm sample` draws of it, as given to another.

    Classes, prompts and settings are those of both, as far as the first has a use for them.
    deviation: of noise in them; None: half of the most that the model was trained with. Raises
    DdpmError where the two do not fit.
    """
    check_conditional(model)
    check_deviation(model, deviation)
    small = load_model(find_weights(first), model.device, model.precision)
    size = _fitting_size(small, model)
    if small.config.network.classes and not _same_classes(small, model):
        raise DdpmError(
            f"--cascade {first} was trained on other classes than {model.path}, so the image i of "
            "both would not be of one class"
        )
    sampling = sampling.without_guide()
    if not small.config.network.conditioned:
        conditions, sampling = ConditionRequest(), replace(sampling, guidance=1.0)
    request = generate.resolve_request(small, count, seed, conditions, sampling, reporter)

    def pixels(indices: Sequence[int]) -> Tensor:
        x = final_state(generate.sample_steps(small, request, indices)).float()
        return to_uint8(x if x.shape[2:] == size else given_images.resized(x, size)).cpu()

    used = model.config.data.given_level / 2 if deviation is None else deviation
    record = {"cascade": str(small.path), "cascade_sha256": small.sha256, "given_noise": used}
    return Given(model, pixels, deviation=used, count=request.count, record=record)


def _fitting_size(small: Model, model: Model) -> tuple[int, int]:
    """The size of the images that the model is given. Raises DdpmError for others than the first's.

    A little size apart is resized; images of other channels, or with masks, are none of the first.
    """
    network, degradation = model.config.network, model.config.data.degradation
    channels = small.config.network.channels
    if degradation is not None and degradation.kind == "mask":
        raise DdpmError(f"--cascade: {model.path} fills what a mask cuts out, and needs --given")
    if channels != network.given_channels:
        raise DdpmError(
            f"--cascade {small.path} samples images of {channels} channels, and {model.path} is "
            f"given images of {network.given_channels}"
        )
    return network.size if degradation is None else degradation.size(network.size)


def _same_classes(small: Model, model: Model) -> bool:
    ours, others = model.config.network, small.config.network
    return not ours.classes or ours.classes == others.classes
