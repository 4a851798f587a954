"""The README is true: its tree, its commands, its links; and the example scripts parse."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import typer

import ddpm_cli
from ddpm_cli.cli.app import app

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


@pytest.mark.parametrize("script", sorted((TOP / "examples").glob("*.sh")), ids=lambda p: p.name)
def test_examples_parse_and_use_options_that_exist(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    calls = re.findall(r"^ddpm ([a-z-]+) (.*)$", script.read_text(), flags=re.MULTILINE)
    assert calls
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command, arguments in calls:
        known = {name for p in commands[command].params for name in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<=\s)--?[a-z-]+", f" {arguments}"):
            assert option in known, f"{script.name}: {command} {option}"


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
