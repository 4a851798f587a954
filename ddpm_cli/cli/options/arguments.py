"""How commands read their arguments: mistakes are one line, each value is checked in one place."""

from __future__ import annotations

import inspect
import math
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from ddpm_cli.cli.options import completion
from ddpm_cli.core.config import environment, paths
from ddpm_cli.core.config.fields import LARGEST_INTEGER, did_you_mean, near_names, shortened
from ddpm_cli.core.errors import DdpmError, UsageError

METAVARS = {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT", bool: ""}  # flags have none

TRAINED_ON = "what it was trained on"
_ALONE = {"--score": TRAINED_ON}  # the values of options that are given without one
_OF_OTHERS = {  # names that other programs have for an option
    "--batch-size": "--batch", "--learning-rate": "--lr", "--output": "--out",
    "--output-dir": "--out", "--dataset": "--data", "--data-dir": "--data",
    "--resolution": "--size",
    "--image-size": "--size", "--cfg": "--guidance", "--cfg-scale": "--guidance",
    "--guidance-scale": "--guidance", "--num-inference-steps": "--steps", "--num-steps": "--steps",
    "--gpus": "--nproc", "--num-samples": "-n", "--count": "-n", "--n": "-n",
    "--scheduler": "--sampler", "--verbose": "the default",
    "--checkpoint": "an argument: ddpm sample RUN", "--model": "an argument: ddpm sample RUN",
    "--run": "an argument: ddpm sample RUN", "--force": "--overwrite", "--mixed-precision":
    "--precision", "--name": "--out", "--num": "-n", "--num-images": "-n", "--n-samples": "-n",
    "--ckpt": "an argument: ddpm sample RUN", "--gpu": "--device cuda", "--cpu": "--device cpu",
}  # fmt: skip
_BY_VARIABLE = "by_variable"  # of a context's meta: options that took a variable's value


class Group(TyperGroup):
    """The commands; mistakes before and in a command's name are errors of one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before the command's name; without any words, show the help."""
        with _one_line(ctx) if args else nullcontext():
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names, or the first two: `ddpm runs compare`."""
        both = " ".join(args[:2])
        if len(args) > 1 and both in self.commands:
            args = [both, *args[2:]]
        if args and args[0] not in self.commands and args[0][:1] != "-":
            raise UsageError(
                f"there is no command {shortened(args[0])}{did_you_mean(args[0], self.commands)}"
                "; see ddpm --help"
            )
        with _one_line(ctx):
            return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command that refuses what its parser would let pass, and shows options uncut in its help.

    Refused are an option of one value that is given twice, an empty value, another option in place
    of a value, and arguments that belong to no parameter. The parameters are those of `declared`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the words of the command line, then parse them."""
        args = list(_completed(args))
        with _one_line(ctx):
            if not ctx.resilient_parsing:  # which is for completion
                values, extra, order = self.make_parser(ctx).parse_args(args=list(args))
                ctx.meta[_BY_VARIABLE] = self._by_variable(values)
                self._check_variables(ctx.meta[_BY_VARIABLE])
                if not values.get("help"):
                    self._check(values, extra, Counter(map(id, order)), args)
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of an option that a variable set names the variable."""
        with _naming_variables(ctx):
            return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """End with the examples; a switch's negative form is in its help, or columns grow."""
        shown = copy(self)  # what is shown otherwise is parsed as before
        shown.params = [copy(param) for param in self.params]
        if examples := getattr(self.callback, "examples", []):
            shown.epilog = "\n".join(["Examples:", *(f"  {line}" for line in examples)])
        for param in shown.get_params(ctx):
            if param.name == "help":
                param.metavar = METAVARS[bool]
            if param.secondary_opts:
                negative, param.secondary_opts = param.secondary_opts[0], []
                param.help = f"{param.help} Opposite: {negative}"  # type: ignore[attr-defined]
        TyperCommand.format_help(shown, ctx, formatter)

    def _by_variable(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Options that the command line leaves to their variables, with those."""
        return {
            param.opts[0]: str(param.envvar)
            for param in self.params
            if param.envvar and param.name not in values and environment.value(str(param.envvar))
        }

    def _check_variables(self, variables: Mapping[str, str]) -> None:
        for param in self.params:
            if (name := variables.get(param.opts[0])) is not None:
                value = environment.value(name) or ""
                check_number(name, value, param.metavar)
                if getattr(param, "is_flag", False) and value.lower() not in environment.SWITCH:
                    raise UsageError(f"{name} is a switch: give it 1 or 0, not {shortened(value)}")

    def _check(
        self,
        values: Mapping[str, Any],
        extra: Sequence[str],
        times: Counter[int],
        args: Sequence[str],
    ) -> None:
        options = {
            name for p in self.params for name in (*p.opts, *p.secondary_opts) if name[0] == "-"
        }
        for param in self.params:
            option, value = param.opts[0], values.get(str(param.name))
            if not isinstance(value, str):
                switch = isinstance(value, bool) and not param.secondary_opts
                if isinstance(value, bool) and times[id(param)] > 1 and not switch:
                    raise UsageError(f"{option} or its opposite is given twice")
                continue
            if times[id(param)] > 1:
                several = "; put both in one folder: its sub-folders become classes"
                raise UsageError(
                    f"{option} is given {times[id(param)]} times; it takes one value"
                    + (several if option == "--data" else "")
                )
            name = option if option.startswith("-") else option.upper()
            if not value.strip():
                raise UsageError(f"{name} is empty; give it a value")
            if value in options:
                raise UsageError(f"{name} needs a value, and the option {value} follows it")
            check_number(name, value, param.metavar)
        if extra and (parted := _parted_name(args)):
            raise UsageError(f"put names with spaces in quotes: {parted}")
        if extra:
            raise UsageError(self._unexpected(extra, values))

    def _unexpected(self, extra: Sequence[str], values: Mapping[str, Any]) -> str:
        message = f"unexpected argument {extra[0]!r}"
        message += f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        if any("--data" in param.opts for param in self.params):
            if "data" in values:
                return f"{message}: --data takes one folder, .zip or name"
            return f"{message}; images are given by --data {quote(extra[0])}"
        takes = [str(param.name).upper() for param in self.params if param.opts == [param.name]]
        return f"{message}; ddpm {self.name} takes {' '.join(takes) or 'options only'}"


def _parted_name(args: Sequence[str]) -> str:
    """The words of the command line that together name a file or folder, as they are typed."""
    for first in range(len(args)):
        option, equals, value = args[first].partition("=")
        is_option = option.startswith("-")
        words = [value if is_option and equals else args[first]]
        for word in args[first + 1 :]:
            if word.startswith("-") or (is_option and not equals):
                break
            words.append(word)
            name = " ".join(words)
            if paths.exists(name):
                before = args[first - 1] if first and args[first - 1].startswith("-") else ""
                before = option if is_option else before
                return f"{before} {quote(name)}".lstrip()
    return ""


def _completed(args: Sequence[str]) -> Iterator[str]:
    """The words of the command line, with the values that options have where none follows."""
    for word, following in pairwise([*args, "-"]):
        yield word
        if word in _ALONE and following.startswith("-"):
            yield _ALONE[word]


@contextmanager
def _naming_variables(ctx: Any) -> Iterator[None]:
    """Name the variable in the message of an error that is about an option which it set."""
    try:
        yield
    except DdpmError as error:
        message, variables = str(error), ctx.meta.get(_BY_VARIABLE, {})
        for option, name in variables.items():
            if re.search(rf"(?<![\w-]){option}(?![\w-])", message) and name not in message:
                message += f" ({option} is that of the environment variable {name})"
        if message != str(error):
            error.args = (message,)
        raise


@contextmanager
def _one_line(ctx: Any) -> Iterator[None]:
    """Raise the parser's errors, which Typer would print in a box, as UsageError."""
    try:
        with _naming_variables(ctx):
            yield
    except DdpmError:
        raise
    except Exception as error:
        if not hasattr(error, "format_message") or ctx.resilient_parsing:
            raise
        if hasattr(error, "option_name") and hasattr(error, "possibilities"):
            raise UsageError(_no_such_option(ctx, error.option_name)) from error
        message = error.format_message().replace("\n", " ").strip().rstrip(".")
        examples = getattr(getattr(ctx.command, "callback", None), "examples", [])
        if hasattr(error, "param") and message.startswith("Missing") and examples:
            message += f"; such as: {examples[0].partition('  ')[0]}"
        with _naming_variables(ctx):
            raise UsageError(f"{message}; see {ctx.command_path} --help") from error


def _no_such_option(ctx: Any, option: str) -> str:
    """The message on an option that a command does not have: what may have been meant."""
    every = {name for p in ctx.command.params if not getattr(p, "hidden", False) for name in p.opts}
    own = {name for name in every if name.startswith("--")} | {"--help"}
    message = f"{ctx.info_name} has no option {option}"
    if len(option) == 2 and (word := _single_dashed(option, own)):
        return f"{message}; did you mean --{word}, with two dashes?"
    meant = _OF_OTHERS.get(option)
    if meant is not None and (meant.split()[0] in every or meant[0] != "-"):
        return f"{message}; here it is {meant}"
    group = getattr(ctx.parent, "command", None)
    having = [
        name
        for name, command in getattr(group, "commands", {}).items()
        if any(option in (*p.opts, *p.secondary_opts) for p in command.params)
    ]
    words = [name.removeprefix("--") for name in own]
    near = [f"--{word}" for word in near_names(option.lstrip("-"), words)]
    if near and not having:
        return f"{message}; did you mean {' or '.join(near)}? See {ctx.command_path} --help"
    *first, last = having[:3] or [""]
    where = f"; ddpm {', '.join(first)} and {last} have it" if first else f"; ddpm {last} has it"
    return f"{message}{where if having else ''}; see {ctx.command_path} --help"


def _single_dashed(option: str, known: Iterable[str]) -> str:
    """The option that was written with one dash, as -data, of which the parser saw -d."""
    words = [word for word in sys.argv[1:] if word.startswith(option) and len(word) > 2]
    names = [word[1:].partition("=")[0] for word in words]
    return next((name for name in names if f"--{name}" in known), "")


def check_number(name: str, value: str, metavar: str | None) -> None:
    """Raise UsageError where an option of a number is given something else."""
    if metavar not in (METAVARS[int], METAVARS[float]):
        return
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if metavar == METAVARS[int] and not value.strip().lstrip("+-").isdecimal():
        example = f", such as {number:.0f}" if number.is_integer() and abs(number) < 1e15 else ""
        number, kind = math.nan, f"a whole number{example}"
    else:
        kind = "a number"
    if metavar == METAVARS[int] and abs(number) > LARGEST_INTEGER:
        raise UsageError(f"{name} is too large a number: {shortened(value)}")
    if math.isnan(number):
        several = "one value, " if "," in value else ""
        raise UsageError(f"{name} takes {several}{kind}, not {shortened(value)}")


def declared(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter as Typer gets it: with a short metavar, and without the range that we check."""
    kind, info = _declaration(parameter)
    if info is None:
        return parameter
    info = copy(info)
    if isinstance(info, ArgumentInfo):
        info.metavar = parameter.name.upper()
        info.autocompletion = completion.of(info.metavar)
        annotation = typing.get_args(parameter.annotation)[0]
        return parameter.replace(annotation=Annotated[annotation, info])
    info.min = info.max = None
    option = option_name(parameter).split("/")[0]
    if info.envvar is None:
        info.envvar = environment.variable_of(option, parameter.default)
    info.autocompletion = info.autocompletion or completion.of(option, kind)
    info.metavar = info.metavar or METAVARS[kind if kind in METAVARS else str]
    if kind is bool and parameter.default is True:
        info.show_default = parameter.name
    annotation = typing.get_args(parameter.annotation)[0]
    return parameter.replace(annotation=Annotated[annotation, info])


def checked(parameters: Sequence[inspect.Parameter]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function of the parsed values that expands `~` in paths and refuses numbers out of range.

    It raises UsageError, which names the option.
    """

    def check(values: dict[str, Any]) -> dict[str, Any]:
        for parameter in parameters:
            value = values[parameter.name]
            if isinstance(value, Path):
                values[parameter.name] = paths.expanded(value)
            info = _declaration(parameter)[1]
            if isinstance(value, int | float) and isinstance(info, OptionInfo):
                _check_range(option_name(parameter), value, info)
        return values

    return check


def _check_range(option: str, value: float, info: OptionInfo) -> None:
    if info.min is not None and not info.min <= value < math.inf:
        finite = " and finite" if isinstance(value, float) else ""
        raise UsageError(f"{option} must be at least {info.min:g}{finite}, not {value}")
    if info.max is not None and not value <= info.max:
        raise UsageError(f"{option} must be at most {info.max:g}, not {value}")


def _declaration(parameter: inspect.Parameter) -> tuple[Any, OptionInfo | ArgumentInfo | None]:
    """The type without None, and what Typer is told of a parameter."""
    annotation, *rest = typing.get_args(parameter.annotation) or (parameter.annotation,)
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    is_union = type(None) in typing.get_args(annotation)
    info = next((item for item in rest if isinstance(item, OptionInfo | ArgumentInfo)), None)
    return (kinds[0] if is_union else annotation), info


def option_name(parameter: inspect.Parameter) -> str:
    """The first name of a parameter's option, as --class."""
    info = _declaration(parameter)[1]
    declared = () if info is None else (info.default, *(info.param_decls or ()))
    written = [text for text in declared if isinstance(text, str) and text[:1] == "-"]
    return written[0] if written else f"--{parameter.name.replace('_', '-')}"
