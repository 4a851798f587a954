"""The settings of a run, grouped, with those that its preset does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_cli.core.config.fields import Setting, settings_of
from ddpm_cli.core.config.presets import PRESETS, merged
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.runs.differences import Difference

_TITLES = {
    "data": "Data",
    "network": "Network",
    "diffusion": "Diffusion",
    "objective": "Objective",
    "optimiser": "Optimiser",
    "budget": "Budget",
    "origin": "Origin",
}
_OTHERS = "Saving and validation"
_BY_THE_DATA = {  # what the images decide, or identifies them
    "data.source", "data.fingerprint", "data.labels", "data.captions", "data.examples",
    "data.example_labels", "data.combinations", "data.given_fingerprint", "data.given_data",
    "network.size", "network.channels", "network.classes", "network.multi_label",
}  # fmt: skip
_LONGEST = 300  # characters of a value


@dataclass(frozen=True)
class Entry:
    """A setting as the page shows it."""

    name: str  # "optimiser.batch"
    option: str  # "" where only config files have it
    help: str
    unit: str
    value: str
    usual: str  # the preset's, or the default
    differs: bool


@dataclass(frozen=True)
class Group:
    """Settings that belong together."""

    title: str
    entries: tuple[Entry, ...]


def groups(config: RunConfig, preset: str) -> list[Group]:
    """All settings, in groups. Those differ that the preset ("": the defaults) has otherwise."""
    usual = merged(RunConfig(), PRESETS[preset].settings) if preset in PRESETS else RunConfig()
    found: dict[str, list[Entry]] = {}
    for setting in settings_of(RunConfig):
        title = _TITLES[setting.path[0]] if len(setting.path) > 1 else _OTHERS
        found.setdefault(title, []).append(_entry(setting, config, usual))
    return [Group(title, tuple(entries)) for title, entries in found.items()]


def differing(found: Sequence[Group]) -> list[Entry]:
    """Those of all groups that differ."""
    return [entry for group in found for entry in group.entries if entry.differs]


@dataclass(frozen=True)
class Row:
    """A setting that runs do not have in common."""

    name: str  # its option, or else its name in config.json
    help: str
    values: tuple[str, ...]  # of the runs


def rows(differences: Sequence[Difference]) -> list[Row]:
    """Differences of runs as the page shows them."""
    meanings = {setting.name: setting.info.help for setting in settings_of(RunConfig)}
    return [
        Row(one.option or one.name, meanings.get(one.name, ""), tuple(map(written, one.values)))
        for one in differences
    ]


def _entry(setting: Setting, config: RunConfig, usual: RunConfig) -> Entry:
    value, base = _value(config, setting.path), _value(usual, setting.path)
    differs = value != base and setting.name not in _BY_THE_DATA
    option = "" if setting.info.panel is None else setting.option
    info = setting.info
    return Entry(setting.name, option, info.help, info.unit, written(value), written(base), differs)


def _value(config: Any, path: Sequence[str]) -> Any:
    for name in path:
        config = getattr(config, name, None)
    return config


def written(value: Any) -> str:
    """A value as people write it."""
    if value is None or value == "" or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        value = ", ".join(map(written, value))
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
