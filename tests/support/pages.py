"""The generated parts of README.md and docs/: `python -m tests.support.pages` writes them anew."""

from __future__ import annotations

import ast
import inspect
import json
import math
from pathlib import Path

import ddpm_cli
from ddpm_cli.core.config.fields import Setting, settings_of
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.settings import Sampling
from tests.support.layout import HEIGHT, package

CONFIGS = {
    "A run: config.json and --config files": RunConfig,
    "A call of ddpm train": TrainingRequest,
    "The machine": MachineConfig,
    "Sampling": Sampling,
}
TOP = Path(ddpm_cli.__file__).parent.parent
README, ARCHITECTURE = TOP / "README.md", TOP / "docs" / "architecture.md"
SETTINGS = TOP / "docs" / "settings.md"
GENERATED = {  # pages, and the heading above the part that is generated
    README: "## The tree",
    ARCHITECTURE: "## Every file",
    SETTINGS: "# Settings",
}
BESIDE = [  # rows of the README's tree for what is no package
    ("docs/", "how to use it, and how it is built"),
    ("examples/", "whole experiments as short scripts"),
    ("tests/", "by package as the code; benchmarks/ measures, and is not run by pytest"),
]


def packages() -> list[tuple[str, str]]:
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
    return rows + BESIDE


def layer(path: Path) -> int:
    return HEIGHT[package(".".join(path.relative_to(TOP / "ddpm_cli").with_suffix("").parts))]


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


def tree(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:{width}}{line}".rstrip() + "\n" for name, line in rows)


def settings() -> str:
    """A table a config dataclass: every setting, its default, unit, option and meaning."""
    tables = []
    for title, kind in CONFIGS.items():
        tables.append(f"## {title}\n\n{inspect.getdoc(kind).splitlines()[0]}\n\n")
        tables.append("| setting | default | option | meaning |\n| --- | --- | --- | --- |\n")
        tables += [row(setting) for setting in settings_of(kind)]
        tables.append("\n")
    return "".join(tables)


def row(setting: Setting) -> str:
    option = "" if setting.info.panel is None else f"`{setting.option.replace('/', '`, `')}`"
    default = setting.info.default_text or as_json(setting.default)
    unit = f" ({setting.info.unit})" if setting.info.unit else ""
    meaning = f"{setting.info.help}{unit}".replace("|", "\\|")
    return f"| `{setting.name}` | {default} | {option} | {meaning} |\n"


def as_json(value: object) -> str:
    return "infinity" if value == math.inf else f"`{json.dumps(value, default=str)}`"


def generated(page: Path) -> str:
    """The part of a page that is generated, as it should be."""
    if page == SETTINGS:
        return settings()
    return tree(packages() if page == README else files())


def parts(page: Path) -> tuple[str, str, str]:
    """A page before its generated part, that part, and the page after it."""
    head, heading, rest = page.read_text().partition(f"{GENERATED[page]}\n")
    opening = "<!-- generated -->\n" if page == SETTINGS else "```\n"
    before, opening, rest = rest.partition(opening)
    part, closing, after = (rest, "", "") if page == SETTINGS else rest.partition("```\n")
    assert heading and opening, f"{page}: nothing generated below {GENERATED[page]!r}"
    return head + heading + before + opening, part, closing + after


def main() -> None:
    for page in GENERATED:
        before, _, after = parts(page)
        page.write_text(before + generated(page) + after)


if __name__ == "__main__":
    main()
