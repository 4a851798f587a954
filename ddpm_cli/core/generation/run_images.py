"""Images of a model as one side of a comparison: generated while they are scored, never written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.decoded import DecodedImages, Pairs
from ddpm_cli.core.data.pairs import pair
from ddpm_cli.core.data.sources import Source, captions_of, labels_for, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.data_conditions import plan_of, representative_rows
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.generation.generate import (
    GenerationRequest,
    guidance_told,
    guide_warning,
    resolve_request,
    sample_batches,
    sampler_told,
)
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.generation.outputs.record import settings_of
from ddpm_cli.core.generation.starts.given import check_conditional, of_data
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

DEFAULT_COUNT = 5000  # images


@dataclass(frozen=True)
class RunImages:
    """Which images of a run to score: those that `ddpm sample` would write."""

    run: Path  # or a weights file or snapshot
    count: int | None  # None: as many as the conditions say, or else DEFAULT_COUNT
    seed: int
    conditions: ConditionRequest
    settings: Mapping[str, Any]  # of Sampling, those given: the rest are the run's defaults
    precision: str = "fp32"  # of the denoiser: fp32, bf16 or auto
    given: str | None = None  # images that a model is given; None: those of its training

    def open(self, batch: int | None, device: torch.device, reporter: Reporter) -> GeneratedImages:
        """Load the model on every rank; local rank 0 encodes the prompts first.

        Raises UsageError or DdpmError where the request cannot be met.
        """

        def load() -> tuple[DefaultSampling, Model]:
            precision = devices.choose_precision(self.precision, device)
            default = default_sampling.of_run(self.run)
            model = load_model(default.find_weights(self.run), device, precision)
            return default, default.guided(model, default.settings(self.settings).get("guide"))

        default, model = distributed.run_on_all_ranks(load)
        if (told := default.told(self.settings)) is not None:
            reporter.say(told)
        request = self.request(model, default.with_options(self.settings), reporter)
        sampling = request.sampling
        reporter.say(
            f"{model.about}; sampling {request.count:,} images: "
            f"{', '.join(sampler_told(sampling).values())}, "
            f"{guidance_told(model, sampling)}, seed {self.seed}, "
            f"{devices.precision_name(model.precision)}"
        )
        if (odd := guide_warning(model, sampling)) is not None:
            reporter.say(odd)
        return generated_images(str(self.run), model, request, batch)

    def request(self, model: Model, sampling: Sampling, reporter: Reporter) -> GenerationRequest:
        """The images to sample; where the model is given images, of data with their classes."""
        images = data_of(model, self.given, reporter)
        with distributed.local_rank0_first():
            given = None if images is None else of_data(model, images, images.rows)
            request = resolve_request(
                model,
                self.count,
                self.seed,
                self.conditions,
                sampling,
                reporter,
                DEFAULT_COUNT,
                given,
            )
        if images is None:
            return request
        rows = representative_rows(images, request.count)
        request = replace(request, given=of_data(model, images, rows))
        if self.conditions != ConditionRequest():
            return request
        with distributed.local_rank0_first():
            plan = plan_of(model.config, images, rows, model.device, reporter)
        return replace(request, conditions=plan, seed=self.seed)


def data_of(model: Model, name: str | None, reporter: Reporter) -> DecodedImages | None:
    """The images of a source, by default the training's, for a model that is given images.

    None for other models. Raises DdpmError for a source that is named for one of those, or that
    cannot be used.
    """
    network, data = model.config.network, model.config.data
    if not network.given_channels:
        if name is not None:
            check_conditional(model)
        return None
    chosen = name or data.source

    def opened() -> tuple[Source, NDArray[np.int64]]:
        source = open_source(chosen, reporter, training=name is None, attributes=data.attributes)
        return source, labels_for(source, network, chosen, str(model.path))

    source, labels = distributed.run_on_all_ranks(opened)
    transform, said = Transform.of(model.config), f"--given-data {data.given_data}"
    with distributed.local_rank0_first():
        images = replace(loader.prepare(source, transform, reporter), labels=labels)
        if data.degradation is None:
            others = open_source(data.given_data, reporter, training=True)
            rows = pair(source, others, said)
            prepared = replace(transform, channels=network.given_channels)
            images = replace(images, pairs=Pairs(loader.prepare(others, prepared, reporter), rows))
        if network.text is not None:
            captions = captions_of(source, data.templates)
            texts = tokens.tokenise(network.text, captions.sentences, model.device, reporter)
            images = replace(images, captions=captions, texts=texts)
    made = f"made of the images of {chosen}" if data.degradation else f"those of {data.given_data}"
    reporter.say(f"{model.path} is given images {made}")
    return images


def generated_images(
    label: str,
    model: Model,
    request: GenerationRequest,
    batch: Batch,
    reporter: Reporter = SILENT,
) -> GeneratedImages:
    """The images of a request as an image set, sampled in batches: by default without a bar.

    batch: as that of `sample_batches`.
    """

    def batches(indices: Sequence[int]) -> Iterator[Tensor]:
        for _, images in sample_batches(model, request, indices, batch, reporter):
            yield torch.from_numpy(images)

    sampled = settings_of(model, request) | {"precision": devices.precision_name(model.precision)}
    found = [request.label_and_prompt(index)[0] for index in range(request.count)]
    labels = np.array(found, np.int64) if request.conditions.labels else None
    names = model.config.network.classes
    return GeneratedImages(label, request.count, batches, sampled, labels, names)
