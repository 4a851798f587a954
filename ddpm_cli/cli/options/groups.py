"""Options that belong together, as a dataclass that a command takes as one parameter."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of its parameters that are dataclasses.

    The fields are annotated as Typer wants it, and have defaults. The command itself is called with
    the dataclasses filled in.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[name] = typing.cast(type[Any], parameter.annotation)
            parameters += _options_of(groups[name])
        else:
            parameters.append(parameter)

    def called(**given: Any) -> None:
        for name, kind in groups.items():
            fields = dataclasses.fields(kind)
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields})
        command(**given)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def _options_of(kind: type[Any]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given: without those left at None."""
    return {name: value for name, value in settings.items() if value is not None}
