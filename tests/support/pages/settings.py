"""The tables of docs/settings.md: every setting, by the panels of the help."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections import Counter
from collections.abc import Sequence

from ddpm_cli.core.config.fields import Setting, settings_of
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.settings import Sampling
from tests.support.pages.text import anchor, cell, code, table

CONFIGS = {
    "A run: config.json and --config files": RunConfig,
    "A call of ddpm train": TrainingRequest,
    "The machine": MachineConfig,
    "Sampling": Sampling,
}
HEAD = ("setting", "default", "option", "meaning")


def tables() -> str:
    """A section for each config dataclass, with a table for each panel; links to them first."""
    sections = []
    for title, kind in CONFIGS.items():
        sections.append(f"## {title}\n\n{(inspect.getdoc(kind) or '').splitlines()[0]}\n\n")
        panels = by_panel(list(settings_of(kind)))
        for name, settings in panels.items():
            sections.append(f"### {name}\n\n" if len(panels) > 1 else "")
            sections.append(table(HEAD, map(row, settings)) + "\n")
    return "".join(sections)


def by_panel(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """Settings by the help's panel; one without an option where most of its part's are."""
    panels: dict[str, list[Setting]] = {}
    for setting in settings:
        name = setting.info.panel or _panel_of_part(setting.path[:-1], settings)
        panels.setdefault(name, []).append(setting)
    return panels


def _panel_of_part(part: tuple[str, ...], settings: Sequence[Setting]) -> str:
    """The panel of most settings of a part; where none has one, of the part that it is in."""
    found = Counter(
        other.info.panel
        for other in settings
        if other.path[:-1] == part and other.info.panel is not None
    )
    if found or not part:
        return found.most_common(1)[0][0] or "" if found else ""
    return _panel_of_part(part[:-1], settings)


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all settings on the page."""
    return tuple(known.name for kind in CONFIGS.values() for known in settings_of(kind))


def place(setting: Setting) -> str:
    """Where the page has a setting, also one that a command takes out of a part of the run."""
    if setting.name in names():
        return setting.name
    return next(name for name in names() if name.endswith(f".{setting.name}"))


def row(setting: Setting) -> tuple[str, str, str, str]:
    """A setting's name, default, option and meaning."""
    options = setting.option.split("/") if setting.info.panel is not None else []
    default = setting.info.default_text or as_json(setting.default)
    unit = f" ({setting.info.unit})" if setting.info.unit else ""
    name = anchor(setting.name) + code(setting.name)
    return name, default, ", ".join(map(code, options)), cell(setting.info.help + unit)


def as_json(value: object) -> str:
    """A default as a config file writes it."""
    return "infinity" if value == math.inf else code(json.dumps(value, default=str))
