"""Where each setting of a planned training comes from: an option, a file, a preset, the data, …"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ddpm_cli.core.config.fields import settings_of
from ddpm_cli.core.config.preset_choice import Choice
from ddpm_cli.core.config.presets import merged, preset
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.training.preparation.saved_settings import FROM_DATA, Layer, SavedSettings

DEFAULT, DATA, PRESET, OPTION = "default", "data", "preset", "option"

# Settings that follow from another one, and so come from where that one does.
_FOLLOWING = {
    "network.augmented": "data.augment",
    "network.given_channels": "data.given",
    "network.given_noise": "data.given",
}
# Settings of a run that options of a call decide: the option's field, and as it is written.
_BY_REQUEST = {
    "data.source": (("data", "--data"),),
    "network.size": (("size", "--size"), ("resize_to_power", "--resize-to-power")),
    "network.channels": (("channels", "--channels"),),
    "network.classes": (("conditional", "--conditional/--unconditional"),),
    "network.multi_label": (("conditional", "--conditional/--unconditional"),),
    "network.text": (("captions", "--captions/--no-captions"),),
    "data.captions": (("captions", "--captions/--no-captions"),),
    "origin": (("init_from", "--init-from"),),
}
_OF_IMAGES = {"network.size", "network.channels"} | {
    f"{part}.{name}" for part, names in FROM_DATA.items() for name in names
}

_BENEATH = (DEFAULT, PRESET)  # sources that say nothing of the images


class Origin(NamedTuple):
    """A setting's value, and where it comes from."""

    value: Any
    source: str  # "option --batch", "file FILE", "preset NAME", "run RUN", "data", "default", …
    usual: bool = False  # the preset alone, or the run that is continued, has the same value


def trace(
    config: RunConfig, request: TrainingRequest, saved: SavedSettings, choice: Choice
) -> dict[str, Origin]:
    """The origin of every setting of a planned run, by its dotted name.

    Settings that follow from others (a schedule's parameterisation) come from where those do.
    """
    values, sources = _flat(RunConfig()), dict[str, str]()
    current = RunConfig()
    for layer in _layers(request, saved, choice):
        try:
            current = merged(current, layer.settings)
        except UsageError:  # only together with what follows from the data do they make a config
            break
        said, before, values = _paths(layer.settings), values, _flat(current)
        changed = {name for name, value in values.items() if value != before.get(name)}
        sources |= dict.fromkeys(said | changed, layer.origin)
    options = {setting.name: setting.option for setting in settings_of(RunConfig)}
    by_option = _paths(request.settings)
    found, usual = {}, _flat(saved.base or merged(RunConfig(), _of_preset(choice)))
    for name, value in _flat(config).items():
        source = sources.get(name, DEFAULT)
        if name in by_option:
            source = f"{OPTION} {options[name].split('/')[0]}"
        elif asked := _asked(request, name):
            source = f"{OPTION} {asked}"
        elif value != values.get(name) or (name in _OF_IMAGES and source.startswith(_BENEATH)):
            source = DATA
        found[name] = Origin(value, source, name in usual and usual[name] == value)
    for name, other in _FOLLOWING.items():
        found[name] = found[name]._replace(source=found[other].source)
    return found


def without_preset(found: Mapping[str, Origin]) -> bool:
    """Whether no setting is a preset's or a default: a file, options and the data say them all."""
    optional = ("origin",)  # initial weights, which most runs do not have
    return not any(o.source.startswith(_BENEATH) for n, o in found.items() if n not in optional)


def _layers(request: TrainingRequest, saved: SavedSettings, choice: Choice) -> Iterator[Layer]:
    """The settings beneath the result, each over the one before."""
    if saved.base is None:
        yield Layer(f"{PRESET} {choice.preset}", _of_preset(choice))
        yield Layer(f"{PRESET} {choice.preset}, {choice.because}", choice.settings)
    yield from saved.layers
    yield Layer("follows from the options", request.settings)


def _of_preset(choice: Choice) -> dict[str, Any]:
    return preset(choice.preset).settings


def _asked(request: TrainingRequest, name: str) -> str | None:
    """The option of the call that decides a setting, as it is written; None where none does."""
    parts = name.split(".")
    while parts and ".".join(parts) not in _BY_REQUEST:
        parts.pop()
    for field, option in _BY_REQUEST.get(".".join(parts), ()):
        value = getattr(request, field)
        if value is not None:
            positive, _, negative = option.partition("/")
            return negative if value is False else positive
    return None


def _paths(settings: dict[str, Any], path: Sequence[str] = ()) -> set[str]:
    """The dotted names in nested settings."""
    found: set[str] = set()
    for name, value in settings.items():
        place = (*path, name)
        found |= _paths(value, place) if isinstance(value, dict) else {".".join(place)}
    return found


def _flat(config: RunConfig) -> dict[str, Any]:
    """Every setting that is used by its dotted name; a part that is left out is one, None."""
    found: dict[str, Any] = {}
    _add(config, (), found)
    return found


def _add(config: Any, path: Sequence[str], found: dict[str, Any]) -> None:
    for field in dataclasses.fields(config):
        if field.name in config.unused:
            continue
        value, place = getattr(config, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            _add(value, place, found)
        else:
            found[".".join(place)] = value
