"""The command line in tests: results of calls, processes, a tiny run's settings and images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_cli.core.data import files
from tests.support import ranks

TINY = {  # settings of a network that trains in a second
    "network": {
        "width": 8,
        "multipliers": [1, 2],
        "blocks": ["res", "res,attn"],
        "modulation": "scale-shift",
        "patch": 2,
        "heads": 1,
        "head_width": None,
        "dropout": 0.0,
    },
    "diffusion": {"schedule": "cosine", "parameterisation": "v"},
    "optimiser": {"batch": 8, "lr": 2e-3, "warmup": 16, "decay": 0.0, "ema_halflife": 64},
    "budget": {"images": 64},
    "snapshot_every": 32,
    "validate_every": 32,
    "log_every": 8,
    "preview": 2,
}


class Result(NamedTuple):
    """Exit code and output of one call of the command line."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def write_images(folder: Path) -> Path:
    """Write 24 images of 8x8 in two classes, dark and light, into a folder; returns the folder."""
    rng = np.random.default_rng(0)
    for label, base in (("dark", 40), ("light", 200)):
        for i in range(12):
            pixels = (base + rng.integers(-20, 20, (3, 8, 8))).astype(np.uint8)
            files.write_png(folder / label / f"{i}.png", pixels)
    return folder


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `ddpm ARGUMENTS` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm_cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stdout_of(process: subprocess.Popen[str]) -> str:
    """Wait for a process that succeeds; what it printed on stdout."""
    out, err = process.communicate(timeout=ranks.SECONDS)
    assert process.returncode == 0, err
    return out


def config_of(run: str) -> Any:
    """The config.json of a run."""
    return json.loads(Path(run, "config.json").read_text())


def refused(result: Result, *words: str) -> None:
    """An error of one line that has these words in it."""
    assert result.code in (1, 2), result
    assert result.err.startswith("ddpm: ") and len(result.err.splitlines()) == 1, result.err
    assert all(word in result.err for word in words), result.err
