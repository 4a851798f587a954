"""Decoded images in the cache: killed, damaged, shared by processes, in memory, listed, cleared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data import cache, decoding, files, loader
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.locks import lock_writing
from tests.support.training import Messages

COUNT, CHUNK = 20, 8
TRANSFORM = Transform(3, (8, 8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, whose arrays are written in chunks of 8 images."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_CHUNK", CHUNK)
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The images, (N, H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path: Path, pixels: np.ndarray) -> Source:
    """The images as PNG files, 00.png to 19.png."""
    (tmp_path / "few").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "few" / f"{number:02}.png")
    return open_source(str(tmp_path / "few"))


def prepare(source: Source, *said: Messages, **options: Any) -> DecodedImages:
    return loader.prepare(source, TRANSFORM, *said or (Messages(),), **options)


def shown(images: DecodedImages) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All of the images, (N, H, W, C)."""
    return images.take(np.arange(len(images)))[0].numpy().transpose(0, 2, 3, 1)


class DiesError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Let decoding die at one image; the names of the files that are decoded from then on."""
    decode = files.decode

    def install(number: int) -> list[str]:
        decoded: list[str] = []

        def decode_or_die(data: bytes, name: str, transform: Transform) -> Any:
            if name == f"{number:02}.png":
                raise DiesError
            decoded.append(name)
            return decode(data, name, transform)

        monkeypatch.setattr(files, "decode", decode_or_die)
        return decoded

    yield install


def test_decoding_that_died_goes_on_with_the_first_chunk_that_is_not_marked(
    source: Source, pixels: np.ndarray, dies_at: Callable[[int], list[str]], own_cache: Path
) -> None:
    dies_at(17)
    with pytest.raises(DiesError):
        prepare(source)
    assert not list(own_cache.glob("*.npy"))
    again, messages = dies_at(-1), Messages()
    assert np.array_equal(shown(prepare(source, messages)), pixels)
    assert sorted(again) == [f"{number:02}.png" for number in range(16, 20)]
    assert [line.rpartition("; ")[2] for line in messages.messages] == ["16 are decoded already"]
    assert not list(own_cache.glob("*.p*"))  # .partial and .progress


@pytest.mark.parametrize(
    "damage",
    [
        lambda partial, progress: partial.write_bytes(bytes(partial.stat().st_size)),
        lambda partial, progress: partial.write_bytes(b""),
        lambda partial, progress: partial.write_bytes(partial.read_bytes()[:-1000]),
        lambda partial, progress: partial.unlink(),
        lambda partial, progress: progress.write_bytes(b""),
        lambda partial, progress: progress.write_bytes(b"\0" * 40),
        lambda partial, progress: progress.write_bytes(progress.read_bytes()[:-4]),
        lambda partial, progress: progress.write_text("7 00000000\n99 1\n-1 0\nx y\n\u00e9\n"),
        lambda partial, progress: progress.unlink(),
    ],
)
def test_what_a_power_cut_lost_is_decoded_again(
    source: Source,
    pixels: np.ndarray,
    dies_at: Callable[[int], list[str]],
    own_cache: Path,
    damage: Callable[[Path, Path], None],
) -> None:
    """The pixels, their marks, or either of them in part."""
    dies_at(17)
    with pytest.raises(DiesError):
        prepare(source)
    (partial,), (progress,) = own_cache.glob("*.partial"), own_cache.glob("*.progress")
    damage(partial, progress)
    again = dies_at(-1)
    assert np.array_equal(shown(prepare(source)), pixels)
    assert len(again) > COUNT % CHUNK


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: b"\0" * len(data)])
def test_a_complete_array_that_is_damaged_is_decoded_again(
    source: Source, pixels: np.ndarray, own_cache: Path, cut: Callable[[bytes], bytes]
) -> None:
    key = prepare(source).key
    (array,) = own_cache.glob(f"*{key}.npy")
    array.write_bytes(cut(array.read_bytes()))
    assert np.array_equal(shown(prepare(source)), pixels)


def test_an_image_that_could_not_be_read_is_tried_again(
    source: Source, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunk is not marked: the cause may have been the network."""
    read = source.files.read

    def fails(index: int) -> bytes:
        if index == 3:
            raise files.UnreadableError("03.png: stale file handle")
        return read(index)

    monkeypatch.setattr(source.files, "read", fails)
    with pytest.raises(DdpmError, match=r"1 of 20 .*stale file handle.*--skip-bad"):
        prepare(source)
    monkeypatch.setattr(source.files, "read", read)
    messages = Messages()
    assert np.array_equal(shown(prepare(source, messages)), pixels)
    assert messages.messages[0].endswith("; 12 are decoded already")


def test_the_size_is_said_before(source: Source, own_cache: Path) -> None:
    messages = Messages()
    key = prepare(source, messages).key
    assert messages.messages == [f"decoding 20 images into 4 kB at {own_cache}/few-8x8x3-{key}.npy"]
    prepare(source, messages)
    assert len(messages.messages) == 1


def test_a_second_process_waits_and_takes_over_where_the_first_died(
    source: Source, pixels: np.ndarray, dies_at: Callable[[int], list[str]], own_cache: Path
) -> None:
    dies_at(17)
    with pytest.raises(DiesError):
        prepare(source)
    (partial,) = own_cache.glob("*.partial")
    program = (
        "import sys, pathlib\nfrom ddpm_cli.core.runtime.locks import lock_writing\n"
        "with lock_writing(pathlib.Path(sys.argv[1]), print):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(partial.with_suffix(".npy"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"

        class KillsFirst(Messages):
            def say(self, message: str) -> None:
                super().say(message)
                first.kill()

        messages, again = KillsFirst(), dies_at(-1)
        assert np.array_equal(shown(prepare(source, messages)), pixels)
    waited, went_on = messages.messages
    assert waited == f"another process is decoding {partial.stem}.npy; waiting for it"
    assert went_on.endswith("; 16 are decoded already")
    assert len(again) == 4


def test_two_processes_without_locks_write_the_same(
    source: Source, pixels: np.ndarray, dies_at: Callable[[int], list[str]]
) -> None:
    """The second begins while the first is at its third chunk."""
    decode, second = files.decode, []

    def decode_and_meet(data: bytes, name: str, transform: Transform) -> Any:
        if name == "17.png" and not second:
            second.append(name)
            shape = (COUNT, 3, 8, 8)
            (path,) = cache.array_path("").parent.glob("*.partial")
            with cache.PartialArray(path.with_suffix(".npy"), shape) as other:
                assert other.written <= {0, 1}
                chunk = pixels[16:].transpose(0, 3, 1, 2)
                other.write(2, np.ascontiguousarray(chunk), is_complete=True)
        return decode(data, name, transform)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "decode", decode_and_meet)
        assert np.array_equal(shown(prepare(source)), pixels)
    assert second


@pytest.mark.parametrize("where", ["ram", "none"])
def test_memory_and_streams_show_what_the_cache_does(
    source: Source, pixels: np.ndarray, own_cache: Path, where: str
) -> None:
    images = prepare(source, cache=where)
    assert not own_cache.exists()
    assert np.array_equal(shown(images), pixels)
    assert images.key == prepare(source).key  # for what else is cached of them


def test_memory_that_is_too_small_is_refused(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = COUNT * 3 * 8 * 8
    monkeypatch.setattr(loader, "free_memory", lambda: 2 * needed)
    prepare(source, cache="ram", copies=2)
    with pytest.raises(DdpmError, match=r"memory, 3 times .* --cache disk, --cache none"):
        prepare(source, cache="ram", copies=3)


def test_a_disk_that_is_too_small_is_refused_with_the_way_out(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(DdpmError, match=r"the decoded images need .*--cache none"):
        prepare(source)


def test_entries_are_listed_and_cleared_but_for_those_in_use(
    source: Source, dies_at: Callable[[int], list[str]], own_cache: Path
) -> None:
    used = prepare(source)
    dies_at(17)
    with pytest.raises(DiesError):
        loader.prepare(source, Transform(1, (8, 8)), Messages())
    by_name = {entry.name: entry for entry in cache.entries()}
    complete = by_name[f"few-8x8x3-{used.key}"]
    (partial,) = (entry for entry in by_name.values() if entry is not complete)
    assert (complete.is_complete, complete.in_use) == (True, True)
    assert (partial.is_complete, partial.in_use) == (False, False)
    assert COUNT * 3 * 8 * 8 < complete.bytes < COUNT * 3 * 8 * 8 + 1024
    assert complete.modified.timestamp() == pytest.approx(complete.path.stat().st_mtime)

    assert cache.clear() == ([partial], [complete])
    assert cache.entries() == [complete]
    with lock_writing(complete.path, pytest.fail):  # as while it is decoded
        del used
        assert cache.clear()[0] == []
    deleted, kept = cache.clear()
    assert ([entry.name for entry in deleted], kept) == ([complete.name], [])
    assert not list(own_cache.iterdir())


def test_nothing_is_listed_of_a_cache_that_is_not_there() -> None:
    assert cache.entries() == []
    assert cache.clear() == ([], [])


def test_files_of_others_are_left_alone(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "notes.txt").write_text("mine")
    (own_cache / ".hidden.npy").write_text("mine")
    cache.clear()
    assert len(list(own_cache.iterdir())) == 2


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two processes decode however few images, four at a time."""
    monkeypatch.setattr(decoding, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(decoding, "_PART_OF_PROCESS", 4)
    monkeypatch.setattr(decoding, "cores", lambda: 2)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_processes_decode_what_threads_do(
    source: Source, pixels: np.ndarray, tmp_path: Path, processes: None, kind: str
) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
            for file in sorted((tmp_path / "few").iterdir()):
                archive.write(file, file.name)
        source = open_source(str(tmp_path / "few.zip"))
        source.image(0, TRANSFORM)  # this process has the archive open, with its position
    assert np.array_equal(shown(prepare(source)), pixels)
    assert np.array_equal(shown(prepare(source, cache="ram")), pixels)
    (tmp_path / "few" / "09.png").write_bytes(b"broken")
    if kind == "folder":
        with pytest.raises(DdpmError, match=r"1 of 20 .*09\.png"):
            prepare(open_source(str(tmp_path / "few")))


KILLED = """
import os, signal, sys
from ddpm_cli.core.data import cache, files, loader, sources
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.reporting import Silent
cache._CHUNK = 8
at, write = int(sys.argv[2]), cache.PartialArray._write
def write_and_die(self, data, offset):
    global at
    at -= 1
    if at == 0:
        write(self, data[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, data, offset)
cache.PartialArray._write = write_and_die
loader.prepare(sources.open_source(sys.argv[1]), Transform(3, (8, 8)), Silent())
"""


@pytest.mark.chaos
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_process_killed_within_a_write(
    source: Source, pixels: np.ndarray, own_cache: Path, at: int
) -> None:
    """Within any chunk, or within the header, which is written last."""
    command = [sys.executable, "-c", KILLED, str(source.files.path), str(at)]
    killed = subprocess.run(command, check=False, capture_output=True, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not [path for path in own_cache.glob("*.npy") if "readable" not in path.name]
    messages = Messages()
    assert np.array_equal(shown(prepare(source, messages)), pixels)
    (said,) = messages.messages
    done = min(COUNT, CHUNK * (at - 1))
    assert said.endswith(f"; {done} are decoded already") or not done
