"""docs/commands: a page for each command of `ddpm`, made from its docstring and options."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from ddpm_cli.cli.app import app
from ddpm_cli.cli.options.preset_help import USUAL, PresetHelp
from ddpm_cli.core.config.fields import Setting
from tests.support.pages.settings import place
from tests.support.pages.text import anchor, cell, code, table

NOTE = "<!-- made by python -m tests.support.pages: change the command's docstring or options -->\n"
ANY = ["0: done", "1: the input, the data or the disk is at fault", "2: the options are at fault"]
OF_TRAINING = [
    "3: the training diverged",
    "75: stopped by a signal or the time limit, after saving; run the same command again",
]
INTERRUPTED = "130: stopped by Ctrl-C"


class Entry(NamedTuple):
    """A command under its full name, as "runs compare"."""

    name: str
    command: Any

    @property
    def page(self) -> str:
        """The file of its page."""
        return f"{self.name.replace(' ', '-')}.md"

    @property
    def inner(self) -> list[Entry]:
        """The commands of a group."""
        commands = getattr(self.command, "commands", {})
        return [Entry(f"{self.name} {name}".strip(), inner) for name, inner in commands.items()]

    @property
    def paragraphs(self) -> list[str]:
        """What the command does, from its docstring."""
        text = inspect.cleandoc(self.command.help or "")
        return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

    @property
    def examples(self) -> list[str]:
        """Command lines that its docstring gives."""
        return getattr(self.command.callback, "examples", [])

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of which it has options, by the name of the parameter."""
        groups = getattr(self.command.callback, "groups", {}).values()
        return {
            setting.parameter: setting
            for kind in groups
            for setting in getattr(kind, "settings", ())
        }


@functools.cache
def program() -> Any:
    """`ddpm` as its parser has it, which takes a second to make."""
    return typer.main.get_command(app)


def entries() -> list[Entry]:
    """The commands of `ddpm`, in the order of its help."""
    return Entry("", program()).inner


def everything() -> Iterator[Entry]:
    """Every command, those of groups among them."""
    waiting = entries()
    while waiting:
        entry = waiting.pop(0)
        waiting[:0] = entry.inner
        yield entry


def pages() -> dict[str, str]:
    """The pages' texts by file name: one a command, and the list of them."""
    rows = [(f"[`ddpm {e.name}`]({e.page})", cell(e.paragraphs[0])) for e in entries()]
    index = (
        f"# Commands\n\n{NOTE}\nEach has `--help`, `-h`. `ddpm --version` shows the version, and "
        "`--traceback`, anywhere on a command line, where an error arose.\n\n"
    )
    found = {entry.page: page(entry) for entry in entries()}
    return found | {"index.md": index + table(("command", "what it does"), rows)}


def page(entry: Entry) -> str:
    """The page of a command; of a group with a section for each of its commands."""
    parts = [f"# ddpm {entry.name}\n\n{NOTE}\n", described(entry, "##")]
    for inner in entry.inner:
        parts.append(f"## ddpm {inner.name}\n\n{described(inner, '###')}")
    train = entry.name == "train"
    codes = [*ANY, *(OF_TRAINING if train else []), INTERRUPTED]
    listed = "".join(f"- {line}\n" for line in codes)
    parts.append(f"## Exit codes\n\n{listed}\n[More on them](../files.md#exit-codes)")
    with_json = any("--json" in p.opts for e in (entry, *entry.inner) for p in e.command.params)
    parts.append("; [the keys of `--json`](../files.md#json).\n" if with_json else ".\n")
    return "".join(parts)


def described(entry: Entry, heading: str) -> str:
    """Usage, text, examples, arguments and options of a command."""
    parts = [f"```text\n{usage(entry)}\n```\n\n", *(f"{cell(p)}\n\n" for p in entry.paragraphs)]
    if entry.examples:
        examples = "\n".join(entry.examples)
        parts.append(f"{heading} Examples\n\n```sh\n{examples}\n```\n\n")
    if entry.inner:
        return "".join(parts)
    if isinstance(entry.command, PresetHelp):
        entry.command.show_values_of(USUAL)
    arguments, options = [], {}
    for param in entry.command.params:
        if param.param_type_name == "argument":
            arguments.append((code(str(param.metavar or param.name)), cell(param.help or "")))
        elif not param.hidden and param.name != "help":
            panel = param.rich_help_panel or "Options"
            options.setdefault(panel, []).append(option(entry, param))
    if arguments:
        body = table(("argument", "what it is"), arguments)
        parts.append(f"{heading} Arguments\n\n{body}\n")
    for panel, rows in options.items():
        body = table(("option", "value", "default", "effect"), rows)
        parts.append(f"{heading} {panel}\n\n{body}\n")
    return "".join(parts)


def usage(entry: Entry) -> str:
    """The command line in short, as --help shows it."""
    if entry.inner:
        return f"ddpm {entry.name} COMMAND [OPTIONS]"
    words = ["ddpm", entry.name, "[OPTIONS]"]
    for param in entry.command.params:
        if param.param_type_name == "argument":
            name = str(param.metavar or param.name) + "..." * (param.nargs != 1)
            words.append(name if param.required else f"[{name}]")
    return " ".join(words)


def option(entry: Entry, param: Any) -> tuple[str, str, str, str]:
    """An option's row: its names, what it takes, its default and what it does."""
    names = [*param.opts, *param.secondary_opts]
    setting = entry.settings.get(str(param.name))
    shown = ", ".join(map(code, names))
    if setting is not None:
        shown = f"[{shown}](../settings.md#{place(setting)})"
    here = f"{'-'.join(entry.name.split()[1:])}{names[0]}"
    effect = cell(param.help or "")
    if param.envvar:
        effect += f" Environment: `{param.envvar}`."
    return anchor(here) + shown, value(param, setting), default(param), effect


def value(param: Any, setting: Setting | None) -> str:
    """What an option takes, with its unit; nothing of a switch."""
    if param.is_flag:
        return ""
    unit = setting.info.unit if setting is not None else ""
    return code(str(param.metavar or "")) + (f" ({unit})" if unit else "")


def default(param: Any) -> str:
    """The default as the help shows it; nothing where it shows none."""
    if isinstance(param.show_default, str):
        return cell(param.show_default)
    if not param.show_default or param.default is None or isinstance(param.default, bool):
        return ""
    return code(str(param.default))


def sentence(folder: str) -> str:
    """The commands in a paragraph, each with a link to its page below `folder`."""
    links = ", ".join(f"[`{entry.name}`]({folder}/{entry.page})" for entry in entries())
    wrapped = textwrap.wrap(links, 118, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped) + ".\n"


def navigation() -> str:
    """The commands' lines in the site's navigation."""
    lines = ["Overview: commands/index.md"]
    lines += [f"{entry.name}: commands/{entry.page}" for entry in entries()]
    return "".join(f"      - {line}\n" for line in lines)
