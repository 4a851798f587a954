"""The wheel and the sdist: what they hold, and that an installed wheel runs outside of the tree."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import ddpm_cli

TOP = Path(ddpm_cli.__file__).parent.parent
MISSING = [name for name in ("build", "hatchling", "pip") if not importlib.util.find_spec(name)]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)} (the extra `test`)"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, TOP)
    return folder


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_files() -> set[str]:
    """Every file of the package, py.typed among them."""
    return {
        path.relative_to(TOP).as_posix()
        for path in (TOP / "ddpm_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == package_files()


def test_the_sdist_holds_package_tests_and_docs(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() | {"pyproject.toml", "README.md", "tests/conftest.py"} <= names
    tops = {"ddpm_cli", "tests", "docs", "examples", "pyproject.toml", "README.md", "PKG-INFO"}
    assert {name.split("/")[0] for name in names} - tops <= {".gitignore", ".mkdocs.yml"}


def test_an_installed_wheel_runs_outside_of_the_tree(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index"]
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel)

    # The dependencies come from the environment of the tests: paths in a .pth are only appended.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(shared)) + "\n")

    def outside(*command: object) -> str:
        return run(*command, cwd=tmp_path, env=clean)

    place = outside(python, "-c", "import ddpm_cli; print(ddpm_cli.__file__)").strip()
    assert Path(place).is_relative_to(packages)
    assert ddpm_cli.__version__ in outside(scripts / "ddpm", "--version")
    assert "train" in outside(scripts / "ddpm", "--help")
    assert "train" in outside(python, "-m", "ddpm_cli", "--help")
