"""What a call of `ddpm train` would do, settled before anything is written."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.config.presets import SYSTEMS, default_preset, preset
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet, parameter_count
from ddpm_cli.core.runtime.run_directory import RUNS, RunDirectory
from ddpm_cli.core.training import captioning, initial_weights
from ddpm_cli.core.training.budget import Clock
from ddpm_cli.core.training.state import Progress

_FOLLOW_DATA = {  # settings that a --config file does not bring to other pictures
    "network": ("size", "channels", "classes"),
    "data": ("source", "fingerprint", "captions", "examples", "example_labels"),
}


@dataclass(frozen=True)
class TrainingRequest:
    """What the user asked for; None where the preset or the data decide."""

    data: str = "shapes"
    preset: str | None = None
    config: Path | None = None  # a file of settings over the preset's
    size: tuple[int, int] | None = None
    channels: int | None = None
    conditional: bool | None = None
    captions: bool | None = None
    out: Path | None = None
    resume: str = "auto"
    init_from: Path | None = None  # whose weights a new run starts from
    skip_bad: bool = False
    time_limit: float | None = None  # seconds from the start of the command
    stall_timeout: float = 600.0  # seconds without a step after which a process ends; 0: never
    settings: dict[str, Any] = field(default_factory=dict)  # over the preset's and the file's


@dataclass(frozen=True)
class TrainingPlan:
    """A run that could start: its pictures' source, its config and its directory."""

    source: Source
    captions: Captions | None  # those that are learned
    config: RunConfig
    preset: str
    out: Path

    @property
    def parameters(self) -> int:
        """The network's size."""
        with torch.device("meta"):
            return parameter_count(UNet(self.config.network))

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` reports."""
        config = self.config
        clock = Clock(config, len(self.source) - config.data.holdout, Progress())
        batch = config.optimiser.batch
        return {
            "out": str(self.out),
            "preset": self.preset,
            "parameters": self.parameters,
            "pictures": len(self.source),
            "classes": list(config.network.classes),
            "no_classes_because": _astray(self.source) or None,
            "captions": 0 if self.captions is None else len(self.captions.sentences),
            "captions_from": None if self.captions is None else self.captions.origin,
            "caption": None if self.captions is None else self.captions.sentences[0],
            "text_encoder": None if config.network.text is None else config.network.text.encoder,
            "size": list(config.network.size),
            "channels": config.network.channels,
            "batch": batch,
            "images": clock.images,
            "steps": clock.images and clock.images // batch,
            "epochs": clock.images and clock.images / (len(self.source) - config.data.holdout),
            "minutes": config.budget.minutes,
        }


def plan(request: TrainingRequest) -> TrainingPlan:
    """Settle everything about a run before anything is written: data, preset, file, options."""
    source = open_source(request.data)
    channels = request.channels or source.native_channels
    name = request.preset or default_preset(
        source.name, channels, request.size or source.native_size
    )
    chosen = preset(name)

    # The preset, under the weights to start from, under the file, under the options.
    config, size = updated(RunConfig(), chosen.settings), request.size or source.native_size
    if request.init_from is not None:
        fallback = None if request.resume == "never" else request.out
        config = _over(config, initial_weights.settings(request.init_from, fallback))
        size = request.size or config.network.size
        channels = request.channels or config.network.channels
    if request.config is not None:
        config = _over(config, _settings_in(request.config), str(request.config))
    shown, told = _what_is_shown(request, config, source, unasked=not chosen.unconditional)
    settings = dict(request.settings)
    for part, follows in shown.items():
        settings[part] = settings.get(part, {}) | follows
    settings["network"] |= {"size": list(size), "channels": channels}
    if settings.get("budget"):  # one given limit replaces all of the preset's
        none = dict.fromkeys(("images", "steps", "epochs", "minutes"))
        settings["budget"] = none | settings["budget"]
    config = _over(config, settings)
    config = updated(config, {"network": {"augmented": config.data.augment > 0}})

    _check(config, len(source))
    out = request.out or RUNS / _name(source.name, config.network.size)
    resumes = RunDirectory(out).config.exists() and request.resume != "never"
    if request.init_from is not None and not resumes:
        initial_weights.read(request.init_from, config.network)  # refuses those of another network
    return TrainingPlan(source, told, config, name, out)


def _what_is_shown(
    request: TrainingRequest, config: RunConfig, source: Source, *, unasked: bool
) -> tuple[dict[str, dict[str, Any]], Captions | None]:
    """The settings that follow the pictures, their classes and captions; and those captions.

    unasked: whether classes, or captions beside the pictures, are learned without being asked for.
    """
    data, network = request.settings.get("data", {}), request.settings.get("network", {})
    if request.captions is False and data.get("templates"):
        raise UsageError("--caption makes captions, and --no-captions learns none")
    if request.conditional and not source.classes:
        why = _astray(source) or f"{request.data} has no class folders"
        raise UsageError(f"--conditional, but {why}")
    # A file's templates stay behind where the pictures have no classes to name.
    templates = data.get("templates", config.data.templates if source.classes else ())
    wanted = False if request.captions is None and not unasked else request.captions
    told = captioning.learned(source, wanted, templates)
    if told is None and request.init_from is not None and config.network.text is not None:
        raise UsageError(
            f"--init-from {request.init_from}: those weights read captions, and none are learned; "
            "give --captions, or --caption to make some of class names"
        )
    conditional = (unasked and not told) if request.conditional is None else request.conditional
    settings = {
        "network": {
            "classes": list(source.classes) if conditional else [],
            **captioning.network_settings(config.network, network, told),
        },
        "data": {
            "source": request.data,
            "fingerprint": source.fingerprint,
            **captioning.data_settings(told, templates, source.labels if conditional else None),
        },
    }
    return settings, told


def _astray(source: Source) -> str:
    """Why pictures of which most lie in folders have no classes; empty where nothing is amiss."""
    lost = source.unclassified
    if not lost:
        return ""
    lie = "lies" if len(lost) == 1 else "lie"
    named = ", ".join(lost[:3]) + (", …" if lost[3:] else "")
    return f"{len(lost)} of {len(source)} images {lie} in no class folder ({named})"


def _over(config: RunConfig, settings: dict[str, Any], where: str = "config") -> RunConfig:
    """The config under these settings; a schedule among them brings its system's along."""
    diffusion = settings.get("diffusion")
    schedule = diffusion.get("schedule") if isinstance(diffusion, dict) else None
    return updated(updated(config, SYSTEMS.get(str(schedule), {})), settings, where)


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings of a JSON (config.json of a run, say) or TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise DdpmError(f"--config {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"--config {path} is neither JSON nor TOML: {error}") from error
    if not isinstance(settings, dict):
        raise DdpmError(f"--config {path} should hold named settings, like a run's config.json")
    for part, names in _FOLLOW_DATA.items():
        if isinstance(settings.get(part), dict):
            settings[part] = {k: v for k, v in settings[part].items() if k not in names}
    return settings


def _check(config: RunConfig, pictures: int) -> None:
    config.check()
    schedules.from_config(config.diffusion)  # refuses one that leaves no signal
    if not config.budget.given:
        raise UsageError("no budget: give --images, --steps, --epochs or --minutes")
    if config.data.holdout >= pictures:
        raise UsageError(
            f"--holdout {config.data.holdout} leaves nothing of {pictures} images to train on"
        )


def _name(source: str, size: tuple[int, int]) -> str:
    return f"{source}-{size[0]}" if size[0] == size[1] else f"{source}-{size[0]}x{size[1]}"
