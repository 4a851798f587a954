"""Whatever lies in folders and archives: each is read, named as unreadable, or left out."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data import loader
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT
from tests.support.cli import Result
from tests.support.mutations import picture, saved

SMALL = Transform(3, (8, 8))
Run = Callable[..., Result]


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def moving(form: str) -> bytes:
    return saved(form, save_all=True, append_images=[picture(seed=1), picture(seed=2)])


def with_bad_crc() -> bytes:
    """Of a PNG whose pixels are intact but for it."""
    data = bytearray(saved("PNG"))
    at = data.index(b"IDAT")
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 255
    return bytes(data)


def bomb() -> bytes:
    """A PNG whose header speaks of 60,000 x 60,000 pixels."""
    data = bytearray(saved("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


READ = {
    "1x1.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "1x20000.png": encoded(Image.new("L", (1, 20_000)), "PNG"),
    "moving.gif": moving("GIF"),
    "moving.webp": moving("WEBP"),
    "pages.tif": moving("TIFF"),
    "deep.png": saved("PNG", "I;16"),
    "print.jpg": saved("JPEG", "CMYK"),
    "float.tif": encoded(Image.fromarray(np.eye(8, dtype=np.float32)), "TIFF"),
    "palette.png": saved("PNG", "P"),
    "wrong-suffix.jpg": saved("PNG"),
    "ünïcode ✓ 图.png": saved("PNG"),
    "new\nline.png": saved("PNG"),
    f"{'x' * 251}.png": saved("PNG"),
    "case.png": saved("PNG"),
    "CASE.png": saved("PNG"),
    "UPPER.JPEG": saved("JPEG"),
    "crc.png": with_bad_crc(),  # the pixels have a checksum of their own, which is right
}
UNREADABLE = {
    "cut.png": (saved("PNG")[:200], "damaged or cut short"),
    "empty.png": (b"", "an empty file"),
    "zeros.jpg": (bytes(500), "a file of zeros"),
    "text.jpg": (b"not an image at all", "a text file"),
    "page.png": (b"<!doctype html><p>sign in", "a web page"),
    "bomb.png": (bomb(), "3,600,000,000 pixels are more than the limit"),
    "two\nlines.png": (b"", "an empty file"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}
LEFT_OUT = {  # by name, with the suffix that is counted, or "" where they are passed over
    "Thumbs.db": "",
    "desktop.ini": "",
    "__MACOSX/._case.png": "",
    ".hidden.png": "",
    "film.mp4": ".mp4 (videos",
    "drawing.svg": ".svg (drawings",
    "raw.cr2": ".cr2 (raw camera files",
}


def files() -> dict[str, bytes]:
    bad = {name: data for name, (data, _) in UNREADABLE.items()}
    return READ | bad | dict.fromkeys(LEFT_OUT, b"\0\1\2")


def as_folder(root: Path) -> Path:
    for name, data in files().items():
        (root / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "zoo" / name).write_bytes(data)
    return root / "zoo"


def as_zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "zoo.zip", "w") as archive:
        for name, data in files().items():
            archive.writestr(name, data)
    return root / "zoo.zip"


def as_tar(root: Path) -> Path:
    with tarfile.open(root / "zoo.tar", "w") as archive:
        for name, data in files().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return root / "zoo.tar"


def opened(path: Path) -> FileSource:
    source = open_source(str(path))
    assert isinstance(source, FileSource)
    return source


@pytest.mark.parametrize("write", [as_folder, as_zip, as_tar])
def test_each_has_its_treatment(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = opened(write(tmp_path))
    assert set(source.files.names) == READ.keys() | UNREADABLE.keys()
    for index, name in enumerate(source.files.names):
        if name in READ:
            assert source.image(index, SMALL).shape == (3, 8, 8), name
            continue
        with pytest.raises(UnreadableError) as error:
            source.image(index, SMALL)
        said = str(error.value)
        assert name.replace("\n", " ") in said and UNREADABLE[name][1] in said, name
        assert "\n" not in said
    said = " ".join(source.notices)
    assert all(words in said for words in LEFT_OUT.values())
    assert not any(name in said for name, words in LEFT_OUT.items() if not words)
    with pytest.raises(DdpmError, match=f"{len(UNREADABLE)} of {len(source)} images cannot"):
        loader.prepare(source, SMALL, SILENT)
    assert len(loader.prepare(source, SMALL, SILENT, skip_bad=True)) == len(READ)


def test_what_is_no_file_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "zoo"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "real.png").write_bytes(saved("PNG"))
    (root / "link.png").symlink_to(root / "inner" / "real.png")
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "inner" / "loop").symlink_to(root)
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as opened_socket:
        with monkeypatch.context() as patch:
            patch.chdir(root)  # the name of a socket may have about a hundred bytes
            opened_socket.bind("socket.png")
        source = opened(root)
        names = source.files.names
        good = {"inner/real.png", "link.png"}
        assert good | {"dangling.png", "self.png", "pipe.png", "socket.png"} == set(names)
        for index, name in enumerate(names):
            if name in good:
                source.image(index, SMALL)
            else:
                with pytest.raises(UnreadableError, match=name):
                    source.image(index, SMALL)
    assert any("inner/loop/ (a link to" in notice for notice in source.notices)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "zoo").mkdir(exist_ok=True)
        (tmp_path / "zoo" / name).write_bytes(saved("PNG"))
    source = opened(tmp_path / "zoo")
    (tmp_path / "zoo" / "b.png").unlink()
    with pytest.raises(DdpmError, match=r"1 of 2 images cannot be read: .*b\.png: No such file"):
        loader.prepare(source, SMALL, SILENT)


def test_commands_end_with_one_line(ddpm: Run, tmp_path: Path) -> None:
    path = as_zip(tmp_path)
    looked = ddpm("data", path, "--no-sheet")
    assert looked.code == 0
    named = [name.partition("\n")[0] for name in UNREADABLE]
    assert all(name in looked.out + looked.err for name in named)
    for command in (("train", "--data", path, "--dry-run"), ("fid", path, path)):
        result = ddpm(*command)
        assert result.code == 1
        assert "Traceback" not in result.err
        assert result.err.splitlines()[-1].startswith("ddpm: ")
