"""Fixtures of all tests: an empty working directory and a cache, the command line in process."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer.main
from hypothesis import settings

from ddpm_cli.cli.app import main
from ddpm_cli.core.figures import plots
from ddpm_cli.core.training import preview
from tests.support.cli import TINY, Result, write_images
from tests.support.local_standin import write_classifier

# Tests run in parallel, one process per core, and many start processes themselves: if each used all
# cores for its small tensors, they would mostly wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Background jobs of a shell ignore SIGINT, and jobs under nohup SIGHUP; their child processes would
# inherit that.
if sys.platform != "win32":
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

# A program builds its commands once, which takes longer than most of them.
built = functools.cache(typer.main.get_command)

# Property-based tests use the same examples every time, and no database on the disk.
settings.register_profile("ddpm", max_examples=50, deadline=None, database=None, derandomize=True)
settings.load_profile("ddpm")


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: many tests wait for processes of their own."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _isolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Run every test in an empty working directory, with one cache for the session."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    cache = request.getfixturevalue("session_cache")
    monkeypatch.setenv("DDPM_CACHE", str(cache))
    monkeypatch.setenv("DDPM_TRACEBACK", "")
    if "loss_curve" not in request.fixturenames:  # it takes longer than the trainings of tests
        monkeypatch.setattr(plots, "loss_curve", lambda *_: None)
    for name in os.environ:
        if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ENVIRONMENT") or name.startswith(
            ("SLURM_", "TORCHELASTIC", "MASTER_")
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def loss_curve() -> None:
    """Trainings of this test draw their loss curve."""


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def ddpm(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Call the command line as a shell would, in this process."""

    monkeypatch.setattr(typer.main, "get_command", built)

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
    """The images of `photos`, written once per session: writing waits for the disk."""
    return write_images(tmp_path_factory.mktemp("written") / "photos")


@pytest.fixture
def photos(tmp_path: Path, written_photos: Path) -> Path:
    """A folder of 24 images of 8x8 in two classes: dark and light."""
    copy = shutil.copyfile  # with new modification times, so that tests share no cache entries
    return shutil.copytree(written_photos, tmp_path / "photos", copy_function=copy)


@pytest.fixture
def train_tiny(
    ddpm: Callable[..., Result], tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Train the tiny network on the photos, or that of another --config; previews in few steps."""
    monkeypatch.setattr(preview, "_STEPS", 2)

    def call(*arguments: object) -> Result:
        config = () if "--config" in arguments else ("--config", tiny)
        return ddpm("train", "--data", photos, *config, *arguments)

    return call


@pytest.fixture(scope="session")
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tiny_run(train_tiny: Callable[..., Result], kept_runs: Path) -> Callable[..., Path]:
    """The run that `train_tiny` makes of some options, or a copy of that of an earlier test."""

    def call(out: str, *options: object) -> Path:
        kept = kept_runs / "-".join([out, *map(str, options)]).replace("/", "-")
        if kept.is_dir():
            return Path(shutil.copytree(kept, out))
        assert train_tiny("--out", out, *options).code == 0
        return Path(shutil.copytree(out, kept) and out)

    return call


@pytest.fixture
def quick_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores during a training sample in few steps."""
    monkeypatch.setattr("ddpm_cli.core.training.scoring._STEPS", 4)


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of 4 images of each setting writes its default, also where these tell nothing apart.

    Whether they do depends on the last digits of a random network's images.
    """
    monkeypatch.setattr("ddpm_cli.core.sweep.results.ENOUGH", 4)
    monkeypatch.setattr("ddpm_cli.core.sweep.ranking.told_apart", lambda _: True)


@pytest.fixture
def planned_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry runs measure no steps, and refuse no network that is too large for this machine."""
    monkeypatch.setattr(
        "ddpm_cli.core.training.preparation.trial.measure", lambda *_: "not measured"
    )
    monkeypatch.setattr("ddpm_cli.core.runtime.devices.total_memory", lambda _: None)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A simulated scontrol that logs its arguments; the log file."""
    log = tmp_path / "scontrol.log"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = requeue ]; then kill -TERM $$; fi\n'  # requeue ends its own job
        f'echo "$@" >> {log}\necho first\necho second\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return log


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA GPU; without one the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's weights file, for --features."""
    return write_classifier(tmp_path_factory.mktemp("local") / "shapes.safetensors")


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """A function that draws standard normal tensors, with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
