"""Commands that wait for another process to download their data set say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

import ddpm_cli
from ddpm_cli.core.data import named
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import locks
from tests.support.cli import Result

Run = Callable[..., Result]

WAITING = "another process is downloading or opening mnist; waiting for it"


@pytest.fixture(autouse=True)
def downloading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another process holds the lock of mnist, and frees it as soon as it is waited for."""

    def acquire(file: IO[Any], *, blocking: bool = False) -> bool:
        return blocking

    def opened(*args: object) -> None:
        raise DdpmError("opened")

    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(locks, "_acquire", acquire)
    monkeypatch.setattr(locks, "_REPORT_AFTER", 0, raising=False)
    monkeypatch.setattr(named, "_open_torchvision", opened)


@pytest.mark.parametrize(
    "command",
    [
        ("fid", "mnist", "mnist:test"),
        ("fid", "photos", "mnist"),
        ("inception-score", "mnist"),
        ("train", "--data", "mnist", "--dry-run"),
        ("train", "--data", "mnist", "--nproc", 2, "--device", "cpu"),
        ("train-classifier", "--data", "mnist"),
    ],
)
def test_it_says_so(ddpm: Run, photos: Path, command: tuple[Any, ...]) -> None:
    result = ddpm(*(photos if word == "photos" else word for word in command))
    assert (result.code, result.err) == (1, f"{WAITING}\nddpm: opened\n")


def test_nll_says_so(
    ddpm: Run, train_tiny: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_acquire", lambda file, **kwargs: True)
        assert train_tiny("--out", "run").code == 0
    result = ddpm("nll", "run", "--data", "mnist")
    assert (result.code, result.err) == (1, f"{WAITING}\nddpm: opened\n")


@pytest.mark.parametrize(("progress", "err"), [(True, f"{WAITING}\n"), (False, "")])
def test_the_library_says_so_where_it_reports(
    capfd: pytest.CaptureFixture[str], progress: bool, err: str
) -> None:
    with pytest.raises(DdpmError, match="opened"):
        ddpm_cli.fid("mnist", "mnist:test", progress=progress)
    assert capfd.readouterr().err == err
