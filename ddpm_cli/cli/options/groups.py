"""Options that belong together, as a dataclass that a command takes as one parameter."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import arguments, completion
from ddpm_cli.core.config.fields import Setting, settings_of, shortened
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.elastic import world
from ddpm_cli.core.runtime.reporting import Warned

_Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show warnings, errors and the result only."),
]
_QUIET = inspect.Parameter(
    "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet
)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of its parameters that are dataclasses.

    The fields are annotated as Typer wants it, and have defaults. The command itself is called with
    the dataclasses filled in, and with every value checked by `arguments`. The lines below
    "Examples:", the end of its docstring, are shown at the end of its help.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[name] = typing.cast(type[Any], parameter.annotation)
            parameters += _options_of(groups[name])
        else:
            parameters.append(parameter)

    check = arguments.checked(tuple(parameters))
    parameters.append(_QUIET)

    def filled(values: dict[str, Any]) -> dict[str, Any]:
        values = check(values)
        for name, kind in groups.items():
            fields = dataclasses.fields(kind)
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields})
        return values

    def called(**values: Any) -> None:
        if values.pop("quiet"):
            console.be_quiet(True)
        values = filled(values)
        for notice in world.check_environment():
            console.reporter().say(Warned(notice))
        console.announce_environment()
        command(**values)

    called.groups, called.filled = groups, filled  # type: ignore[attr-defined]
    text, _, examples = (inspect.getdoc(command) or "").partition("\n\nExamples:\n")
    paragraphs = text.split("\n\n")
    called.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    called.examples = [line.strip() for line in examples.splitlines()]  # type: ignore[attr-defined]
    called.__name__ = command.__name__
    shown = [arguments.declared(parameter) for parameter in parameters]
    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in shown}
    return called


def names_given(group: Any) -> set[str]:
    """The options of a group that were given another value than their default, as --class."""
    return {
        arguments.option_name(parameter)
        for parameter in _options_of(type(group))
        if getattr(group, parameter.name) != parameter.default
    }


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


class SettingOptions:
    """A group of options made of the settings that a config dataclass declares.

    `class RunOptions(SettingOptions, of=RunConfig)` has an option for every setting of RunConfig
    that belongs to a panel of the help, or for those in `only`. Those in `several` take several
    values, such as 1,2,4. `defaults`: what a command has in place of the settings' defaults, in
    words, by their names.
    """

    settings: typing.ClassVar[tuple[Setting, ...]]
    _several: typing.ClassVar[Collection[str]]

    def __init_subclass__(
        cls,
        of: type[Any],
        only: Collection[str] = (),
        several: Collection[str] = (),
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        cls._several = several
        cls.settings = tuple(
            _with_default(setting, (defaults or {}).get(setting.name))
            for setting in settings_of(of)
            if setting.info.panel is not None and (not only or setting.name in only)
        )
        cls.__annotations__ = {}
        for setting in cls.settings:
            many = setting.name in several
            cls._declare(setting.parameter, _annotation(setting, setting.option, several=many))
            for alias in setting.info.aliases:
                cls._declare(_parameter(alias), _annotation(setting, alias, hidden=True))
        dataclasses.dataclass(frozen=True)(cls)

    @classmethod
    def _declare(cls, name: str, annotation: Any) -> None:
        cls.__annotations__[name] = annotation
        setattr(cls, name, None)

    def nested(self) -> dict[str, Any]:
        """The values given, nested as the config is; options left out are not in it."""
        document: dict[str, Any] = {}
        for setting in self.settings:
            names = (setting.parameter, *(_parameter(alias) for alias in setting.info.aliases))
            values = [getattr(self, name) for name in names]
            given = [value for value in values if value is not None]
            if len(given) > 1:
                raise UsageError(f"{setting.option} is given twice, once by its former name")
            value = given[0] if given else None
            if value is not None and setting.name in self._several:
                several = _values(setting, value)
                value = several[0] if len(several) == 1 else None
            if value is not None:
                *parents, last = setting.path
                place = document
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[last] = setting.info.parse(value) if setting.info.parse else value
        return document

    def several(self) -> dict[str, tuple[Any, ...]]:
        """The values of the settings that were given more than one, which `nested` leaves out."""
        given = {setting: getattr(self, setting.parameter) for setting in self.settings}
        lists = {
            setting.parameter: _values(setting, text)
            for setting, text in given.items()
            if setting.name in self._several and text is not None
        }
        return {name: values for name, values in lists.items() if len(values) > 1}


def _values(setting: Setting, text: str) -> tuple[Any, ...]:
    """The values of an option such as 1,2,4. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{setting.option} {shortened(text)} has an empty value")
    for word in words:
        arguments.check_number(setting.option, word, arguments.METAVARS[setting.kind])
    return tuple(setting.kind(word) for word in words)


def _with_default(setting: Setting, text: str | None) -> Setting:
    """The setting with another default in words, if there is one."""
    if text is None:
        return setting
    return dataclasses.replace(setting, info=dataclasses.replace(setting.info, default_text=text))


def _annotation(
    setting: Setting, option: str, *, hidden: bool = False, several: bool = False
) -> Any:
    info, kind = setting.info, setting.kind
    metavar = f"{arguments.METAVARS[kind]},…" if several else None
    if info.parse is not None or several:
        kind = str
    elif typing.get_origin(kind) is tuple:
        kind = list[str]  # an option that may be repeated
    declaration = typer.Option(
        option,
        help=info.help,
        rich_help_panel=info.panel,
        show_default=default_shown(setting, setting.default),
        hidden=hidden,
        metavar=metavar,
        autocompletion=completion.among(info.choices) if info.choices else None,
    )
    return Annotated[kind | None, declaration]


def help_of(config: type[Any], field: str) -> str:
    """The help of a setting, for commands that take it as an option of their own."""
    return _setting(config, field).info.help


def default_of(config: type[Any], field: str) -> str | bool:
    """The default of a setting in words, for the same commands; True: as it is."""
    return _setting(config, field).info.default_text or True


def _setting(config: type[Any], field: str) -> Setting:
    return next(setting for setting in settings_of(config) if setting.path == (field,))


def _parameter(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def default_shown(setting: Setting, value: Any) -> str | bool:
    """The default as the help shows it, with its unit; False where there is nothing to show."""
    if setting.info.default_text is not None and value == setting.default:
        return setting.info.default_text
    if value is None or value == ():
        return False
    if isinstance(value, bool):
        positive, _, negative = setting.option.partition("/")
        return (positive if value else negative).removeprefix("--") or False
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) if isinstance(value[0], str) else ",".join(map(str, value))
    unit = setting.info.unit
    if isinstance(value, int | float):
        unit = unit.removesuffix("es" if unit.endswith("sses") else "s") if value == 1 else unit
        value = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return f"{value} {unit}".strip()
