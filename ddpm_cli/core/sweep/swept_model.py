"""The model that a sweep samples: by each setting, from the same seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ddpm_cli.core.checkpoints import post_hoc
from ddpm_cli.core.checkpoints.post_hoc import Stored
from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation.generate import GenerationRequest, resolve_sampling
from ddpm_cli.core.generation.guides import check_guide, with_guide
from ddpm_cli.core.generation.model import Model, load_model, own_sampling, warning
from ddpm_cli.core.generation.outputs.record import identity, settings_of
from ddpm_cli.core.generation.run_images import RunImages
from ddpm_cli.core.generation.trained_images import images_of_run
from ddpm_cli.core.metrics.inputs.opening import ScoreInput, open_input
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights
from ddpm_cli.core.sweep.axes import Values
from ddpm_cli.core.sweep.settings import OF_SAMPLING, SweptSettings


@dataclass
class SweptModel:
    """A model, the images that are sampled of it, and the settings that these are sampled by.

    request: of the images, whatever the sampling. averages, images: those stored, of which others
    are rebuilt as after so many images: none that a training stores meanwhile.
    """

    model: Model
    request: GenerationRequest
    settings: SweptSettings
    averages: list[Stored]
    images: int | None
    _length: float | None = None  # sigma_rel of the weights that the model has now

    @classmethod
    def load(
        cls,
        images: RunImages,
        settings: SweptSettings,
        device: torch.device,
        reporter: Reporter,
        *,
        rebuilds: bool,
        at: int | None = None,
    ) -> SweptModel:
        """Load a run for these images, whose settings all have: its newest weights.

        rebuilds: whether averages of other lengths are; at: after so many images; None: after all.
        Raises DdpmError.
        """
        precision = devices.choose_precision(images.precision, device)
        model = load_model(find_weights(images.run), device, precision)
        reporter.say(model.about)
        model = with_guide(model, images.settings.get("guide"))
        request = images.request(model, own_sampling(model.config, {}), reporter)
        there = post_hoc.stored(RunDirectory(model.folder)) if rebuilds else []
        averages = [one for one in there if at is None or one.profile.images <= at]
        after = averages[-1].profile.images if averages and at is None else at
        return cls(model, request, settings, averages, after)

    def meant(self, values: Values) -> Values:
        """A setting by what it means: heun's eta is 0, whatever is tried beside other samplers."""
        sampling = self.requested(values).sampling
        return {k: getattr(sampling, k) if k in OF_SAMPLING else v for k, v in values.items()}

    def requested(self, values: Values) -> GenerationRequest:
        """The images by a setting. Raises UsageError or DdpmError where the model cannot."""
        sampling = resolve_sampling(self.model, Sampling(**self.settings.of(values)))
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
        """Write a setting's weights into the run: their name there; None for the newest.

        Raises DdpmError where they cannot be written.
        """
        if "sigma_rel" not in values:
            return None
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


def real_images(name: str | None, run: Path, reporter: Reporter) -> ScoreInput:
    """The real images of this name, as `ddpm fid` takes them; None: those of the run's training.

    Raises DdpmError where there are none.
    """
    if name is not None:
        return open_input(name, reporter=reporter)
    found = images_of_run(run, reporter, training=True, held_out=False, option="--real").training
    assert found is not None, "they were asked for"
    return found
