"""The model that a sweep samples: by each setting, from the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from ddpm_cli.core.checkpoints import post_hoc
from ddpm_cli.core.checkpoints.post_hoc import Stored
from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.diffusion.settings import NoEffectError, Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.generation.generate import GenerationRequest, resolve_sampling
from ddpm_cli.core.generation.guides import check_guide
from ddpm_cli.core.generation.model import Model, load_model, own_sampling, warning
from ddpm_cli.core.generation.outputs.record import identity, settings_of
from ddpm_cli.core.generation.run_images import RunImages
from ddpm_cli.core.generation.trained_images import images_of_run
from ddpm_cli.core.metrics.inputs.opening import ScoreInput, open_input
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, is_run_or_weights
from ddpm_cli.core.sweep.axes import Values

_OF_SAMPLING = {field.name for field in fields(Sampling)}


@dataclass
class SweptModel:
    """A model, the images that are sampled of it, and what its settings start from.

    request: of the images, whatever the sampling. held: settings that all have where they mean
    something, which replace those of the run's default. averages, images: those stored, of which
    others are rebuilt as after so many images: none that a training stores meanwhile.
    """

    model: Model
    request: GenerationRequest
    default: DefaultSampling
    held: Mapping[str, Any]
    averages: list[Stored]
    images: int | None
    _length: float | None = None  # sigma_rel of the weights that the model has now

    @classmethod
    def load(
        cls,
        images: RunImages,
        device: torch.device,
        reporter: Reporter,
        varied: Collection[str],
        at: int | None = None,
    ) -> SweptModel:
        """Load a run for these images, whose settings all have.

        varied: names of options, of which sigma_rel is of the newest weights whatever the default.
        at: the images after which averages are rebuilt; None: all. Raises DdpmError.
        """
        rebuilds = "sigma_rel" in varied
        default = default_sampling.of_run(images.run)
        told = default.told(images.settings, varied, weights=not rebuilds)
        path = find_weights(images.run) if rebuilds else default.find_weights(images.run)
        model = load_model(path, device, devices.choose_precision(images.precision, device))
        for notice in filter(None, (model.about, told)):
            reporter.say(notice)
        default = default.varying(varied)
        model = default.guided(model, default.settings(images.settings).get("guide"))
        request = images.request(model, own_sampling(model.config, {}), reporter)
        there = post_hoc.stored(RunDirectory(model.folder)) if rebuilds else []
        averages = [one for one in there if at is None or one.profile.images <= at]
        after = averages[-1].profile.images if averages and at is None else at
        return cls(model, request, default, images.settings, averages, after)

    def meant(self, values: Values) -> Values:
        """A setting by what it means: heun's eta is 0, whatever is tried beside other samplers."""
        sampling = self.requested(values).sampling
        return {k: getattr(sampling, k) if k in _OF_SAMPLING else v for k, v in values.items()}

    def without_effect(self, values: Values) -> dict[str, NoEffectError]:
        """Which of the settings held and of these values have none, and why. Raises UsageError."""
        return self._fitting(values)[1]

    def settings(self, values: Values) -> dict[str, Any]:
        """The settings of Sampling that are not the usual ones."""
        return self._fitting(values)[0]

    def requested(self, values: Values) -> GenerationRequest:
        """The images by a setting. Raises UsageError or DdpmError where the model cannot."""
        sampling = resolve_sampling(self.model, Sampling(**self.settings(values)))
        check_guide(self.model, sampling)
        return replace(self.request, sampling=sampling)

    def check(self, values: Values) -> str | None:
        """What is odd about a setting, in a line.

        Raises UsageError or DdpmError for one that the model cannot be sampled by.
        """
        request = self.requested(values)
        if "sigma_rel" in values:
            length = values["sigma_rel"]
            _, _, fit = post_hoc.best_fit(self.run, length, self.images)
            if fit.error > post_hoc.GOOD:
                return post_hoc.poorly(length, fit.error)
        return warning(self.model, request.sampling)

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
            average = post_hoc.rebuilt(self.run, length, self.images)
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
        average = post_hoc.rebuilt(self.run, values["sigma_rel"], self.images)
        path = self.run.path / post_hoc.name_of(average.profile, average.profile.images)
        post_hoc.write(path, self.run, average)
        return path.stem

    @property
    def run(self) -> RunDirectory:
        """The run that the model is of."""
        return RunDirectory(self.model.folder)

    def _average(self, values: Values) -> dict[str, Any]:
        """Which average a setting has: of those stored, by their names."""
        if "sigma_rel" not in values:
            return {}
        names = [one.path.name for one in self.averages]
        return {"sigma_rel": values["sigma_rel"], "averages": names}

    def _fitting(self, values: Values) -> tuple[dict[str, Any], dict[str, NoEffectError]]:
        """The settings, and why others are left out."""
        own = {name: value for name, value in values.items() if name in _OF_SAMPLING}
        settings = self.default.settings({**self.held, **own})
        left = dict[str, NoEffectError]()
        while True:
            try:
                Sampling(**settings)
            except NoEffectError as error:
                names = settings.keys() & error.names
                if not names:
                    raise
                left |= dict.fromkeys(names, error)
                settings = {k: v for k, v in settings.items() if k not in names}
            else:
                return settings, left


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
