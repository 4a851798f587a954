"""The house's rules, read from the imports: floors, single owners, a light front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_cli

ROOT = Path(ddpm_cli.__file__).parent

FLOORS = {  # a module's floor is that of the longest prefix
    "core.errors": 0,
    "core.config": 0,
    "core.conditions": 0,
    "core.architecture": 0,
    "core.plain": 0,
    "core.presets": 0,
    "core.tensors": 0,
    "core.plots": 0,
    "core.runtime": 0,
    "core.data.pixels": 0,
    "core.data.files": 0,
    "core.data.archives": 0,
    "core.data": 1,
    "core.models.frozen": 0,
    "core.models": 1,
    "core.diffusion.schedules": 1,
    "core.diffusion.grids": 1,
    "core.diffusion": 2,
    "core.weights": 2,
    "core.wishes": 2,
    "core.training": 3,
    "core.conversion": 3,
    "core.generation": 3,
    "core.inspection": 3,
    "core.metrics": 3,
    "core.judging": 4,
    "cli": 5,
}
OWNERS = {
    "torch.distributed": {
        "core.runtime.distributed",
        "core.runtime.launch",
        "core.runtime.failures",
    },
    "torch.nn.parallel": {"core.runtime.distributed"},
    "PIL": {"core.data.files"},
    "imageio": {"core.data.files"},
    "safetensors": {"core.tensors"},
    "matplotlib": {"core.plots"},
    "rich": {"cli.console"},
    "transformers": {"core.models.frozen"},
    "huggingface_hub": {"core.models.frozen"},
    "typer": {"cli"},
}


def modules() -> dict[str, list[str]]:
    """Every module of the package and what it imports, by dotted names."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imported = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported += [f"{node.module}.{alias.name}" for alias in node.names]
        found[name] = imported
    return found


def floor(name: str) -> int | None:
    matches = [prefix for prefix in FLOORS if name == prefix or name.startswith(prefix + ".")]
    return FLOORS[max(matches, key=len)] if matches else None


def room(name: str) -> str:
    """The folder under core that a module lies in, the module itself, or cli."""
    return "cli" if name.startswith("cli") else ".".join(name.split(".")[:2])


def inside() -> list[tuple[str, str]]:
    """Pairs (module, module of ours that it imports)."""
    known = modules()
    pairs = []
    for name, imported in known.items():
        for target in imported:
            if target.startswith("ddpm_cli."):
                target = target.removeprefix("ddpm_cli.")
                while target not in known and "." in target:
                    target = target.rpartition(".")[0]
                pairs.append((name, target))
    return pairs


def test_every_module_has_a_floor() -> None:
    assert [
        n for n in modules() if floor(n) is None and n not in ("", "__init__", "__main__", "core")
    ] == []


def test_imports_go_down_or_stay_in_the_room() -> None:
    wrong = [
        f"{name} -> {target}"
        for name, target in inside()
        if floor(name) is not None
        and floor(target) is not None
        and not (floor(target) < floor(name) or room(name) == room(target))
        and not (floor(name) == floor(target) == 0)
    ]
    assert wrong == []


def test_models_and_diffusion_do_not_know_each_other() -> None:
    wrong = [
        (name, target)
        for name, target in inside()
        if {room(name), room(target)} == {"core.models", "core.diffusion"}
        or (room(name) == "core.metrics" and room(target) in ("core.diffusion", "core.training"))
        or (name.startswith("core") and target.startswith("cli"))
    ]
    assert wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_single_owners(library: str) -> None:
    users = {
        name
        for name, imported in modules().items()
        if any(target == library or target.startswith(library + ".") for target in imported)
    }
    strangers = {
        user
        for user in users
        if not any(user == o or user.startswith(o + ".") for o in OWNERS[library])
    }
    assert users, f"nobody imports {library}"
    assert strangers == set()


def test_only_snapshots_and_tensors_load_torch_files() -> None:
    loaders = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "load"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    }
    assert loaders <= {"core/training/snapshots.py", "core/tensors.py"}


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sample"], ["fid"], ["nll"], ["inspect-schedule"]]
)
def test_help_does_not_import_torch(command: list[str]) -> None:
    program = (
        "import sys; from ddpm_cli.cli.app import main\n"
        f"sys.argv = ['ddpm', *{command}, '--help']\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
        "heavy = {'torch', 'torchvision', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_top_level_holds_nothing_else() -> None:
    expected = {"pyproject.toml", "README.md", "ddpm_cli", "tests", "examples", "docs"}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    top = {name.split("/")[0] for name in tracked if name}
    assert {name for name in top if not name.startswith(".")} <= expected
