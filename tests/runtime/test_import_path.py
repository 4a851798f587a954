"""Nothing is imported from the working folder: unpacked data sets hold .py files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_cli import __version__
from ddpm_cli.core.runtime.elastic import launch
from ddpm_cli.core.runtime.reporting import Silent

ROOT = Path(__file__).parents[2]
NAMES = ("numpy", "profile", "random", "secrets", "signal", "torch", "typer", "zipfile")
DIRECTLY = "import sys; from ddpm_cli.__main__ import main; sys.argv[0] = 'ddpm'; main()"


@pytest.fixture(autouse=True)
def _decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of modules that fail, and a PYTHONPATH with an empty entry."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name}.py here was run')\n")
    (tmp_path / "ddpm_cli").mkdir()
    (tmp_path / "ddpm_cli" / "__main__.py").write_text("raise SystemExit('not this package')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(ROOT), ""]))


def output(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_of_workers(capfd: pytest.CaptureFixture[str]) -> None:
    launch.launch(launch.LaunchConfig(2), ["--version"], Silent())
    assert capfd.readouterr() == (f"ddpm {__version__}\n", "")


def test_of_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ddpm_cli" / "__main__.py").unlink()  # which `python -m` runs by definition
    (tmp_path / "ddpm_cli").rmdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert output("-m", "ddpm_cli", "--version") == f"ddpm {__version__}\n"
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}")
    assert output("-P", "-c", DIRECTLY, "--version") == f"ddpm {__version__}\n"


def test_of_its_children() -> None:
    program = (
        "import os, sys; from ddpm_cli import __main__ as program\n"
        "program._import_nothing_from_the_working_folder()\n"
        "import subprocess\n"
        "subprocess.run([sys.executable, '-c', 'import random, profile'], check=True)\n"
        "print(os.environ['PYTHONPATH'])"
    )
    assert output("-P", "-c", program) == f"{ROOT}\n"
