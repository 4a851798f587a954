"""ddpm: train, sample and evaluate pixel-space diffusion models, from a shell or from Python.

The names below are the library; each is imported when it is first used, so that importing the
package costs nothing. Progress is silent unless `progress=True`, errors are DdpmError and its
subclasses, and nothing ends the process. See docs/python.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ddpm_cli.core.conditioning.condition import Condition
    from ddpm_cli.core.config.run import RunConfig
    from ddpm_cli.core.data.arrays import Indexed
    from ddpm_cli.core.data.sources import Source
    from ddpm_cli.core.diffusion.denoiser import Denoiser
    from ddpm_cli.core.diffusion.samplers import SamplerStep
    from ddpm_cli.core.diffusion.schedules import Schedule
    from ddpm_cli.core.diffusion.settings import Sampling
    from ddpm_cli.core.errors import (
        DdpmError,
        DivergedError,
        UsageError,
    )
    from ddpm_cli.core.generation.trained_model import TrainedModel
    from ddpm_cli.core.metrics.memorisation.report import MemorisationReport
    from ddpm_cli.core.metrics.report import Report
    from ddpm_cli.core.models.transformer import Transformer
    from ddpm_cli.core.models.unet import UNet
    from ddpm_cli.core.runtime.reporting import Reporter

__version__ = "0.1.0"

_MODULES = {  # where each name that is imported on first use is defined
    "Condition": "conditioning.condition",
    "DdpmError": "errors",
    "Denoiser": "diffusion.denoiser",
    "DivergedError": "errors",
    "MemorisationReport": "metrics.memorisation.report",
    "Report": "metrics.report",
    "RunConfig": "config.run",
    "SamplerStep": "diffusion.samplers",
    "Sampling": "diffusion.settings",
    "Schedule": "diffusion.schedules",
    "TrainedModel": "generation.trained_model",
    "Transformer": "models.transformer",
    "UNet": "models.unet",
    "UsageError": "errors",
}

__all__ = [
    "Condition",
    "DdpmError",
    "Denoiser",
    "DivergedError",
    "MemorisationReport",
    "Report",
    "RunConfig",
    "SamplerStep",
    "Sampling",
    "Schedule",
    "TrainedModel",
    "Transformer",
    "UNet",
    "UsageError",
    "__version__",
    "config",
    "distill",
    "evaluate",
    "evaluate_all",
    "fid",
    "load",
    "memorisation",
    "sample",
    "schedule",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddpm_cli.core.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


def load(
    run: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    progress: bool = False,
) -> TrainedModel:
    """Load a trained model: a run directory, weights file or snapshot; None: runs/'s newest run.

    device: auto, cpu, cuda or mps; precision: fp32, bf16 or auto (bf16 where the GPU has it).
    Raises DdpmError where there is no such run.
    """
    from ddpm_cli.core.generation.trained_model import TrainedModel

    path = None if run is None else Path(run)
    return TrainedModel.load(path, device, precision, _reporter(progress))


def schedule(name: str = "cosine", timesteps: int = 1000, **settings: Any) -> Schedule:
    """A noise schedule by name, as `ddpm train --schedule`: its sigma, alpha_bar and beta tables.

    settings: other fields of DiffusionConfig, such as beta_min and beta_max.
    """
    from ddpm_cli.core.config.diffusion import DiffusionConfig
    from ddpm_cli.core.diffusion.schedules import from_config

    return from_config(DiffusionConfig(name, timesteps, **settings))


def sample(
    denoiser: Denoiser,
    shape: tuple[int, int, int, int],
    sampling: Sampling | None = None,
    *,
    seed: int = 0,
    condition: Condition | None = None,
    guide: Denoiser | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.uint8]:
    """Sample with any denoiser D(x, sigma, condition): uint8 images (N, H, W, C).

    shape: (N, C, H, W). Image i depends on seed + i alone. sampling: steps, sampler, guidance;
    default: 50 steps of deterministic DDIM. guide: a worse denoiser, by which sampling.guidance
    then guides (sampling.guide names it, or is left out).
    """
    from dataclasses import replace

    import torch

    from ddpm_cli.core.conditioning.condition import UNCONDITIONAL
    from ddpm_cli.core.data.pixels import to_uint8
    from ddpm_cli.core.diffusion import sampling as samplers
    from ddpm_cli.core.diffusion.samplers import final_state
    from ddpm_cli.core.diffusion.settings import Sampling
    from ddpm_cli.core.runtime.seeds import ImageNoise

    count, *image = shape
    seeds = [seed + i for i in range(count)]
    noise = ImageNoise(seeds, (image[0], image[1], image[2]), torch.device(device))
    condition = UNCONDITIONAL if condition is None else condition
    sampling = sampling or Sampling()
    if guide is not None and sampling.guide is None:
        sampling = replace(sampling, guide="guide")
    x = final_state(samplers.sample(denoiser, noise, condition, sampling, guide=guide))
    return to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()


def config(preset: str = "small", **settings: Any) -> RunConfig:
    """A preset's RunConfig with some settings changed, nested: optimiser={"batch": 32}.

    Raises UsageError for an unknown preset or setting.
    """
    from ddpm_cli.core.config import presets
    from ddpm_cli.core.config.run import RunConfig

    return presets.merged(presets.merged(RunConfig(), presets.preset(preset).settings), settings)


def train(
    config: RunConfig,
    images: Indexed | str | Path,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    out: str | Path,
    size: tuple[int, int] | None = None,
    resume: bool = True,
    device: str = "auto",
    precision: str = "auto",
    log: str | Sequence[str] = (),
    progress: bool = False,
) -> TrainedModel:
    """Train on images, and load the averaged weights.

    images: what `ddpm train --data` takes (a folder, an archive, a data set's name), with its
    classes; or uint8 (N, H, W) or (N, H, W, C), or any object with `__len__` and `__getitem__` that
    gives such images, or pairs of image and label. labels, of arrays: class numbers (N,) from 0, or
    (N, K) of 0 and 1 where an image has any of K classes; classes: their names. out: the run
    directory; an existing run of the same config is resumed. size: (height, width) to train at;
    default: the images' own. log: experiment trackers that follow it, such as "tensorboard". Raises
    DdpmError and its subclasses.
    """
    from ddpm_cli.core.config.machine import MachineConfig
    from ddpm_cli.core.config.paths import expanded
    from ddpm_cli.core.config.request import TrainingRequest
    from ddpm_cli.core.data.sources import open_source
    from ddpm_cli.core.training.library import train_on_source

    reporter = _reporter(progress)
    source, named = _arrays(images, labels, classes), None
    if source is None:
        named = str(images)
        source = open_source(named, reporter, training=True)
    request = TrainingRequest(
        named,
        size=size,
        out=expanded(out),
        resume="auto" if resume else "never",
        log=_names(log),
        stall_timeout=0,
    )
    machine = MachineConfig(device=device, precision=precision)
    return load(train_on_source(config, source, request, machine, reporter), device=device)


def distill(
    teacher: str | Path,
    images: Indexed | str | Path | None = None,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    out: str | Path,
    calls: int | None = None,
    guidance: float | Sequence[float] | None = None,
    resume: bool = True,
    device: str = "auto",
    precision: str = "auto",
    log: str | Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> TrainedModel:
    """Make a model of few steps of a trained model, as `ddpm distill`, and load it.

    teacher: a run directory or weights file. images, labels, classes: as of `train`; default: what
    the teacher was trained on, where that is files. calls: the network calls of a sample that are
    learned, default 2; 0: any, by consistency tuning (Geng et al. 2024, section 3). guidance: of
    the teacher, which is learned: a number, or the least and the largest; None: none. settings:
    other ones than the teacher's, nested: budget={"images": 100_000}. The rest as of `train`.
    Raises DdpmError and its subclasses.
    """
    from ddpm_cli.core.config import paths
    from ddpm_cli.core.config.consistency import parse_guidance, with_calls, with_guidance
    from ddpm_cli.core.config.machine import MachineConfig
    from ddpm_cli.core.config.request import TrainingRequest
    from ddpm_cli.core.config.run import RunConfig
    from ddpm_cli.core.config.serialisation import checked
    from ddpm_cli.core.training.library import distil

    reporter = _reporter(progress)
    source = _arrays(images, labels, classes)
    named = None if images is None else str(images)
    settings = checked(RunConfig, settings, "settings")
    if calls is not None:
        settings = with_calls(settings, calls)
    if guidance is not None:
        settings = with_guidance(settings, parse_guidance(guidance))
    request = TrainingRequest(
        named if source is None else source.name,
        out=paths.expanded(out),
        resume="auto" if resume else "never",
        log=_names(log),
        stall_timeout=0,
        teacher=paths.expanded(teacher),
        settings=settings,
    )
    machine = MachineConfig(device=device, precision=precision)
    return load(distil(request, source, machine, reporter), device=device)


def evaluate(
    real: str | Path | NDArray[np.uint8],
    fake: str | Path | NDArray[np.uint8],
    *,
    metrics: Sequence[str] | None = None,
    weights: str | Path | None = None,
    features: str | Path | None = None,
    protocol: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> Report:
    """FID, KID, precision and recall of fake images against real ones, with their protocol.

    real, fake: uint8 (N, H, W, C), or what `ddpm fid` takes: a folder, .zip, .npz or data set's
    name. features: inception (default), dinov2-l, clip-l336 or a local classifier's file; weights:
    a copy of the network's weights, default: the published ones, downloaded once. metrics: of fid,
    kid, prdc, is and cmmd; default: the usual ones of the network.
    """
    (report,) = evaluate_all(
        real,
        [fake],
        metrics=metrics,
        weights=weights,
        features=features,
        protocol=protocol,
        device=device,
        progress=progress,
    )
    return report


def evaluate_all(
    real: str | Path | NDArray[np.uint8],
    fakes: Sequence[str | Path | NDArray[np.uint8]],
    *,
    metrics: Sequence[str] | None = None,
    weights: str | Path | None = None,
    features: str | Path | None = None,
    protocol: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> list[Report]:
    """Evaluate several fakes, in their order; the features of `real` are extracted once.

    Arguments as `evaluate`. All fakes are checked first; the first that cannot be scored is an
    error.
    """
    from ddpm_cli.core.config.paths import expanded
    from ddpm_cli.core.metrics.evaluate import evaluate_inputs
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings

    settings = ExtractorSettings(expanded(weights) if weights else None, features, protocol)
    reporter = _reporter(progress)
    return evaluate_inputs(real, fakes, settings, metrics=metrics, device=device, reporter=reporter)


def fid(
    real: str | Path | NDArray[np.uint8], fake: str | Path | NDArray[np.uint8], **settings: Any
) -> float:
    """Frechet Inception distance of two sets of images; arguments as `evaluate`.

    With other `features` it is the distance in these, which is no FID.
    """
    value = evaluate(real, fake, metrics=["fid"], **settings).fid
    assert value is not None
    return value


def memorisation(
    fake: str | Path | NDArray[np.uint8],
    train: str | Path | NDArray[np.uint8],
    held_out: str | Path | NDArray[np.uint8],
    *,
    weights: str | Path | None = None,
    features: str | Path | None = None,
    protocol: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> MemorisationReport:
    """What share of fakes are copies of training images, against what held-out images show.

    Images and other arguments as `evaluate`; held_out: images of the same kind that were not
    trained on. `ddpm memorisation` also draws the nearest pairs.
    """
    from ddpm_cli.core.config.paths import expanded
    from ddpm_cli.core.metrics.inputs.opening import open_images
    from ddpm_cli.core.metrics.memorisation.judging import judge
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.runtime.devices import choose_device

    settings = ExtractorSettings(expanded(weights) if weights else None, features, protocol)
    reporter, named = _reporter(progress), {"fake": fake, "train": train, "held_out": held_out}
    inputs = [open_images(images, name, reporter=reporter) for name, images in named.items()]
    extractor = settings.load(choose_device(device), reporter)
    return judge(inputs[0], inputs[1], inputs[2], extractor, reporter)[0]


def _arrays(
    images: Indexed | str | Path | None,
    labels: Sequence[Any] | NDArray[Any] | None,
    classes: Sequence[str] | None,
) -> Source | None:
    """Images as an object, with their labels; None for those that have a name."""
    from ddpm_cli.core.data.arrays import ArraySource
    from ddpm_cli.core.errors import UsageError

    if images is not None and not isinstance(images, str | Path):
        return ArraySource(images, labels, classes)
    if labels is not None or classes is not None:
        what = "no images are given" if images is None else f"{images} has its own, or none"
        raise UsageError(f"labels and classes are for arrays: {what}")
    return None


def _names(log: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(log.split(",") if isinstance(log, str) else log)


def _reporter(progress: bool) -> Reporter:
    if progress:
        from ddpm_cli.cli.console import Terminal

        return Terminal()
    from ddpm_cli.core.runtime.reporting import Silent

    return Silent()
