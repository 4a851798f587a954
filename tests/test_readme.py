"""The README is true: its tree, its commands, its links."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import ddpm_cli

TOP = Path(ddpm_cli.__file__).parent.parent
README = (TOP / "README.md").read_text()


def tree() -> list[str]:
    """One line a file, as in the README: its name and the first line of its docstring."""
    lines: list[tuple[str, str]] = []

    def walk(folder: Path, indent: str) -> None:
        for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            if path.is_dir() and path.name != "__pycache__":
                lines.append((f"{indent}{path.name}/", first_line(path / "__init__.py")))
                walk(path, indent + "  ")
            elif path.suffix == ".py" and path.name != "__init__.py":
                lines.append((indent + path.name, first_line(path)))

    walk(TOP / "ddpm_cli", "  ")
    return [f"{name} {about}" for name, about in lines]


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def test_the_tree_is_the_packages() -> None:
    shown = README.partition("## The tree")[2].splitlines()
    shown = [re.sub(r"(?<=\S)  +", " ", line) for line in shown if line.startswith("  ")]
    assert shown == tree()


def test_links_and_pictures_exist() -> None:
    for page in (TOP / "README.md", *(TOP / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^python3 -m venv .*", README, flags=re.MULTILINE)
    assert len(commands) == 2
    assert commands[1].endswith("/pytest")
    assert "README.md" in (TOP / ".ci" / "run").read_text()


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.sh", "*.toml"],
        cwd=TOP,
        capture_output=True,
        text=True,
    ).stdout.split()
    for name in tracked:
        text = (TOP / name).read_text()
        assert "/" + "work/" not in text, name
        assert "/" + "tmp/" not in text, name
