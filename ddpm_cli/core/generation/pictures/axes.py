"""Options with several values: the columns and rows of a contact sheet, and its cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model

SHOWN, SCORED = 4, 1000  # images of a cell, by default
_NAMED_BY_VALUE = ("sampler", "weights")  # whose values need no name beside them


@dataclass(frozen=True)
class Axis:
    """An option with several values: the columns of a sheet, or its rows."""

    name: str
    values: tuple[Any, ...]

    def title(self, value: Any) -> str:
        """What is written at the column or row of a value: a stem, where no other has it."""
        if self.name not in _NAMED_BY_VALUE:
            return f"{self.name} {value:g}"
        stem = Path(value).stem
        alike = [other for other in self.values if Path(other).stem == stem]
        return stem if len(alike) == 1 else str(value)

    @property
    def titles(self) -> list[str]:
        """Those of all values."""
        return list(map(self.title, self.values))


def axes_of(several: Mapping[str, Sequence[Any]]) -> tuple[Axis, ...]:
    """The columns, which are the option of more values, and the rows, if there are any.

    Raises UsageError for more than two options, and for a value that is given twice.
    """
    found = [Axis(name, tuple(values)) for name, values in several.items()]
    if len(found) > 2:
        *others, last = (f"--{axis.name}" for axis in found)
        names = f"{', '.join(others)} and {last}"
        raise UsageError(
            f"{names} have several values each, and a sheet has columns and rows: give several to "
            "one option, or to two"
        )
    for axis in found:
        if len(set(axis.values)) < len(axis.values):
            raise UsageError(f"--{axis.name} has a value twice; the cells would be the same")
    return tuple(sorted(found, key=lambda axis: -len(axis.values)))


def combinations(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The values of each cell, row by row."""
    names = [axis.name for axis in reversed(axes)]
    every = itertools.product(*(axis.values for axis in reversed(axes)))
    return [dict(zip(names, values, strict=True)) for values in every]


@dataclass(frozen=True)
class Cell:
    """Images by one combination of values."""

    values: dict[str, Any]
    model: Model
    request: GenerationRequest

    @property
    def nfe(self) -> int:
        """Network calls for an image."""
        init = self.request.init
        edit = None if init is None else init.blank
        return evaluations(self.model.denoiser.schedule, self.request.sampling, edit)

    @property
    def calls(self) -> int:
        """Network calls for all images, each counted for itself."""
        return self.nfe * self.request.count
