"""A run's settings as TOML with comments, which --config reads again.

Python's library reads TOML and writes none. TOML has no null: a setting without a value is "none",
which no setting that may be without one has as its value.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_cli.core.config.fields import Setting, SettingInfo, hints_of, in_a_line, settings_of
from ddpm_cli.core.config.serialisation import NO_VALUE
from ddpm_cli.core.errors import UsageError

_WIDTH = 96  # columns


def as_toml(config: Any, remarks: Mapping[str, str] | None = None) -> str:
    """The settings of a config dataclass, each below its help, unit, option and default.

    remarks: by a setting's dotted name, what else is said of its value. Raises UsageError for a
    text that TOML cannot hold.
    """
    declared = {setting.path: setting for setting in settings_of(type(config))}
    return "\n".join(_table(config, (), declared, remarks or {})) + "\n"


def _table(
    config: Any,
    path: tuple[str, ...],
    declared: Mapping[tuple[str, ...], Setting],
    remarks: Mapping[str, str],
) -> Iterator[str]:
    """The lines of a dataclass: its own settings first, as TOML wants it, then its tables."""
    tables = []
    for field in dataclasses.fields(config):
        if field.name in config.unused:
            continue
        place, value = (*path, field.name), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            tables.append((place, value))
            continue
        remark = remarks.get(".".join(place))
        said = f"  # {in_a_line(remark)}" if remark else ""
        yield from _comment(_described(type(config), place, declared.get(place)))
        yield f"{field.name} = {_value(value, '.'.join(place))}{said}"
        yield ""
    for place, value in tables:
        yield from _comment((inspect.getdoc(type(value)) or "").splitlines()[0])
        yield f"[{'.'.join(place)}]"
        yield ""
        yield from _table(value, place, declared, remarks)


def _described(kind: type[Any], place: tuple[str, ...], setting: Setting | None) -> str:
    """What a setting is; of a part that is left out what it would be."""
    if setting is None:
        hints = typing.get_args(hints_of(kind).get(place[-1]))
        part = next((hint for hint in hints if dataclasses.is_dataclass(hint)), None)
        return "" if part is None else (inspect.getdoc(part) or "").splitlines()[0]
    info = setting.info
    notes = [info.unit] if info.unit else []
    if info.panel is not None:
        notes.append(setting.option.replace("/", ", "))
    notes.append(f"default {_default(setting, info)}")
    return f"{info.help} ({'; '.join(notes)})"


def _default(setting: Setting, info: SettingInfo) -> str:
    return info.default_text or _value(setting.default, setting.name).replace("\n", " ")


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False):
        yield f"# {line}"


def _value(value: Any, name: str) -> str:
    if value is None:
        return json.dumps(NO_VALUE)
    if isinstance(value, str):
        return _text(value, name)
    if isinstance(value, list | tuple):
        items = [_value(item, name) for item in value]
        line = f"[{', '.join(items)}]"
        if len(line) + len(name) <= _WIDTH:
            return line
        return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)  # numbers, inf and nan among them, are spelt as in Python


def _text(value: str, name: str) -> str:
    """A basic string: JSON's escapes are TOML's, which also escapes DEL, and has no surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"--print-config: {name} is {value!r}, whose bytes are not UTF-8: TOML cannot hold it"
        ) from error
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
