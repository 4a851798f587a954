"""The model that a sweep samples: by each setting, from the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from ddpm_cli.core.checkpoints import post_hoc
from ddpm_cli.core.diffusion.sampling import evaluations, grid
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.guides import check_levels, with_guide
from ddpm_cli.core.generation.model import Model, check_sampling, load_model
from ddpm_cli.core.generation.outputs.record import identity, settings_of
from ddpm_cli.core.generation.run_images import RunImages
from ddpm_cli.core.generation.trained_images import images_of_run
from ddpm_cli.core.metrics.inputs.opening import ScoreInput, open_input
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, is_run_or_weights
from ddpm_cli.core.sweep.axes import Values

_NOT_SAMPLING = ("sigma_rel",)  # axes that are no settings of Sampling


@dataclass
class Subject:
    """A model, the images that are sampled of it, and what its settings start from.

    request: of the images, whatever the sampling. given: settings that all have, which replace
    those of the run's default.
    """

    model: Model
    request: GenerationRequest
    default: DefaultSampling
    given: Mapping[str, Any]
    _length: float | None = None  # sigma_rel of the weights that the model has now

    @classmethod
    def load(
        cls,
        images: RunImages,
        device: torch.device,
        reporter: Reporter,
        *,
        own_weights: bool,
    ) -> Subject:
        """Load a run for these images, whose settings all have.

        own_weights: the newest, whatever the run's default. Raises DdpmError.
        """
        default = default_sampling.of_run(images.run)
        path = find_weights(images.run) if own_weights else default.find_weights(images.run)
        model = load_model(path, device, devices.choose_precision(images.precision, device))
        model = with_guide(model, default.settings(images.settings).get("guide"))
        return cls(model, images.request(model, Sampling(), reporter), default, images.settings)

    def settings(self, values: Values) -> dict[str, Any]:
        """The settings of Sampling that are not the usual ones."""
        own = {name: value for name, value in values.items() if name not in _NOT_SAMPLING}
        return self.default.settings({**self.given, **own})

    def requested(self, values: Values) -> GenerationRequest:
        """The images by a setting. Raises UsageError or DdpmError where the model cannot."""
        schedule = self.model.denoiser.schedule
        sampling = Sampling(**self.settings(values)).with_default_steps(len(schedule))
        check_levels(self.model, grid(schedule, sampling), sampling)
        check_sampling(self.model, sampling)
        return replace(self.request, sampling=sampling)

    def check(self, values: Values) -> None:
        """Raise UsageError or DdpmError for a setting that the model cannot be sampled by."""
        self.requested(values)
        if "sigma_rel" in values:
            post_hoc.best_fit(self.run, values["sigma_rel"])

    def nfe(self, values: Values) -> int:
        """Network calls for an image."""
        return evaluations(self.model.denoiser.schedule, self.requested(values).sampling)

    def identity(self, values: Values) -> dict[str, Any]:
        """All that the images depend on."""
        request = self.requested(values)
        of_images = identity(settings_of(self.model, request))
        precision = devices.precision_name(self.model.precision)
        return of_images | {"n": request.count, "precision": precision} | self._average(values)

    def with_weights(self, values: Values) -> Model:
        """The model with the weights of a setting, which stay until others are asked for."""
        length = values.get("sigma_rel")
        if length is not None and length != self._length:
            average = post_hoc.rebuilt(self.run, length)
            network = cast(Network, self.model.denoiser.network)
            network.load_state_dict(network.state_dict() | average.tensors)  # buffers stay
            self._length = length
        return self.model

    def save(self, values: Values) -> str | None:
        """Write a setting's weights into the run: their name there; None for those it has.

        Raises DdpmError where they cannot be written.
        """
        if "sigma_rel" not in values:
            return self.default.weights
        average, newest = post_hoc.rebuilt(self.run, values["sigma_rel"]), self._averages[-1]
        path = self.run.path / post_hoc.name_of(average.profile, newest.profile.images)
        post_hoc.save(path, self.run, average)
        return path.stem

    @property
    def run(self) -> RunDirectory:
        """The run that the model is of."""
        return RunDirectory(self.model.folder)

    def _average(self, values: Values) -> dict[str, Any]:
        """Which average a setting has: of those stored, by their names."""
        if "sigma_rel" not in values:
            return {}
        names = [one.path.name for one in self._averages]
        return {"sigma_rel": values["sigma_rel"], "averages": names}

    @cached_property
    def _averages(self) -> list[post_hoc.Stored]:
        return post_hoc.stored(self.run)


def real_images(name: str | None, run: Path, reporter: Reporter) -> ScoreInput:
    """The real images of this name, as `ddpm fid` takes them; None: those of the run's training.

    Raises UsageError or DdpmError where there are none.
    """
    if name is not None:
        if is_run_or_weights(name):
            raise UsageError(f"--real {name} is a run; real images are wanted")
        return open_input(name, reporter=reporter)
    found = images_of_run(run, reporter, training=True, held_out=False, option="--real").training
    assert found is not None, "they were asked for"
    return found
