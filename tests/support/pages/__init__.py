"""The parts of the pages that are made from the code: `python -m tests.support.pages` writes them.

A part of a page stands between the comments `generated: NAME` and `end of NAME`. The pages in
docs/commands are made whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.support.pages import commands, environment, presets, settings, trees
from tests.support.pages.text import TOP

DOCS = TOP / "docs"
README, ARCHITECTURE, SITE = TOP / "README.md", DOCS / "architecture.md", TOP / ".mkdocs.yml"
COMMANDS = DOCS / "commands"

PARTS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"commands": lambda: commands.sentence("docs/commands")},
    SITE: {"commands": commands.navigation},
    ARCHITECTURE: {"packages": trees.packages, "files": trees.files},
    DOCS / "settings.md": {"settings": settings.tables},
    DOCS / "environment.md": {"ours": environment.ours, "others": environment.others},
    DOCS / "presets.md": {"presets": presets.overview},
}


def expected() -> dict[Path, str]:
    """Every page that is made from the code, or has parts that are, as it should be."""
    pages = {COMMANDS / name: text for name, text in commands.pages().items()}
    for page, parts in PARTS.items():
        text = page.read_text()
        for name, make in parts.items():
            text = with_part(text, name, make(), page)
        pages[page] = text
    return pages


def with_part(text: str, name: str, part: str, page: Path) -> str:
    """A page's text with one of its generated parts made anew."""
    start, end = (f"^[^\n]*{words} {name}\\b[^\n]*\n" for words in ("generated:", "end of"))
    found = re.search(f"({start})(.*?)({end})", text, flags=re.MULTILINE | re.DOTALL)
    assert found, f"{page.name}: no lines 'generated: {name}' and 'end of {name}'"
    opening, _, closing = found.groups()
    return text[: found.start()] + opening + part + closing + text[found.end() :]


def superfluous() -> list[Path]:
    """Pages of commands that there are no longer."""
    names = {"index.md", *(entry.page for entry in commands.entries())}
    return sorted(page for page in COMMANDS.glob("*.md") if page.name not in names)


def write() -> None:
    """Write every page that is not as it should be."""
    for page in superfluous():
        page.unlink()
    COMMANDS.mkdir(exist_ok=True)
    for page, text in expected().items():
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
