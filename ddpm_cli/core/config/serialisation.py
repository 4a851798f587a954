"""Dataclasses to and from plain values, and config files."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ddpm_cli.core.config.fields import is_whole_number as is_number
from ddpm_cli.core.config.fields import one_of, positive
from ddpm_cli.core.errors import DdpmError

T = TypeVar("T")

__all__ = ["from_dict", "is_number", "one_of", "positive", "to_dict", "updated"]


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """Build a dataclass from nested plain values, checking names and types.

    Missing fields keep their defaults. Raises DdpmError that names the field.
    """
    if not isinstance(values, dict):
        raise DdpmError(f"{where} should hold named settings, not {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise DdpmError(
            f"{where} has an unknown setting {unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    return kind(
        **{name: _cast(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    )


def updated(config: T, changes: dict[str, Any], where: str = "config") -> T:
    """The same dataclass with some nested values replaced; the rest stays."""
    return from_dict(type(config), _merged(to_dict(config), changes), where)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merged(base[name], value) if deeper else value
    return merged


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
