"""Settings that a training takes from a run, from initial weights and from a --config file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.config import paths
from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.config.presets import merged
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import checked, from_dict, to_dict
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.content import describe_file
from ddpm_cli.core.runtime.files import parse_json, read_text
from ddpm_cli.core.runtime.run_directory import RunDirectory, run_of_snapshot
from ddpm_cli.core.training import initial_weights
from ddpm_cli.core.training.preparation import distilling

# What the data decide. Another --data overrules what a file says of its own images.
FROM_DATA = {
    "network": ("classes", "multi_label", "text", "augmented", "given_channels", "given_noise"),
    "data": (
        *("fingerprint", "attributes", "labels", "example_labels", "combinations"),
        *("captions", "templates", "examples", "given_fingerprint"),
    ),
}
_OF_CLASSES = ("network.classes", "network.multi_label", "data.labels")
_OF_EXAMPLES = ("data.example_labels", "data.combinations")
_OF_CAPTIONS = ("data.captions", "data.templates", "data.examples", *_OF_EXAMPLES)


class Layer(NamedTuple):
    """Settings that come from one place."""

    origin: str  # in words: "run RUN", "weights FILE", "file FILE"
    settings: dict[str, Any]


@dataclass(frozen=True)
class SavedSettings:
    """The settings in layers, each over the one before: a run's, the initial weights', a file's."""

    run: RunDirectory | None  # that is continued
    base: RunConfig | None  # its settings, which take the place of a preset's
    file: Path | None
    init_from: Path | None  # where weights start from, unless a snapshot is resumed from
    recorded: WeightsOrigin | None  # the same, where a config names it rather than an option
    layers: tuple[Layer, ...]

    def over(self, config: RunConfig) -> RunConfig:
        """The config under these settings. Raises DdpmError or UsageError."""
        *others, last = [layer.settings for layer in self.layers] or [{}]
        for layer in others:
            config = merged(config, layer)
        try:
            return merged(config, last)
        except UsageError as error:
            if self.file is None:
                raise
            raise UsageError(f"--config {self.file}: {error}") from error

    def get(self, part: str, name: str) -> Any:
        """A setting as the last layer has it that has it; None if none does."""
        parts = [layer.settings.get(part, {}) for layer in reversed(self.layers)]
        return next((settings[name] for settings in parts if name in settings), None)

    @property
    def where(self) -> str:
        """What the settings are of, for messages."""
        if self.file is not None:
            return f"--config {self.file}"
        return str(self.init_from if self.run is None else self.run.path)

    def overruled_images(self, request: TrainingRequest) -> str | None:
        """The images that the settings name, where --data names others."""
        source = self.get("data", "source")
        return source if request.data not in (None, source) else None

    def check_against_data(self, config: RunConfig, request: TrainingRequest) -> None:
        """Raise DdpmError that names what the file says and the data do not allow.

        Everything else in it is in the config, unless an option replaces it.
        """
        if self.file is None:
            return
        said, found = self.layers[-1].settings, to_dict(config)
        overruled = _overruled(request)
        if self.overruled_images(request) is not None:
            overruled |= {f"{part}.{name}" for part, names in FROM_DATA.items() for name in names}
        for part, names in FROM_DATA.items():
            for name in names:
                key = f"{part}.{name}"
                if key in overruled or name not in said.get(part, {}):
                    continue
                if key == "data.fingerprint" and said[part][name] != found[part][name]:
                    raise DdpmError(
                        f"--config {self.file}: {key} is not that of the images in "
                        f"{config.data.source}, which have changed: give --data "
                        f"{config.data.source} to train on them as they are"
                    )
                for where, value, actual in _differing(key, said[part][name], found[part][name]):
                    if where in overruled:
                        continue
                    raise DdpmError(
                        f"--config {self.file}: {where} {_text(value)} cannot be kept: the data "
                        f"make it {_text(actual)}; remove it from the file, or give its own --data"
                    )


def read(request: TrainingRequest) -> SavedSettings:
    """What a request takes from a run that it goes on with, from --init-from and from --config."""
    run = _run_continued(request)
    document = {} if request.config is None else read_file(request.config)
    origin = document.pop("origin", None)
    if origin is not None:
        origin = from_dict(WeightsOrigin, origin, f"{request.config}.origin")
    elif run is not None:
        origin = run.read_config().origin
    init_from = request.init_from
    if init_from is None and origin is not None:
        init_from = Path(origin.path)
    base = None if run is None or request.preset is not None else run.read_config()
    layers: list[Layer] = []
    of_run = "" if run is None else f"run {run.path}"
    if run is None and request.teacher is not None:
        given, data = _nested_over(document, request.settings), document.get("data", {})
        named = request.data or data.get("source")
        base = distilling.student(request.teacher, given, named)
        init_from = request.teacher
        of_run = f"teacher {request.teacher}"
    if base is not None:
        layers = [Layer(of_run, to_dict(base))]
    else:
        if run is not None:
            layers.append(Layer(of_run, _of_images(run.read_config())))
        if init_from is not None:
            fallback = None if request.resume == "never" else request.out
            settings = initial_weights.settings(init_from, fallback)
            layers.append(Layer(f"weights {init_from}", settings))
    if request.config is not None:
        layers.append(Layer(f"file {request.config}", _complete(document, request.config)))
    recorded = origin if request.init_from is None else None
    return SavedSettings(run, base, request.config, init_from, recorded, tuple(layers))


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a JSON (a run's config.json, say) or TOML file.

    Names and types are checked. Raises DdpmError that names the file, and the setting at fault.
    """
    where = f"--config {path}"
    try:
        text = read_text(path)
        toml = path.suffix == ".toml"
        settings = tomllib.loads(text) if toml else parse_json(text)
    except OSError as error:
        settings_file = path / "config.json"
        inside = f"; give {settings_file}" if settings_file.is_file() else ""
        if isinstance(error, FileNotFoundError):
            raise DdpmError(f"{where}: no such file{paths.near(path)}") from error
        raise DdpmError(f"{where}: {(error.strerror or str(error)).lower()}{inside}") from error
    except (ValueError, RecursionError) as error:
        what = describe_file(path)
        if what in (None, "a text file"):
            kind = "TOML" if path.suffix == ".toml" else "JSON"
            other = path.suffix not in (".toml", ".json")
            what = f"{'neither JSON nor TOML' if other else f'no {kind}'} ({error})"
        raise DdpmError(f"{where} is {what}") from error
    if not isinstance(settings, dict):
        raise DdpmError(f"{where} should hold named settings, like a run's config.json")
    if "_class_name" in settings:
        raise DdpmError(f"{where} is a config of diffusers; ddpm convert imports its model")
    return checked(RunConfig, settings, str(path))


def _complete(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A run's config.json with the settings that its version did not have yet, as they were then.

    Those are the defaults; a preset would have others. What is of the data stays with the data.
    """
    if "fingerprint" not in document.get("data", {}):  # a file of some settings
        return document
    whole = to_dict(from_dict(RunConfig, document, str(path)))
    for part, names in FROM_DATA.items():
        for name in names:
            if name not in document.get(part, {}):
                del whole[part][name]
    return whole


def _nested_over(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under others."""
    both = settings | more
    for name in settings.keys() & more.keys():
        if isinstance(settings[name], dict) and isinstance(more[name], dict):
            both[name] = _nested_over(settings[name], more[name])
    return both


def _run_continued(request: TrainingRequest) -> RunDirectory | None:
    """The run that --out or --resume names and whose settings hold where none are given."""
    if request.resume == "never":
        return None
    if request.out is not None and RunDirectory(request.out).config.is_file():
        return RunDirectory(request.out)
    return None if request.resume == "auto" else run_of_snapshot(Path(request.resume))


def _of_images(config: RunConfig) -> dict[str, Any]:
    """Which images a run learns and how it takes them, which no preset says."""
    network, data = to_dict(config.network), to_dict(config.data)
    return {
        "network": {name: network[name] for name in ("size", "channels", "classes")},
        "data": {
            name: data[name]
            for name in (
                *("source", "attributes", "captions", "templates"),
                *("given", "given_data", "given_noise"),
            )
        },
    }


def _overruled(request: TrainingRequest) -> set[str]:
    """Settings that follow from the data, and that options replace."""
    data, network = request.settings.get("data", {}), request.settings.get("network", {})
    overruled = {f"network.text.{name}" for name in network.get("text", {})}
    if {"given", "given_data", "given_noise"} & data.keys() or "channels" in network:
        overruled |= {"network.given_channels", "network.given_noise", "data.given_fingerprint"}
    if "augment" in data:
        overruled |= {"network.augmented"}
    if request.conditional is not None:
        overruled |= {*_OF_CLASSES, *_OF_EXAMPLES}
    if "attributes" in data:
        overruled |= {"data.attributes", *_OF_CLASSES, *_OF_EXAMPLES}
    if request.captions is not None or "templates" in data:
        overruled |= {"network.text", *_OF_CLASSES, *_OF_CAPTIONS}
    if request.data is not None:
        overruled |= {"data.fingerprint"}
    return overruled


def _differing(key: str, said: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """What differs of a setting, or of the settings within it, with both values."""
    if isinstance(said, dict) and isinstance(found, dict):
        for name, value in said.items():
            yield from _differing(f"{key}.{name}", value, found[name])
    elif said != found:
        yield key, said, found


def _text(value: Any) -> str:
    return shortened([*value] if isinstance(value, tuple) else value)
