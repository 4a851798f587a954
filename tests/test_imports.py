"""The rules of the layout, read from the imports: layers, single owners, no import cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import ddpm_cli
from tests.support.cli import Result
from tests.support.layout import HEIGHT, package

ROOT = Path(ddpm_cli.__file__).parent

OWNERS = {
    "torch.distributed": {
        "core.runtime.distributed",
        "core.runtime.elastic.launch",
        "core.runtime.elastic.failures",
        "core.runtime.elastic.rendezvous",
    },
    "torch.nn.parallel": {"core.runtime.distributed"},
    "PIL": {
        "core.data.files",
        "core.data.colours",
        "core.data.resizing",
        "core.data.pictures.sheets",
        "core.data.pictures.films",
        "core.data.pictures.palettes",
    },
    "imageio": {"core.data.pictures.films"},
    "safetensors": {"core.checkpoints.tensors"},
    "matplotlib": {"core.figures"},
    "jinja2": {"core.report"},
    "rich": {"cli.console", "cli.panel", "cli.tables"},
    "transformers": {"core.conditioning.frozen_encoder"},
    "huggingface_hub": {"core.conditioning.frozen_encoder", "core.hub"},
    "typer": {"cli"},
    "tensorboard": {"core.tracking.tensorboard"},
    "wandb": {"core.tracking.wandb"},
    "trackio": {"core.tracking.trackio"},
    "mlflow": {"core.tracking.mlflow"},
}
TORCH_LOADERS = {"core.checkpoints.snapshots", "core.checkpoints.tensors"}
NOT_COMMANDS = {"__init__"}


@cache
def parsed() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name; the package itself is ""."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


@cache
def imports() -> dict[str, list[str]]:
    """What every module imports, anywhere in it, by absolute dotted names."""
    found: dict[str, list[str]] = {}
    for name, tree in parsed().items():
        found[name] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[name] += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{name} imports relatively"
                found[name] += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@cache
def inside() -> dict[str, set[str]]:
    """The modules of the package that each module imports."""
    found: dict[str, set[str]] = {}
    for name, imported in imports().items():
        found[name] = set()
        for target in imported:
            if target == "ddpm_cli.__version__":
                continue  # defined without any import, for every module
            if target == "ddpm_cli" or target.startswith("ddpm_cli."):
                target = target.removeprefix("ddpm_cli").removeprefix(".")
                while target not in parsed():
                    target = target.rpartition(".")[0]
                found[name].add(target)
    return found


def test_every_module_is_in_a_package_of_the_plan() -> None:
    assert {package(name) for name in parsed()} - {"core"} - set(HEIGHT) == set()


def test_imports_go_down_or_stay_in_the_package() -> None:
    wrong = [
        f"{name} -> {target}"
        for name, targets in inside().items()
        for target in sorted(targets)
        if package(name) != package(target) and HEIGHT[package(target)] >= HEIGHT[package(name)]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "one, other",
    [
        ("core.models", "core.diffusion"),
        ("core.diffusion", "core.models"),
        ("core.metrics", "core.diffusion"),
    ],
)
def test_packages_that_do_not_know_each_other(one: str, other: str) -> None:
    pairs = {(package(name), package(target)) for name in inside() for target in inside()[name]}
    assert (one, other) not in pairs


def test_the_core_does_not_know_the_command_line() -> None:
    wrong = [
        (name, target)
        for name, targets in inside().items()
        for target in targets
        if name.startswith("core") and not target.startswith("core")
    ]
    assert wrong == []


def test_no_import_cycles_in_the_core() -> None:
    graph = {
        name: {target for target in targets if target.startswith("core.") and target != name}
        for name, targets in inside().items()
        if name.startswith("core.")
    }
    assert [circle for circle in components(graph) if len(circle) > 1] == []


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            place = stack.index(name)
            found.append(sorted(stack[place:]))
            del stack[place:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def test_components_finds_a_cycle() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}
    assert components(graph) == [["d"], ["a", "b", "c"]]


@pytest.mark.parametrize("library", OWNERS)
def test_single_owners(library: str) -> None:
    users = {
        name
        for name, imported in imports().items()
        if any(target == library or target.startswith(library + ".") for target in imported)
    }
    strangers = {
        user
        for user in users
        if not any(user == owner or user.startswith(owner + ".") for owner in OWNERS[library])
    }
    assert users, f"nobody imports {library}"
    assert strangers == set()


def test_only_snapshots_and_tensors_load_torch_files() -> None:
    loaders = {
        name
        for name, tree in parsed().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "load"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    }
    assert loaders <= TORCH_LOADERS


def test_settings_need_no_torch() -> None:
    heavy = {"torch", "torchvision", "scipy", "matplotlib", "numpy"}
    wrong = [
        (name, target)
        for name, imported in imports().items()
        for target in imported
        if package(name) in ("core.config", "core.errors") and target.split(".")[0] in heavy
    ]
    assert wrong == []


def test_one_file_per_command() -> None:
    folder = ROOT / "cli" / "commands"
    files = {path.stem for path in folder.glob("*.py")} - NOT_COMMANDS
    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import typer; from ddpm_cli.cli.app import app; "
            "print(*typer.main.get_command(app).commands, sep='\\n')",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {command.replace("-", "_").replace(" ", "_") for command in listed} == files
    assert [path.name for path in folder.iterdir() if path.is_dir()] in ([], ["__pycache__"])


@pytest.mark.parametrize(
    "program",
    ["import ddpm_cli", "import ddpm_cli; ddpm_cli.__version__", "import ddpm_cli.cli.app"],
)
def test_importing_the_package_does_not_import_torch(program: str) -> None:
    assert loaded(f"{program}\n") == set()


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sample"], ["fid"], ["nll"], ["inspect-schedule"]]
)
def test_help_does_not_import_torch(command: list[str]) -> None:
    program = (
        "from ddpm_cli.cli.app import main\n"
        f"sys.argv = ['ddpm', *{command}, '--help']\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code\n"
    )
    assert loaded(program, expected="Usage") == set()


NOT_FOR_SAMPLING = {  # what it takes to import is a part of every short command
    "torch.distributed.elastic": "our launcher's, for --nproc only",
    "torch._dynamo": "for --compile only",
    "torch._inductor": "for --compile only",
    "torchvision": "for scores and data sets only",
    "scipy": "for one spacing of steps, and for scores",
    "matplotlib": "for plots only",
    "imageio": "for films only",
    "PIL.TiffImagePlugin": "of formats that a folder of samples does not hold",
}


def test_sampling_imports_only_what_it_uses(
    tmp_path: Path, train_tiny: Callable[..., Result]
) -> None:
    train_tiny("--out", "run", "--images", 8, "--preview", 0)
    program = (
        "import sys; from ddpm_cli.cli.app import main\n"
        "sys.argv = 'ddpm sample run -n 1 --steps 1'.split()\n"
        "try: main()\n"
        "except SystemExit as ending: assert not ending.code, ending.code\n"
        f"print(*{set(NOT_FOR_SAMPLING)} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "1 image in" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == ""


def loaded(program: str, expected: str = "") -> set[str]:
    """The heavy libraries that a program has imported at its end."""
    ending = (
        "print(*{'torch', 'torchvision', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules), "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}{ending}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    return set(done.stderr.split())


def test_top_level_holds_nothing_else() -> None:
    expected = {"pyproject.toml", "README.md", "ddpm_cli", "tests", "examples", "docs"}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    top = {name.split("/")[0] for name in tracked if name}
    assert {name for name in top if not name.startswith(".")} <= expected
