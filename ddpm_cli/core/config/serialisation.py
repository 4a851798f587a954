"""Dataclasses to and from plain values, as config files hold them."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ddpm_cli.core.errors import DdpmError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """Build a dataclass from nested plain values, checking names and types.

    Missing fields keep their defaults. Former names of settings, which the dataclass may list as
    `FORMER_NAMES`, are read as the current ones. Raises DdpmError that names the field.
    """
    if not isinstance(values, dict):
        raise DdpmError(f"{where} should hold named settings, not {values!r}")
    values = _under_current_names(kind, values, where)
    known, hints = _names(kind), typing.get_type_hints(kind)
    unknown = sorted(set(values) - known)
    if unknown:
        raise DdpmError(
            f"{where} has an unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    return kind(
        **{name: _cast(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    )


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
        return None if value is None else _cast(value, options[0], where)
    if typing.get_origin(hint) is tuple:
        return _cast_tuple(value, options, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise DdpmError(f"{where} should be of type {hint.__name__}, not {value!r}")
    return value


def _cast_tuple(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DdpmError(f"{where} should be a list, not {value!r}")
    kinds = (options[0],) * len(value) if options[-1] is Ellipsis else options
    if len(kinds) != len(value):
        raise DdpmError(f"{where} should hold {len(kinds)} values, not {value!r}")
    return tuple(_cast(item, kind, where) for item, kind in zip(value, kinds, strict=True))
