"""Names that one call takes for itself, and what is said where nothing can be written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import tensors
from ddpm_cli.core.data import files as images
from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import canvas, plots
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime import files

NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
FRAMES = [NOISE, 255 - NOISE]


def contents(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process can become larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_name_is_taken_while_the_file_is_made() -> None:
    path = Path("film.gif")
    with files.new_file(path, numbered=True) as first, files.new_file(path, numbered=True) as other:
        assert (first.name, other.name) == ("film.gif", "film-2.gif")
        with pytest.raises(DdpmError, match="exists; choose another --out, or add --overwrite"):
            files.new_file(path).__enter__()
        files.write_bytes(other, b"x", durable=False)
    assert contents() == ["film-2.gif"]


def test_a_name_is_free_again_after_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), files.new_file(Path("a/film.gif")):
        raise KeyboardInterrupt
    assert contents("a") == []


def test_a_file_stays_until_it_is_replaced() -> None:
    path = Path("film.gif")
    path.write_bytes(b"old")
    with pytest.raises(ValueError), files.new_file(path, overwrite=True):
        raise ValueError
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("path", ["folder", "/dev/null"])
def test_only_files_are_replaced(path: str, *, overwrite: bool) -> None:
    Path("folder").mkdir()
    with (
        pytest.raises(DdpmError, match=r"is no file; choose another --plot$"),
        files.new_file(Path(path), "--plot", overwrite=overwrite),
    ):
        pytest.fail("it began")


def test_folders_are_taken_one_each() -> None:
    made = [files.new_folder(Path("runs/cats")).name for _ in range(3)]
    assert made == ["cats", "cats-2", "cats-3"]
    Path("link").symlink_to("nowhere")
    with pytest.raises(DdpmError, match=r"cannot write .*; choose another place"):
        files.new_folder(Path("link/cats"))


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "No space left on device; free some space, or choose another place"),
        (errno.EDQUOT, "quota exceeded; free some of your quota, or choose another place"),
        (errno.EROFS, "Read-only file system; choose another place"),
        (errno.EACCES, "Permission denied; choose another place"),
        (errno.EFBIG, "File too large; raise the limit on the size of files .*another place"),
    ],
)
def test_the_remedy_is_that_of_the_cause(
    monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    path = Path("x.png")
    for write in (lambda: images.write_png(path, NOISE), files.new_file(path).__enter__):
        with pytest.raises(DdpmError, match=rf"^cannot write {path}: .*{told}$"):
            write()
    assert contents() == []


def test_a_place_where_nothing_can_be_written_is_found_before_the_work() -> None:
    with (
        pytest.raises(DdpmError, match=r"cannot write /proc/x/film\.gif: .*; choose another place"),
        files.new_file(Path("/proc/x/film.gif"), numbered=True),
    ):
        pytest.fail("it began")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: images.write_png(path, NOISE),
        lambda path: films.write_gif(path, FRAMES, 1, 1),
        lambda path: plots.write_figure(path, canvas.Figure()),
        lambda path: tensors.write(path, {"x": torch.ones(2000)}, "key", ""),
        lambda path: Statistics(np.zeros(40), np.eye(40), 3).write(path),
    ],
)
def test_a_disk_that_fills_is_one_error_and_no_file(
    capfd: pytest.CaptureFixture[str], write: Callable[[Path], None]
) -> None:
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's default
    with pytest.raises(DdpmError, match=r"cannot write .*: File too large; raise"), limited(1000):
        write(Path("file"))
    assert contents() == []
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_features_that_do_not_fit_are_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    store = FeatureStore(8)
    store.append(torch.ones(2, 8))
    with pytest.raises(DdpmError, match="set TMPDIR to another folder"), limited(1000):
        store.append(torch.ones(100, 8))
    assert torch.equal(store.block(0, 9), torch.ones(2, 8))
    del store
    assert capfd.readouterr().err == ""


def test_the_space_of_a_memory_map_is_allocated() -> None:
    path = Path("array.npy")
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(1_000_000,))
    files.reserve(path)
    if hasattr(os, "posix_fallocate"):
        assert path.stat().st_blocks * 512 >= 1_000_000
