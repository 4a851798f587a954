"""The layout of the tests: a folder for each package, shared helpers in tests/support."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import ddpm_cli

TESTS = Path(__file__).parent
ROOT = Path(ddpm_cli.__file__).parent
PACKAGES = {path.name for path in (ROOT / "core").iterdir() if path.is_dir()} | {"cli"}
OTHERS = {
    "support",  # helpers of several test modules
    "regression",  # behaviour of the whole program, compared with a record
    "benchmarks",  # measurements, not run by pytest
}
# The README's list of packages is in the order of test_imports.


def test_folders_are_rooms_of_the_package() -> None:
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("*/*.py")}
    assert folders - PACKAGES - OTHERS == set()


def test_names_of_test_modules_are_unique() -> None:
    """pytest cannot collect two of the same name: their folders are no packages."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_test_modules_do_not_import_each_other() -> None:
    imports = {
        (path.relative_to(TESTS).as_posix(), name)
        for path in TESTS.rglob("*.py")
        for name in imported_by(ast.parse(path.read_text()))
        if name.startswith("tests.")
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    }
    assert imports == set()


def imported_by(tree: ast.Module) -> set[str]:
    """The modules that a module imports, by absolute names; `from a import b` imports a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, ast.unparse(node)
            names.add(node.module)
            if node.module == "tests" or node.module in {
                f"tests.{package}" for package in PACKAGES
            }:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_of_test_modules_are_detected() -> None:
    program = "import os\nfrom tests import conftest\nfrom tests.data.test_images import saved\n"
    found = imported_by(ast.parse(program))
    assert found == {"os", "tests", "tests.conftest", "tests.data.test_images"}
