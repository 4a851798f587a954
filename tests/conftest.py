"""What the tests share: a cache and a working folder of their own, the command line in process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings

from ddpm_cli.cli.app import main
from ddpm_cli.core.data import files
from tests.support.local_standin import write_classifier

TINY = {
    "network": {
        "width": 8,
        "multipliers": [1, 2],
        "blocks": ["res", "res,attn"],
        "modulation": "scale-shift",
        "patch": 2,
        "dropout": 0.0,
    },
    "diffusion": {"schedule": "cosine", "parameterisation": "v"},
    "optimiser": {"batch": 8, "lr": 2e-3, "warmup": 16, "ema_halflife": 64},
    "budget": {"images": 64},
    "snapshot_every": 32,
    "preview": 2,
}


# Tests run side by side, a process for each core, and many start processes of their own: were each
# to use all cores for its small tensors, they would mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and nohup SIGHUP; so would all that the tests start.
if sys.platform != "win32":
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

# Properties are tried on the same examples every time, and leave nothing on the disk.
settings.register_profile("ddpm", max_examples=50, deadline=None, database=None, derandomize=True)
settings.load_profile("ddpm")


class Result(NamedTuple):
    """How one call of the command line ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Run every test in a folder of its own, with one cache of decoded pictures for the session."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    cache = request.getfixturevalue("session_cache")
    monkeypatch.setenv("DDPM_CACHE", str(cache))
    monkeypatch.setenv("DDPM_TRACEBACK", "")
    for name in os.environ:
        if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") or name.startswith(
            ("SLURM_", "TORCHELASTIC")
        ):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ddpm(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Call the command line as a shell would, in this process."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["ddpm", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A --config file of a network that trains in a second."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="session")
def written_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `photos`, which are written once: that waits for the disk."""
    return write_photos(tmp_path_factory.mktemp("written") / "photos")


@pytest.fixture
def photos(tmp_path: Path, written_photos: Path) -> Path:
    """A folder of 24 pictures of 8x8 in two classes: dark ones and light ones."""
    copy = shutil.copyfile  # and not its time: what is cached of one test's is not another's
    return shutil.copytree(written_photos, tmp_path / "photos", copy_function=copy)


def write_photos(folder: Path) -> Path:
    """Write the pictures of the fixture `photos` into a folder; that folder."""
    rng = np.random.default_rng(0)
    for label, base in (("dark", 40), ("light", 200)):
        for i in range(12):
            pixels = (base + rng.integers(-20, 20, (3, 8, 8))).astype(np.uint8)
            files.write_png(folder / label / f"{i}.png", pixels)
    return folder


@pytest.fixture
def train_tiny(ddpm: Callable[..., Result], tiny: Path, photos: Path) -> Callable[..., Result]:
    """Train the tiny network on the photos."""

    def call(*arguments: object) -> Result:
        return ddpm("train", "--data", photos, "--config", tiny, *arguments)

    return call


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol that writes down what it was asked; the file it writes to."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = requeue ]; then kill -TERM $$; fi\n'  # it ends the job it is in
        f'echo "$@" >> {asked}\necho first\necho second\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return asked


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file for --features."""
    return write_classifier(tmp_path_factory.mktemp("local") / "shapes.safetensors")


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """Standard normal tensors of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
