"""README.md and docs/ are true: their trees and tables, their commands, their links.

`python -m tests.test_readme` writes both trees anew, from the first lines of the docstrings.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import ddpm_cli
from tests.test_house import FLOORS, HEIGHT, room

TOP = Path(ddpm_cli.__file__).parent.parent
README, ARCHITECTURE = TOP / "README.md", TOP / "docs" / "architecture.md"
TREES = {README: "## The tree", ARCHITECTURE: "## Every file"}  # headings of the trees
BESIDE = [  # rows of the README's tree for what is no package
    ("docs/", "how to use it, and how it is built"),
    ("examples/", "whole experiments as short scripts"),
    ("tests/", "by room as the code; benchmarks/ measures, and is not run by pytest"),
]


def rooms() -> list[tuple[str, str]]:
    """Folder and first line of its docstring, core's rooms from the lowest floor up."""
    package = TOP / "ddpm_cli"
    rows = [("ddpm_cli/", first_line(package))]
    for part in ("cli", "core"):
        rows.append((f"  {part}/", first_line(package / part)))
        inner = [
            path
            for path in (package / part).iterdir()
            if (path / "__init__.py").exists() or path.name == "errors.py"
        ]
        for path in sorted(inner, key=lambda path: (floor(path), path.name)):
            name = path.name + "/" * path.is_dir()
            rows.append((f"    {name}", first_line(path)))
    return rows + BESIDE


def floor(path: Path) -> int:
    return HEIGHT[room(".".join(path.relative_to(TOP / "ddpm_cli").with_suffix("").parts))]


def files() -> list[tuple[str, str]]:
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
    return rows


def first_line(path: Path) -> str:
    path = path / "__init__.py" if path.is_dir() else path
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def tree(page: Path) -> str:
    """The lines of a page's tree, as they should be."""
    rows = rooms() if page == README else files()
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:{width}}{line}".rstrip() + "\n" for name, line in rows)


def parts(page: Path) -> tuple[str, str, str]:
    """A page before its tree, the tree, and the page after it."""
    head, heading, rest = page.read_text().partition(f"{TREES[page]}\n")
    before, opening, rest = rest.partition("```\n")
    shown, closing, after = rest.partition("```\n")
    assert heading and opening and closing, f"{page}: no tree below {TREES[page]!r}"
    return head + heading + before + opening, shown, closing + after


def main() -> None:
    for page in TREES:
        before, _, after = parts(page)
        page.write_text(before + tree(page) + after)


def test_the_trees_are_the_package() -> None:
    for page in TREES:
        assert parts(page)[1].splitlines() == tree(page).splitlines(), (
            "python -m tests.test_readme writes the trees anew"
        )


def test_the_floors_of_the_architecture_are_those_that_hold() -> None:
    table = re.findall(r"^\| \d+ \| ([^|]*) \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    floors = [tuple(re.findall(r"`([^`]*)`", cell)) for cell in table]
    named = {"core/errors.py": "core.errors", "ddpm_cli/__init__.py": "library"}
    names = [tuple(named.get(name, name.replace("/", ".")) for name in cell) for cell in floors]
    assert tuple(reversed(names)) == FLOORS


def test_the_reading_order_is_as_long_as_it_says() -> None:
    section = ARCHITECTURE.read_text().partition("## Reading order")[2].partition("\n## ")[0]
    stated = re.findall(r"about ([\d,]+) lines", section)
    names = re.findall(r"^\| `([^`]*)`", section, flags=re.MULTILINE)
    core = TOP / "ddpm_cli" / "core"
    lines = sum(len((core / name).read_text().splitlines()) for name in names)
    assert abs(lines - int(stated[0].replace(",", ""))) < 100


def test_paths_in_the_pages_exist() -> None:
    below = {path.relative_to(TOP).as_posix() for path in TOP.glob("*/**/*.py")}
    for page in (README, *(TOP / "docs").glob("*.md")):
        for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text()):
            assert any(path.endswith("/" + name) or path == name for path in below), (page, name)


def test_links_and_images_exist() -> None:
    for page in (README, *(TOP / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


def test_continuous_integration_runs_the_readmes_test_command(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python3 -m venv .*/pytest$", README.read_text(), flags=re.MULTILINE)
    venv, install, test = (part.split() for part in command.split(" && "))
    assert (venv[0], install[0], test) == ("python3", ".venv/bin/pip", [".venv/bin/pytest"])

    (tmp_path / ".ci").mkdir()
    for name in ("README.md", ".ci/run"):
        (tmp_path / name).write_text((TOP / name).read_text())
    log, tools = tmp_path / "log", tmp_path / "tools"
    tools.mkdir()
    record = tools / "record"
    record.write_text(f'#!/bin/sh\necho "$0" "$@" >> "{log}"\n')
    python = tools / "python3"
    python.write_text(
        f'#!/bin/sh\n. "{record}"\nmkdir -p .venv/bin\n'
        f'for tool in pip ruff mypy pytest; do cp "{record}" .venv/bin/$tool; done\n'
    )
    record.chmod(0o755)
    python.chmod(0o755)
    subprocess.run(
        ["bash", tmp_path / ".ci" / "run"],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    called = log.read_text().replace(f"{tools}/", "").splitlines()
    lint = [".venv/bin/ruff check .", ".venv/bin/ruff format --check .", ".venv/bin/mypy"]
    installed = " ".join(install).replace("'", "")
    assert called == [" ".join(venv), installed, *lint, " ".join(test)]


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.sh", "*.toml", "*.yaml"],
        cwd=TOP,
        capture_output=True,
        text=True,
    ).stdout.split()
    for name in tracked:
        text = (TOP / name).read_text()
        assert "/" + "work/" not in text, name
        assert "/" + "tmp/" not in text, name


if __name__ == "__main__":
    main()
