"""Markdown: tables, and text that stands in their cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import ddpm_cli

TOP = Path(ddpm_cli.__file__).parent.parent


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; without rows nothing."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if len(lines) > 2 else ""


def cell(text: str) -> str:
    """A help text as a cell: on one line, options as code, nothing else in it is Markdown."""
    pieces = " ".join(text.split()).split("`")
    for i, piece in enumerate(pieces):
        piece = piece.replace("|", "\\|")
        if i % 2 == 0:  # outside of what is code already
            piece = re.sub(r"<(?=\w)", "&lt;", piece.replace("*", "\\*"))
            piece = re.sub(r"(?<![\w-])--?[a-z][a-z-]*\b", r"`\g<0>`", piece)
        pieces[i] = piece
    return "`".join(pieces)


def code(text: str) -> str:
    """A word as code; nothing where there is none."""
    return f"`{text}`" if text else ""


def anchor(name: str) -> str:
    """A place that links may lead to."""
    return f'<a id="{name}"></a>'
