"""The blocks of code in README and docs, and the command lines in them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from ddpm_cli.cli.options.groups import SettingOptions
from ddpm_cli.core.errors import UsageError
from tests.support.pages import DOCS, README
from tests.support.pages.commands import program

PAGES = [README, *sorted(DOCS.rglob("*.md"))]
QUICK = "<!-- quick -->"  # above a block whose lines a test runs
_ENDS = {"&&", "||", "|", ";", "&", ">", "<", ">>", "2>"}  # of a command's words


class Block(NamedTuple):
    """A fenced block of a page."""

    place: str  # page and line
    label: str
    text: str
    quick: bool

    @property
    def commands(self) -> list[list[str]]:
        """The words of each `ddpm` command in it, without "ddpm"."""
        return [words for line in self.lines for words in ddpm_calls(line)]

    @property
    def lines(self) -> list[str]:
        """Its command lines: of a session those after the prompt."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.label == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return lines if self.label == "sh" else []


def blocks() -> Iterator[Block]:
    """Every fenced block of README and docs."""
    for page in PAGES:
        inside: list[str] | None = None
        lines = page.read_text().splitlines()
        for number, line in enumerate(lines):
            if not line.lstrip().startswith("```"):
                if inside is not None:
                    inside.append(line)
            elif inside is None:
                inside, start, label = [], number, line.strip().removeprefix("```")
            else:
                quick = QUICK in lines[max(start - 2, 0) : start]
                place = f"{page.relative_to(README.parent)}:{start + 1}"
                yield Block(place, label, "\n".join(inside) + "\n", quick)
                inside = None
        assert inside is None, f"{page.name}: a block is not closed"


def ddpm_calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of `ddpm` in a line for a shell."""
    words: list[str] | None = None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True  # and at punctuation
    for word in [*lexer, ";"]:
        if word in _ENDS:
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif "=" not in word and word.split("/")[-1] in ("ddpm", "ddpm_cli"):
            words = []


def parse(words: list[str]) -> None:
    """Read a command line as `ddpm` does, up to the checks of each value; run nothing.

    Raises UsageError.
    """
    command: Any = program()
    name = "ddpm"
    words = [word for word in words if word not in ("--traceback", "--help", "-h")]
    if words in (["--version"], ["--install-completion"]):
        return
    if not words:
        raise UsageError("which command?")
    if words[0] in ("-q", "--quiet"):  # before a command's name, too
        words = words[1:]
    for length in (2, 1):  # "runs compare", "runs"
        if (found := " ".join(words[:length])) in getattr(command, "commands", {}):
            name, words, command = found, words[length:], command.commands[found]
    if name == "ddpm":
        raise UsageError(f"no command {words[0]}")
    context = command.make_context(name, words)
    fill = getattr(command.callback, "filled", None)
    if fill is None:
        return
    for group in fill(dict(context.params)).values():
        if isinstance(group, SettingOptions):
            _check(group)


def _check(group: SettingOptions) -> None:
    nested, several = group.nested(), group.several()
    for setting in group.settings:
        value: Any = nested
        for part in setting.path:
            value = value.get(part) if isinstance(value, dict) else None
        for one in [value, *several.get(setting.parameter, ())]:
            if one is not None and setting.info.check is not None:
                setting.info.check(setting.option, one)


def options() -> set[str]:
    """Every option of every command."""
    waiting: list[Any] = [program()]
    names = {"--install-completion", "--show-completion", "--help"}
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for param in command.params:
            names |= {*param.opts, *param.secondary_opts}
    return names
