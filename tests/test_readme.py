"""README.md and docs/ are true: their trees and tables, their commands, their links."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ddpm_cli
from tests.support import pages
from tests.support.layout import LAYERS
from tests.support.pages import ARCHITECTURE, DOCS, README
from tests.support.pages.text import TOP


def test_generated_parts_of_pages_are_current() -> None:
    assert pages.superfluous() == []
    for page, text in pages.expected().items():
        assert page.exists() and page.read_text() == text, (
            f"{page.name}: python -m tests.support.pages writes the generated parts anew"
        )


def test_the_layers_of_the_architecture_are_those_that_hold() -> None:
    table = re.findall(r"^\| \d+ \| ([^|]*) \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    layers = [tuple(re.findall(r"`([^`]*)`", cell)) for cell in table]
    named = {"core/errors.py": "core.errors", "ddpm_cli/__init__.py": "library"}
    names = [tuple(named.get(name, name.replace("/", ".")) for name in cell) for cell in layers]
    assert tuple(reversed(names)) == LAYERS


def test_the_reading_order_is_as_long_as_it_says() -> None:
    section = ARCHITECTURE.read_text().partition("## Reading order")[2].partition("\n## ")[0]
    stated = re.findall(r"about ([\d,]+) lines", section)
    names = re.findall(r"^\| `([^`]*)`", section, flags=re.MULTILINE)
    core = TOP / "ddpm_cli" / "core"
    lines = sum(len((core / name).read_text().splitlines()) for name in names)
    assert abs(lines - int(stated[0].replace(",", ""))) < 100


def test_paths_in_the_pages_exist() -> None:
    below = {path.relative_to(TOP).as_posix() for path in TOP.glob("*/**/*.py")}
    for page in (README, *DOCS.rglob("*.md")):
        for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text()):
            assert any(path.endswith("/" + name) or path == name for path in below), (page, name)


def test_links_and_images_exist() -> None:
    for page in (README, *DOCS.rglob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("browser", [True, False])
def test_continuous_integration_runs_the_readmes_test_command(
    tmp_path: Path, browser: bool
) -> None:
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
    apt = tools / "apt-get"
    apt.write_text(f'#!/bin/sh\n. "{record}"\n[ "$1" = update ]\n')  # nothing can be installed
    (tools / "id").write_text("#!/bin/sh\necho 0\n")
    if browser:
        (tools / "chromium").touch()
    for script in tools.iterdir():
        script.chmod(0o755)
    for name in ("bash", "dirname", "rm", "grep", "mkdir", "cp"):
        (tools / name).symlink_to(str(shutil.which(name)))
    subprocess.run(
        ["bash", tmp_path / ".ci" / "run"],
        env=os.environ | {"PATH": str(tools)},
        check=True,
        capture_output=True,
    )
    called = log.read_text().replace(f"{tools}/", "").splitlines()
    if not browser:
        assert called[:2] == ["apt-get update", "apt-get install --yes --no-install-recommends "
                              "chromium"]  # fmt: skip
        called = called[2:]
    lint = [".venv/bin/ruff check .", ".venv/bin/ruff format --check .", ".venv/bin/mypy"]
    installed = " ".join(install).replace("'", "")
    assert called == [" ".join(venv), installed, *lint, " ".join(test)]


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((DOCS / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"] and citation["authors"]
    assert citation["version"] == ddpm_cli.__version__


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
