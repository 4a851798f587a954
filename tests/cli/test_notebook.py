"""The commands as a notebook starts them: its plot backend, scripts all around, no home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNPACKED = ("json", "numpy", "queue", "random", "sitecustomize", "torch", "types", "typing")
PROGRAM = Path(sys.executable).with_name("ddpm")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the installed command in the environment of a notebook's shell."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.mark.skipif(not PROGRAM.is_file(), reason="ddpm is not installed beside this Python")
def test_a_notebooks_environment(photos: Path, tiny: Path) -> None:
    for name in UNPACKED:
        Path(f"{name}.py").write_text("raise SystemExit('a file of the working folder was run')")
    Path("matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\n")
    before = set(Path().iterdir())

    for arguments in (
        ("train", "--data", photos, "--config", tiny, "--images", 16, "--out", "run"),
        ("sample", "run", "-n", 2, "--steps", 2),
        ("gif", "run", "-n", 2, "--steps", 2),
        ("inspect-schedule", "--timesteps", 50, "--plot", "schedule.png"),
    ):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
    assert Path("run/loss.png").is_file() and Path("schedule.png").is_file()
    assert set(Path().iterdir()) == before | {Path("run"), Path("schedule.png")}
