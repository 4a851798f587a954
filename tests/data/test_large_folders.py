"""A folder of many files: its listing, hashes and classes are those found in a plainer way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.readers.opening import open_image_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3 files and 600 hard links to them, in 3 class folders, one of them nested."""
    for number, name in enumerate(("b", "a/inner", "c")):
        place = tmp_path / "many" / name
        place.mkdir(parents=True)
        first = place / "000.png"
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(first)
        os.utime(first, ns=(number, 10**18 + number))
        for index in range(1, 201):
            os.link(first, place / f"{index:03}.png")
    (tmp_path / "many" / "b" / "broken.png").symlink_to("nowhere")
    (tmp_path / "many" / ".cache").mkdir()
    (tmp_path / "many" / ".cache" / "x.png").write_bytes(b"")
    return tmp_path / "many"


def test_names_and_hashes(folder: Path) -> None:
    """The hashes identify the images of runs and caches: other ones would disown them."""
    listing = open_image_files(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("[abc]/**/*.png"))
    assert list(listing.names) == names
    status = {}
    for name in names:
        try:
            found = (folder / name).stat()
            status[name] = (found.st_size, found.st_mtime_ns)
        except FileNotFoundError:
            status[name] = ()
    lines = "".join(f"{name}\0{status[name]}\n" for name in names)
    assert listing.cache_key() == hashlib.sha256(lines.encode()).hexdigest()
    lines = "".join(f"{name}\0{status[name][:1]}\n" for name in names)
    for name in names[::10]:  # 64 of them at most
        start = (folder / name).read_bytes()[:16384] if status[name] else None
        lines += f"{name}\0{hashlib.sha256(start).hexdigest() if start else ''}\n"
    assert listing.fingerprint() == hashlib.sha256(lines.encode()).hexdigest()
    classes = listing.classes()
    assert classes.names == ("a", "b", "c")
    assert np.bincount(classes.labels).tolist() == [201, 202, 201]
