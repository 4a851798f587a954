"""The packages and the files of ddpm_cli, with the first lines of their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.layout import HEIGHT, package
from tests.support.pages.text import TOP

BESIDE = [  # rows of the tree for what is no package
    ("docs/", "how to use it, and how it is built"),
    ("examples/", "whole experiments as short scripts"),
    ("tests/", "by package as the code; benchmarks/ measures, and is not run by pytest"),
]


def packages() -> str:
    """Folder and first line of its docstring, core's packages from the lowest layer up."""
    package = TOP / "ddpm_cli"
    rows = [("ddpm_cli/", first_line(package))]
    for part in ("cli", "core"):
        rows.append((f"  {part}/", first_line(package / part)))
        inner = [
            path
            for path in (package / part).iterdir()
            if (path / "__init__.py").exists() or path.name == "errors.py"
        ]
        for path in sorted(inner, key=lambda path: (layer(path), path.name)):
            name = path.name + "/" * path.is_dir()
            rows.append((f"    {name}", first_line(path)))
    return tree(rows + BESIDE)


def layer(path: Path) -> int:
    """The height of a package's layer."""
    return HEIGHT[package(".".join(path.relative_to(TOP / "ddpm_cli").with_suffix("").parts))]


def files() -> str:
    """File and first line of its docstring, of the whole package."""
    rows = [("ddpm_cli/", first_line(TOP / "ddpm_cli"))]

    def walk(folder: Path, indent: str) -> None:
        for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            if (path / "__init__.py").exists():
                rows.append((f"{indent}{path.name}/", first_line(path)))
                walk(path, indent + "  ")
            elif path.suffix == ".py" and path.name != "__init__.py":
                rows.append((indent + path.name, first_line(path)))

    walk(TOP / "ddpm_cli", "  ")
    return tree(rows)


def first_line(path: Path) -> str:
    """The first line of a module's or package's docstring."""
    path = path / "__init__.py" if path.is_dir() else path
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def tree(rows: list[tuple[str, str]]) -> str:
    """Names and what they are, in two columns of a block of text."""
    width = max(len(name) for name, _ in rows) + 2
    lines = "".join(f"{name:{width}}{line}".rstrip() + "\n" for name, line in rows)
    return f"```text\n{lines}```\n"
