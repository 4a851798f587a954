"""A trained model, loaded onto a device for sampling and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.run_directory import run_of_snapshot


class Model(NamedTuple):
    """A denoiser on a device, with its config and origin."""

    path: Path
    denoiser: Denoiser
    config: RunConfig
    images: int  # seen in training
    sha256: str  # of the file
    device: torch.device
    precision: torch.dtype  # of autocast
    statistics: Any = None  # of the training images, as JSON values
    sigma_rel: float | None = None  # of an average with a power profile
    guide: Model | None = None  # a worse model, for settings of sampling that have one

    @property
    def guide_denoiser(self) -> Denoiser | None:
        """D of the guide."""
        return None if self.guide is None else self.guide.denoiser

    @property
    def guide_record(self) -> dict[str, Any]:
        """What is recorded of the guide; nothing without one."""
        if self.guide is None:
            return {}
        return {
            "guide": str(self.guide.path),
            "guide_sha256": self.guide.sha256,
            "guide_images_seen": self.guide.images,
        }

    @property
    def folder(self) -> Path:
        """Where results go by default: the run of a snapshot, or beside the weights."""
        run = run_of_snapshot(self.path)
        return self.path.parent if run is None else run.path

    @property
    def provenance(self) -> str:
        """How it was trained, or where it was imported from, for messages."""
        origin = self.config.origin
        if origin is not None and self.images == 0:
            return f"the weights of {origin.path}"
        average = "" if self.sigma_rel is None else f", sigma_rel {self.sigma_rel:g}"
        return f"{self.images:,} images seen{average}"

    @property
    def about(self) -> str:
        """Where it lies and how it was trained, for messages."""
        return f"{self.path}: {self.provenance}"


def load_model(path: Path, device: torch.device, precision: torch.dtype) -> Model:
    """Load a weights file, or a snapshot's average, onto a device.

    Raises DdpmError where it cannot be read.
    """
    loaded = weights.load(path)
    network = loaded.network.to(device).to(memory_format=torch.channels_last)
    diffusion = loaded.config.diffusion
    denoiser = Denoiser(network, schedules.from_config(diffusion), diffusion.parameterisation)
    return Model(
        path,
        denoiser,
        loaded.config,
        loaded.images,
        loaded.sha256,
        device,
        precision,
        loaded.statistics,
        loaded.sigma_rel,
    )


def check_sampling(model: Model, sampling: Sampling) -> None:
    """Raise UsageError or DdpmError where the model lacks what the settings need.

    That is a learned variance, and for guidance a null condition (Ho & Salimans, 2022).
    """
    if sampling.variance == "learned" and not model.config.network.learned_variance:
        raise UsageError(
            f"{model.path} was trained without --learned-variance; "
            "use --variance fixed-small or fixed-large"
        )
    if sampling.class_weight != 1:
        option = "--guidance" if sampling.guide is None else "--class-guidance"
        _check_null_condition(model, option)
        if sampling.class_weight == 0 and model.guide is not None:
            _check_null_condition(model.guide, option)


def _check_null_condition(model: Model, option: str) -> None:
    network = model.config.network
    if not network.conditioned:
        raise DdpmError(
            f"{model.path} was trained without classes and captions, so there is nothing to guide "
            f"towards; leave {option} at 1, or guide by a worse model, such as --guide early"
        )
    if network.classes and not network.null_class:
        raise DdpmError(
            f"{model.path} has no null class, which guidance needs; leave {option} at 1 (ddpm "
            "convert --null-class says which class is the null class)"
        )
    if model.config.optimiser.class_drop == 0:
        raise DdpmError(
            f"{model.path} was trained with --class-drop 0, so it has no unconditional branch; "
            f"leave {option} at 1"
        )
