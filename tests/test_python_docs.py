"""docs/python.md and examples/python_api.py: every block runs, in order."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

import ddpm_cli

TOP = Path(ddpm_cli.__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (TOP / "docs/python.md").read_text(), re.M | re.S)


def test_every_block_runs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(trained, "classifier.safetensors")
    assert len(BLOCKS) >= 8
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/python.md block {number}", "exec"), names)
    out, err = capsys.readouterr()
    assert "local-FID" in out and "runs/none" in out
    assert err == ""  # progress is silent


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(TOP / "examples/python_api.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "sampled (8, 16, 16, 1) uint8",
        "gradient of D with respect to x: (2, 1, 16, 16)",
        "their network, our sampler: (2, 16, 16, 1)",
        "their network, their sampler: (2, 1, 16, 16)",
    ]
