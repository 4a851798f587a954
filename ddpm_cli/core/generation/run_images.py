"""Images of a model as one side of a comparison: generated while they are scored, never written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.generate import GenerationRequest, resolve_request, sample_batches
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.generation.record import settings_of
from ddpm_cli.core.metrics.inputs import GeneratedImages
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.reporting import Reporter, Silent
from ddpm_cli.core.runtime.run_directory import find_weights

DEFAULT_COUNT = 5000  # images


@dataclass(frozen=True)
class RunImages:
    """Which images of a run to score: those that `ddpm sample` would write."""

    run: Path  # or a weights file or snapshot
    count: int | None  # None: as many as the conditions say, or else DEFAULT_COUNT
    seed: int
    conditions: ConditionRequest
    sampling: Sampling
    precision: str = "fp32"  # of the denoiser: fp32, bf16 or auto

    def open(self, batch: int | None, device: torch.device, reporter: Reporter) -> GeneratedImages:
        """Load the model on every rank; local rank 0 encodes the prompts first.

        Raises UsageError or DdpmError where the request cannot be met.
        """
        precision = devices.choose_precision(self.precision, device)
        model = load_model(find_weights(self.run), device, precision)
        with distributed.local_rank0_first():
            request = resolve_request(
                model,
                self.count,
                self.seed,
                self.conditions,
                self.sampling,
                reporter,
                DEFAULT_COUNT,
            )
        sampling = request.sampling
        reporter.say(
            f"{model.path}: {model.provenance}; sampling {request.count:,} images: "
            f"{sampling.sampler}, {sampling.steps} steps, eta {sampling.eta:g}, "
            f"guidance {sampling.guidance:g}, seed {self.seed}, {devices.precision_name(precision)}"
        )
        return generated_images(str(self.run), model, request, batch)


def generated_images(
    label: str, model: Model, request: GenerationRequest, batch: Batch
) -> GeneratedImages:
    """The images of a request as an image set, sampled in batches without a progress bar.

    batch: as that of `sample_batches`.
    """

    def batches(indices: range) -> Iterator[Tensor]:
        for _, images in sample_batches(model, request, indices, batch, Silent()):
            yield torch.from_numpy(images)

    sampled = settings_of(model, request) | {"precision": devices.precision_name(model.precision)}
    return GeneratedImages(label, request.count, batches, sampled)
