"""What a call of `ddpm train` would do: data, preset, file and options merged into a plan."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.conditioning.class_names import is_number
from ddpm_cli.core.conditioning.requests import ConditionPlan, default_plan
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.presets import default_preset, merged, preset
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.sources import Source, open_source, with_class_order
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet, parameter_count
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RUNS, RunDirectory
from ddpm_cli.core.training import captioning, initial_weights
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.state import Progress

_OWN_TO_THE_DATA = {  # settings that a --config file does not bring to other images
    "network": ("size", "channels", "classes"),
    "data": ("source", "fingerprint", "labels", "captions", "examples", "example_labels"),
}


@dataclass(frozen=True)
class TrainingPlan:
    """A run that could start: the source of its images, its config and its directory."""

    source: Source
    captions: Captions | None  # those that are learned
    config: RunConfig
    preset: str
    out: Path
    notices: tuple[str, ...] = ()  # what of the data is left out or not read, one line each

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        with torch.device("meta"):
            return parameter_count(UNet(self.config.network))

    def default_conditions(self) -> ConditionPlan:
        """What previews show: the classes or example captions in turn."""
        return default_plan(self.config)

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` reports."""
        config = self.config
        training_images = len(self.source) - config.data.holdout
        budget = BudgetTracker(config, training_images, Progress())
        batch = config.optimiser.batch
        return {
            "out": str(self.out),
            "preset": self.preset,
            "parameters": self.parameters,
            "pictures": len(self.source),
            "classes": list(config.network.classes),
            "no_classes_because": self.source.why_no_classes or None,
            "labels": _labels_in_words(config.network.classes),
            "notices": list(self.notices),
            "captions": 0 if self.captions is None else len(self.captions.sentences),
            "captions_from": None if self.captions is None else self.captions.origin,
            "caption": None if self.captions is None else self.captions.sentences[0],
            "text_encoder": None if config.network.text is None else config.network.text.encoder,
            "size": list(config.network.size),
            "channels": config.network.channels,
            "batch": batch,
            "images": budget.images,
            "steps": budget.images and budget.images // batch,
            "epochs": budget.images and budget.images / training_images,
            "minutes": config.budget.minutes,
            "clipped_betas": _clipped_betas(config.diffusion),
        }


def plan_training(request: TrainingRequest, reporter: Reporter) -> TrainingPlan:
    """Merge, each over the one before: defaults, preset, initial weights, file, options.

    Nothing is written. Raises DdpmError or UsageError where they do not make a run.
    """
    source = open_source(request.data, reporter, training=True)
    channels = request.channels or source.native_channels
    size = request.size or source.native_size
    usual = "shapes" if isinstance(source, Shapes) else default_preset(channels, size)
    name = request.preset or usual
    chosen = preset(name)

    config = merged(RunConfig(), chosen.settings)
    if request.init_from is not None:
        fallback = None if request.resume == "never" else request.out
        config = merged(config, initial_weights.settings(request.init_from, fallback))
        size = request.size or config.network.size
        channels = request.channels or config.network.channels
    if request.config is not None:
        config = merged(config, _read_settings(request.config), str(request.config))
    config, captions = _with_options(
        config, request, source, size, channels, learn_conditions=not chosen.unconditional
    )

    _check(config, len(source))
    out = request.out or RUNS / _run_name(source.name, config.network.size)
    resumes = RunDirectory(out).config.exists() and request.resume != "never"
    if request.init_from is not None and not resumes:
        initial_weights.read(request.init_from, config.network)  # refuses another network's
    notices = _notices(request, source, captions)
    plan = TrainingPlan(source, captions, config, name, out, notices)
    return _with_class_order_of_run(plan) if resumes else plan


def _notices(
    request: TrainingRequest, source: Source, captions: Captions | None
) -> tuple[str, ...]:
    """What of the data is left out or not read."""
    beside = "" if request.captions is False else source.unread(captions)
    read = () if captions is None else captions.notices
    return tuple(filter(None, (*source.notices, *read, beside)))


def _with_class_order_of_run(plan: TrainingPlan) -> TrainingPlan:
    """The plan with the class labels of the run that is there, if its classes are the same names.

    Earlier versions sorted names that are numbers as text.
    """
    names = RunDirectory(plan.out).read_config().network.classes
    ours = plan.config.network.classes
    if names == ours or sorted(names) != sorted(ours):
        return plan
    examples = [names.index(ours[label]) for label in plan.config.data.example_labels]
    order = {"network": {"classes": list(names)}, "data": {"example_labels": examples}}
    source, config = with_class_order(plan.source, names), updated(plan.config, order)
    return replace(plan, source=source, config=config)


def plan_on_source(
    config: RunConfig, source: Source, out: Path, size: tuple[int, int] | None
) -> TrainingPlan:
    """A run of this config on a source given as an object; its classes are learned, if it has any.

    Raises DdpmError or UsageError where they do not make a run.
    """
    network = {
        "size": list(size or source.native_size),
        "channels": source.native_channels,
        "classes": list(source.classes),
        "augmented": config.data.augment > 0,
        **captioning.network_settings(config.network, {}, None),
    }
    data = {"source": source.name, "fingerprint": source.fingerprint}
    data |= captioning.data_settings(None, (), None)
    config = updated(config, {"network": network, "data": data})
    _check(config, len(source))
    return TrainingPlan(source, None, config, "", out)


def _with_options(
    config: RunConfig,
    request: TrainingRequest,
    source: Source,
    size: tuple[int, int],
    channels: int,
    *,
    learn_conditions: bool,
) -> tuple[RunConfig, Captions | None]:
    """The config under the request's options and what follows from the data; captions to learn."""
    options = dict(request.settings)
    follows, captions = _conditions(
        request, config, source, options, learn_conditions=learn_conditions
    )
    for part, settings in follows.items():
        options[part] = options.get(part, {}) | settings
    options["network"] |= {"size": list(size), "channels": channels}
    config = merged(config, options)
    augmented = {"network": {"augmented": config.data.augment > 0}}
    return updated(config, augmented), captions


def _conditions(
    request: TrainingRequest,
    config: RunConfig,
    source: Source,
    options: dict[str, Any],
    *,
    learn_conditions: bool,
) -> tuple[dict[str, dict[str, Any]], Captions | None]:
    """The settings that follow from the data's classes and captions; and those captions.

    learn_conditions: whether classes, or captions beside the images, are learned by default.
    """
    data, network = options.get("data", {}), options.get("network", {})
    if request.captions is False and data.get("templates"):
        raise UsageError("--caption makes captions, and --no-captions learns none")
    if request.conditional and not source.classes:
        why = source.why_no_classes or f"{request.data} has no class folders"
        raise UsageError(f"--conditional, but {why}")
    # Templates of a file are left out where the images have no classes to name.
    templates = data.get("templates", config.data.templates if source.classes else ())
    requested = request.captions
    if requested is None and data.get("templates"):
        requested = True
    elif requested is None and not learn_conditions:
        requested = False
    captions = captioning.captions_to_learn(source, requested, templates)
    if captions is None and request.init_from is not None and config.network.text is not None:
        raise UsageError(
            f"--init-from {request.init_from}: those weights read captions, and none are learned; "
            "give --captions, or --caption to make some of class names"
        )
    conditional = request.conditional
    if conditional is None:
        conditional = learn_conditions and captions is None
    labels = source.labels if conditional else None
    return {
        "network": {
            "classes": list(source.classes) if conditional else [],
            **captioning.network_settings(config.network, network, captions),
        },
        "data": {
            "source": request.data,
            "fingerprint": source.fingerprint,
            "labels": source.label_table if conditional else "",
            **captioning.data_settings(captions, templates, labels),
        },
    }, captions


def _clipped_betas(diffusion: DiffusionConfig) -> str | None:
    """A sentence where the schedule's betas are cut, as `inspect-schedule` says it."""
    beta = schedules.from_config(diffusion).beta
    return schedules.clipping_notice(diffusion.schedule, beta, diffusion.beta_cap)


def _labels_in_words(classes: Sequence[str]) -> str | None:
    """Which label each class has, where numbers as names could be taken for labels."""
    if not any(map(is_number, classes)):
        return None
    if list(classes) == [str(label) for label in range(len(classes))]:
        return f"the label of a class is its name, 0 to {len(classes) - 1}"
    named = [f"{label} is {name}" for label, name in enumerate(classes)]
    return f"label {', '.join(named[:12])}{', …' if named[12:] else ''}"


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings in a JSON (a run's config.json, say) or TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise DdpmError(f"--config {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"--config {path} is neither JSON nor TOML: {error}") from error
    if not isinstance(settings, dict):
        raise DdpmError(f"--config {path} should hold named settings, like a run's config.json")
    for part, names in _OWN_TO_THE_DATA.items():
        if isinstance(settings.get(part), dict):
            settings[part] = {k: v for k, v in settings[part].items() if k not in names}
    return settings


def _check(config: RunConfig, images: int) -> None:
    config.check()
    schedules.from_config(config.diffusion)  # refuses one that leaves no signal
    if not config.budget.is_limited:
        raise UsageError("no budget: give --images, --steps, --epochs or --minutes")
    if config.data.holdout >= images:
        raise UsageError(
            f"--holdout {config.data.holdout} leaves nothing of {images} images to train on"
        )


def _run_name(source: str, size: tuple[int, int]) -> str:
    return f"{source}-{size[0]}" if size[0] == size[1] else f"{source}-{size[0]}x{size[1]}"
