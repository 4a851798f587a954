"""Settings: dataclass fields that carry their default, help, unit, panel and check.

Options, help texts, config files, the reference page and the checks are all made from these.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ddpm_cli.core.errors import UsageError

Check = Callable[[str, Any], None]
"""Takes a setting's name and value. Raises UsageError where the value is not allowed."""

LARGEST_INTEGER = 2**63 - 1  # of any setting: an int64

_KEY = "setting"  # of the dataclass field's metadata


@dataclass(frozen=True)
class SettingInfo:
    """What is declared of a setting beside its default."""

    help: str
    unit: str = ""  # of the number: "images", "pixels"
    panel: str | None = None  # of the command's help; None: no option, config files only
    option: str | None = None  # its spelling on the command line; None: from the field's name
    aliases: tuple[str, ...] = ()  # former spellings, accepted and not shown
    default_text: str | None = None  # in the help, where the value says too little
    check: Check | None = None  # of values that are not None
    parse: Callable[[str], Any] | None = None  # of an option's text; None: by the field's type

    @property
    def choices(self) -> tuple[object, ...]:
        """The values allowed, where there are only some."""
        return self.check.allowed if isinstance(self.check, Choice) else ()


def setting(default: Any, help: str, **info: Any) -> Any:  # noqa: A002
    """Declare a dataclass field as a setting; `info` as the fields of SettingInfo."""
    return dataclasses.field(default=default, metadata={_KEY: SettingInfo(help, **info)})


@dataclass(frozen=True)
class Setting:
    """One declared setting of a config dataclass, at its place in the nested config."""

    path: tuple[str, ...]  # ("optimiser", "batch")
    hint: Any  # the field's type
    default: Any
    info: SettingInfo

    @property
    def name(self) -> str:
        """The path as error messages and the reference page write it."""
        return ".".join(self.path)

    @property
    def option(self) -> str:
        """The option that sets it: "--batch"; of a switch "--flip/--no-flip"."""
        option = _option(self.path[-1], self.info)
        switch = self.kind is bool and self.info.option is None
        return f"{option}/--no-{option.removeprefix('--')}" if switch else option

    @property
    def parameter(self) -> str:
        """The option as a Python name: "batch"."""
        return self.option.split("/")[0].removeprefix("--").replace("-", "_")

    @property
    def kind(self) -> Any:
        """The field's type without None."""
        if isinstance(self.hint, types.UnionType):
            return next(kind for kind in typing.get_args(self.hint) if kind is not type(None))
        return self.hint


def _option(field: str, info: SettingInfo) -> str:
    return info.option or f"--{field.replace('_', '-')}"


def _spelling(field: str, info: SettingInfo) -> str:
    """How messages name a setting: as its option, or as config files do where it has none."""
    return field if info.panel is None else _option(field, info)


_known_hints = functools.cache(typing.get_type_hints)  # which takes long, and configs are many


def hints_of(config: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return _known_hints(config)  # type: ignore[arg-type]


def settings_of(config: type[Any]) -> tuple[Setting, ...]:
    """All settings of a config dataclass, those of nested dataclasses included, in their order."""
    return _known_settings(config)  # type: ignore[arg-type]


@functools.cache
def _known_settings(config: type[Any]) -> tuple[Setting, ...]:
    return tuple(_settings(config, ()))


def _settings(config: type[Any], path: tuple[str, ...]) -> Iterator[Setting]:
    hints = hints_of(config)
    for field in dataclasses.fields(config):
        found = Setting((*path, field.name), hints[field.name], field.default, SettingInfo(""))
        if dataclasses.is_dataclass(found.kind):
            yield from _settings(typing.cast(type[Any], found.kind), found.path)
        elif _KEY in field.metadata:
            yield dataclasses.replace(found, info=field.metadata[_KEY])


class Settings:
    """Base of config dataclasses: checks every setting when one is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(typing.cast(Any, self)):
            info, value = field.metadata.get(_KEY), getattr(self, field.name)
            if info is not None and info.check is not None and value is not None:
                info.check(_spelling(field.name, info), value)

    @property
    def unused(self) -> frozenset[str]:
        """Settings that have no effect beside the others, and that printed settings leave out."""
        return frozenset()


@dataclass(frozen=True)
class Choice:
    """A check that allows some values only."""

    allowed: tuple[object, ...]

    def __call__(self, name: str, value: object) -> None:
        """Raise UsageError for another value."""
        one_of(name, value, self.allowed)


def choice(*allowed: object) -> Choice:
    """Allow these values only."""
    return Choice(allowed)


def number(
    *, zero: bool = False, below: float = math.inf, least: float = 0, most: float = math.inf
) -> Check:
    """Allow finite numbers above zero (or from zero), less than `below`, from `least` to `most`."""

    def check(name: str, value: Any) -> None:
        positive(name, value, zero=zero, below=below)
        if value < least:
            raise UsageError(f"{name} must be at least {least:g}, not {value}")
        if value > most:
            raise UsageError(f"{name} must be at most {most:,}, not {value}")

    return check


above_zero, at_least_zero = number(), number(zero=True)

_IMAGES = 10**12 - 1  # snapshots are named by the images seen, in twelve digits
_CHANNELS = 2**16  # the widths of layers: more overflows the sizes of tensors

images_above_zero, images_from_zero = number(most=_IMAGES), number(zero=True, most=_IMAGES)
channels_above_zero = number(most=_CHANNELS)


def fraction(name: str, value: float) -> None:
    """Allow numbers from 0 to 1."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is a fraction between 0 and 1, not {value}")


def finite(name: str, value: float) -> None:
    """Allow finite numbers."""
    if not math.isfinite(value):
        raise UsageError(f"{name} must be finite, not {value}")


def each(check: Check) -> Check:
    """Apply a check to every element of a tuple."""

    def check_all(name: str, values: Collection[Any]) -> None:
        for value in values:
            check(name, value)

    return check_all


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise UsageError for a value that is none of those allowed."""
    if value not in allowed:
        known = [str(other) for other in allowed]
        raise UsageError(
            f"{name} {shortened(value)} is unknown; choose one of {', '.join(known)}"
            f"{did_you_mean(str(value), known)}"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean a or b?", or ""."""
    near = near_names(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


_SYNONYMS = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}  # of devices


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Up to 3 of the known names that one may have meant, the nearest first, in any case."""
    by_case = {other.lower(): other for other in known}
    if (same := _SYNONYMS.get(name.lower())) in by_case:
        return [by_case[same]]
    near = difflib.get_close_matches(name.lower()[:80], by_case, n=3, cutoff=0.6)
    return [by_case[other] for other in near]


def positive(name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> None:
    """Raise UsageError for a number that is not positive (or zero), finite and `below`."""
    if not ((value >= 0 if zero else value > 0) and value < below):  # also catches NaN
        low = "at least 0" if zero else "more than 0"
        finite = "" if isinstance(value, int) else " and finite"
        high = finite if below == math.inf else f" and less than {below}"
        raise UsageError(f"{name} must be {low}{high}, not {value}")


def in_a_line(text: str) -> str:
    """A text as it is; as Python writes it where it holds line breaks or the like."""
    return text if text.isprintable() else repr(text)


def shortened(value: object, most: int = 80) -> str:
    """A value as Python writes it, of at most so many characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_whole_number(word: str) -> bool:
    """Whether a word consists of the digits 0 to 9 alone: isdecimal() accepts other scripts'."""
    return word.isascii() and word.isdecimal()


def parse_size(text: str) -> tuple[int, int]:
    """Read "64" or "64x128" (height x width, in pixels) as (height, width)."""
    sides = text.lower().split("x")
    numbers = all(is_whole_number(side) and len(side) < 20 and int(side) > 0 for side in sides)
    if len(sides) > 2 or not numbers:
        raise UsageError(
            f"--size {shortened(text)} should be pixels such as 64, or height x width such as "
            "64x128"
        )
    return int(sides[0]), int(sides[-1])


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Read "4h", "90m", "1d12h" or "3600" as seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", text)
    seconds = sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(
            f"--time-limit {text!r} should be a time such as 4h, 90m or 3600 (seconds)"
        )
    return seconds


def parse_numbers(
    kind: type[int | float], option: str, what: str, count: int | None = None
) -> Callable[[str], tuple[Any, ...]]:
    """A function that reads "999,750" as (999, 750): `count` numbers, or any.

    `what` the option should be, for the message of its UsageError.
    """

    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(kind(word) for word in text.split(","))
        except ValueError:
            values = ()
        if not values or len(values) != (count or len(values)):
            raise UsageError(f"{option} {shortened(text)} should be {what}")
        return values

    return parse


def parse_names(option: str, what: str) -> Callable[[str], tuple[str, ...]]:
    """A function that reads "Smiling,Male" as ("Smiling", "Male"); `what` as for numbers."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(word.strip() for word in text.split(","))
        if not all(names):
            raise UsageError(f"{option} {shortened(text)} should be {what}")
        return names

    return parse


def choices(names: Collection[str]) -> str:
    """Names as a help text lists them: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}"
