"""A trained model as Python code uses it: sample images, and the denoiser D(x, sigma)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.conditioning.requests import ConditionRequest, plan_conditions
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.input_images import Arrays, InputImages
from ddpm_cli.core.diffusion.denoiser import Denoiser, noise_levels
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.checks.findings import Inspection
from ddpm_cli.core.generation.generate import finished, resolve_request, sample_batches
from ddpm_cli.core.generation.guides import check_levels, guided_by, with_guide
from ddpm_cli.core.generation.model import Model, check_sampling, load_model, own_sampling
from ddpm_cli.core.generation.starts import interpolation, inversion
from ddpm_cli.core.generation.starts.given import GivenRequest, check_given
from ddpm_cli.core.generation.starts.initial import InitialRequest
from ddpm_cli.core.generation.starts.inversion import Inversion
from ddpm_cli.core.generation.starts.starting_noise import StartingNoise
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, Silent, Warned
from ddpm_cli.core.runtime.run_directory import find_weights


@dataclass(frozen=True)
class TrainedModel:
    """Weights on a device. `config` is the run's, `denoiser` its D(x, sigma, condition)."""

    model: Model
    reporter: Reporter

    @classmethod
    def load(
        cls, run: Path | None, device: str, precision: str, reporter: Reporter
    ) -> TrainedModel:
        """Load a run directory, weights file or snapshot; None: the newest run under runs/."""
        chosen = devices.choose_device(device)
        weights = find_weights(run)
        return cls(
            load_model(weights, chosen, devices.choose_precision(precision, chosen)), reporter
        )

    @property
    def config(self) -> RunConfig:
        """Everything that defines the run."""
        return self.model.config

    @property
    def denoiser(self) -> Denoiser:
        """D(x, sigma, condition) without guidance."""
        return self.model.denoiser

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty for a model without classes."""
        return self.model.config.network.classes

    @property
    def default_sampling(self) -> dict[str, Any]:
        """What `ddpm sweep` found best for the run: settings for `sample`; {} without a sweep.

        They are of the weights that the run's default-sampling.json names.
        """
        return dict(default_sampling.of_run(self.model.folder).sampling)

    def sample(
        self,
        count: int | None = None,
        *,
        seed: int = 0,
        classes: Sequence[str | int] = (),
        prompts: Sequence[str] = (),
        given: str | Path | Arrays | None = None,
        mask: str | Path | Arrays | None = None,
        degrade: bool = False,
        given_noise: float | None = None,
        noise: NDArray[np.float32] | None = None,
        batch: int | None = None,
        **settings: Any,
    ) -> NDArray[np.uint8]:
        """Sample images: uint8 (N, H, W, C); by default 16, or as many as are given.

        Image i depends on seed + i alone. classes, prompts: in turn, as --class and --prompt;
        default: all classes in turn, or captions of the training. given: of a model that is
        conditioned on an image, the image or images, in turn: a path, or arrays (H, W) or
        (H, W, C) uint8; mask, degrade and given_noise as the options of ddpm sample. noise: where
        to start, as `invert` returns it. batch: images at a time, default: as many as fit into
        memory. What is odd about the images is reported.
        settings: those of Sampling, such as steps=50, guidance=2, sampler="heun". Its guide is a
        path, "early", or a TrainedModel, which is not loaded again each time. Raises UsageError or
        DdpmError where the model cannot do that.
        """
        conditions = ConditionRequest.from_options(list(map(str, classes)), list(prompts), None)
        model, sampling = self._guided(settings)
        images = GivenRequest(given, mask, degrade, given_noise).resolve(model, self.reporter)
        network = self.config.network
        start = None if noise is None else StartingNoise.of(noise, network, "an array")
        request = resolve_request(
            model, count, seed, conditions, sampling, self.reporter, given=images, noise=start
        )
        every, inspection = range(request.count), Inspection(model, request)
        batches = sample_batches(model, request, every, batch, self.reporter)
        drawn = np.concatenate([images for _, images in inspection.watch(batches)])
        for finding in inspection.findings():
            self.reporter.say(Warned(finding.text))
        return drawn.transpose(0, 2, 3, 1)

    def edit(
        self,
        images: str | Path | Arrays,
        count: int | None = None,
        *,
        strength: float | None = None,
        mask: str | Path | Arrays | None = None,
        resample: int | None = None,
        seed: int = 0,
        classes: Sequence[str | int] = (),
        prompts: Sequence[str] = (),
        batch: int | None = None,
        **settings: Any,
    ) -> list[NDArray[np.uint8]]:
        """Sample from images on, as `ddpm sample --init`: a list of (H, W, C) uint8 of their sizes.

        images, mask: a path, or arrays (H, W) or (H, W, C) uint8; 255 in a mask is drawn anew, 0 is
        kept exactly. strength: 0 gives the images back, 1 samples; default 0.6, with a mask 1.
        resample: times that each ten steps are taken. The rest as of `sample`.
        """
        conditions = ConditionRequest.from_options(list(map(str, classes)), list(prompts), None)
        model, sampling = self._guided(settings)
        initial = InitialRequest(images, strength, mask, resample)
        request = resolve_request(
            model, count, seed, conditions, sampling, self.reporter, initial=initial
        )
        batches = sample_batches(model, request, range(request.count), batch, self.reporter)
        return [
            finished(model, request, index, image).transpose(1, 2, 0)
            for indices, sampled in batches
            for index, image in zip(indices, sampled, strict=True)
        ]

    def invert(
        self,
        images: str | Path | Arrays,
        *,
        seed: int = 0,
        classes: Sequence[str | int] = (),
        prompts: Sequence[str] = (),
        batch: int = 64,
        **settings: Any,
    ) -> Inversion:
        """The noise from which these images are sampled, as `ddpm invert`.

        `noise` of the result is what `sample` takes, float32 (N, C, H, W), `errors` the root mean
        square error of each image sampled from it, in grey levels. Without classes and prompts the
        null condition is used, as by guidance=0.
        """
        conditions = ConditionRequest.from_options(list(map(str, classes)), list(prompts), None)
        model, sampling = self._guided(settings)
        inversion.check_invertible(sampling)
        sampling = inversion.without_condition(model, conditions, sampling)
        given = InputImages.open(images, "the images", self.reporter)
        request = resolve_request(model, len(given), seed, conditions, sampling, self.reporter)
        return inversion.inverted(model, request, given, batch, self.reporter)

    def interpolate(
        self,
        one: int | str | Path,
        other: int | str | Path,
        count: int = 9,
        *,
        classes: Sequence[str | int] = (),
        prompts: Sequence[str] = (),
        batch: int | None = None,
        **settings: Any,
    ) -> NDArray[np.uint8]:
        """Images between two seeds or two image files, as `ddpm interpolate`: (N, H, W, C)."""
        conditions = ConditionRequest.from_options(list(map(str, classes)), list(prompts), None)
        model, sampling = self._guided(settings)
        found = interpolation.resolve(
            model, (one, other), count, conditions, sampling, self.reporter
        )
        batches = sample_batches(model, found.request, range(count), batch, self.reporter)
        return np.concatenate([images for _, images in batches]).transpose(0, 2, 3, 1)

    def denoise(
        self,
        x: Tensor,
        sigma: float | Tensor,
        *,
        classes: Sequence[str | int] = (),
        prompts: Sequence[str] = (),
        guidance: float = 1.0,
        given: Arrays | None = None,
        guide: str | Path | TrainedModel | None = None,
        class_guidance: float = 1.0,
    ) -> Tensor:
        """D(x, sigma) -> x0 (Karras et al. 2022, section 5), for x = x0 + sigma n (B, C, H, W).

        sigma: one for all images or one each. classes, prompts: one for all or one each; without
        them a conditional model gets the null condition. given, guide: as of `sample`, in turn.
        Gradients flow to x.
        """
        model, sampling = self._guided(
            {"guidance": guidance, "guide": guide, "class_guidance": class_guidance}
        )
        check_sampling(model, sampling)
        levels = noise_levels(sigma, x)
        check_levels(model, levels.flatten().tolist(), sampling)
        condition = self._condition(len(x), classes, prompts)
        images = GivenRequest(given).resolve(self.model, Silent())
        check_given(self.model, images)
        if images is not None:
            condition = images.add(condition, range(len(x)), range(len(x)))
        if sampling.class_weight != 1 and condition.is_empty:
            raise UsageError("guidance is towards a class or a prompt: give classes or prompts")
        with devices.autocast(self.model.device, self.model.precision):
            predict = guided(self.denoiser, condition, sampling, model.guide_denoiser)
            return predict(x, levels).x0

    def _guided(self, settings: dict[str, Any]) -> tuple[Model, Sampling]:
        """The model with the guide of these settings, and the settings. Raises as `sample`."""
        guide = settings.get("guide")
        if isinstance(guide, TrainedModel):
            sampling = own_sampling(self.config, settings | {"guide": str(guide.model.path)})
            return guided_by(self.model, guide.model), sampling
        named = None if guide is None else str(guide)
        sampling = own_sampling(self.config, settings | {"guide": named})
        return with_guide(self.model, sampling.guide), sampling

    def _condition(
        self, count: int, classes: Sequence[str | int], prompts: Sequence[str]
    ) -> Condition:
        """The condition of `count` images, of one class or prompt for all, or one each."""
        for name, values in (("classes", classes), ("prompts", prompts)):
            if len(values) not in (0, 1, count):
                raise UsageError(f"{name} should be one or {count}, not {len(values)}")
        if not classes and not prompts:
            return UNCONDITIONAL
        request = ConditionRequest.from_options(list(map(str, classes)), list(prompts), None)
        plan = plan_conditions(self.model.config, request, str(self.model.path))
        plan = plan.encode_prompts(self.model.config, self.model.device, Silent())
        return plan.condition(range(count), self.model.device)
