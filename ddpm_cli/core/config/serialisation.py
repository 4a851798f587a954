"""Dataclasses to and from plain values, as config files hold them."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ddpm_cli.core.config.fields import (
    LARGEST_INTEGER,
    did_you_mean,
    hints_of,
    settings_of,
    shortened,
)
from ddpm_cli.core.errors import DdpmError

T = TypeVar("T")

NO_VALUE = "none"  # how TOML, which has no null, says that an optional setting is not set


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """Build a dataclass from nested plain values, checking names and types.

    Missing fields keep their defaults. Former names of settings, which the dataclass may list as
    `FORMER_NAMES`, are read as the current ones. Raises DdpmError that names the field.
    """
    values, hints = _known(kind, values, where), hints_of(kind)
    missing = [field.name for field in dataclasses.fields(kind) if _is_required(field)]  # type: ignore[arg-type]
    for name in missing:
        if name not in values:
            raise DdpmError(f"{where} lacks the setting {name!r}")
    return kind(
        **{name: _cast(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    )


def checked(kind: type[Any], values: Any, where: str) -> dict[str, Any]:
    """Some of a dataclass's settings, nested, under their current names and in their types.

    Raises DdpmError that names the one at fault.
    """
    values, hints = _known(kind, values, where), hints_of(kind)
    cast: dict[str, Any] = {}
    for name, value in values.items():
        hint, place = hints[name], f"{where}.{name}"
        kinds: list[Any] = [
            k for k in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(k)
        ]
        nested = kinds and isinstance(value, dict)
        cast[name] = checked(kinds[0], value, place) if nested else _cast(value, hint, place)
    return cast


def _known(kind: type[Any], document: Any, where: str) -> dict[str, Any]:
    """Named settings under their current names. Raises DdpmError for others."""
    if not isinstance(document, dict):
        raise DdpmError(f"{where} should hold named settings, not {shortened(document)}")
    values, known = _under_current_names(kind, document, where), _names(kind)
    unknown = sorted(set(values) - known)
    if unknown:
        meant = did_you_mean(str(unknown[0]), known)
        name = str(unknown[0])
        within = [s.path for s in settings_of(kind) if s.path[-1] == name and s.path[:-1]]
        if within:
            part = ".".join(within[0][:-1])
            raise DdpmError(
                f"{where}: unknown setting {shortened(name)}; it is {part}.{name} "
                f"(in TOML [{part}] {name} = …)"
            )
        raise DdpmError(
            f"{where}: unknown setting {shortened(unknown[0])}{meant or ';'} known: "
            f"{', '.join(sorted(known))} (another version of ddpm may have others)"
        )
    return values


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def updated(config: T, changes: dict[str, Any], where: str = "config") -> T:
    """The same dataclass with some nested values replaced; the rest stays."""
    return from_dict(type(config), _merged(config, changes, where), where)


def _merged(config: Any, changes: dict[str, Any], where: str) -> dict[str, Any]:
    merged = to_dict(config)
    for name, value in _under_current_names(type(config), changes, where).items():
        part = getattr(config, name, None)
        nested = isinstance(value, dict) and dataclasses.is_dataclass(part)
        merged[name] = _merged(part, value, f"{where}.{name}") if nested else value
    return merged


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _under_current_names(kind: type[Any], values: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings with their former names replaced. Raises DdpmError where one is set twice."""
    former = getattr(kind, "FORMER_NAMES", {})
    for name in values:
        if name in former and former[name] in values:
            raise DdpmError(
                f"{where} has both {former[name]!r} and its former name {name!r}: leave out "
                f"{name!r}"
            )
    return {former.get(name, name): value for name, value in values.items()}


def _cast(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    options = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        absent = value is None or (value == NO_VALUE and options[0] is not str)
        return None if absent else _cast(value, options[0], where)
    if typing.get_origin(hint) is tuple:
        return _cast_tuple(value, options, where)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise DdpmError(f"{where} is too large a number: {shortened(value)}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise DdpmError(f"{where} should be of type {hint.__name__}, not {shortened(value)}")
    return value


def _cast_tuple(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DdpmError(f"{where} should be a list, not {shortened(value)}")
    kinds = (options[0],) * len(value) if options[-1] is Ellipsis else options
    if len(kinds) != len(value):
        raise DdpmError(f"{where} should hold {len(kinds)} values, not {shortened(value)}")
    return tuple(_cast(item, kind, where) for item, kind in zip(value, kinds, strict=True))
