"""Tar archives: of class folders, and WebDataset's samples in shards."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data import loader
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers import decompressed, tree
from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT

SMALL = Transform(3, (8, 8))


def png(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3) + value
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def decoded(source: Source) -> tuple[bytes, list[int], tuple[str, ...]]:
    images = loader.prepare(source, SMALL, SILENT)
    return np.asarray(images.pixels).tobytes(), images.labels.tolist(), source.classes


@pytest.fixture
def members(tmp_path: Path) -> list[tuple[str, bytes]]:
    """Files of a folder of classes with captions, which is written beside."""
    found = []
    for number in range(12):
        name = f"{'cat' if number % 3 else 'dog'}/{number:03d}"
        found += [(f"{name}.png", png(number)), (f"{name}.txt", f"number {number}".encode())]
    for name, data in found:
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return found


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar.xz", "w:xz")],
)
def test_an_archive_of_class_folders_is_read_like_its_folder(
    members: list[tuple[str, bytes]], tmp_path: Path, name: str, mode: str
) -> None:
    archive = open_source(str(tar(tmp_path / name, reversed(members), mode)))
    folder = open_source(str(tmp_path / "folder"))
    assert decoded(archive) == decoded(folder)
    assert archive.captions().sentences == folder.captions().sentences
    assert archive.unread(archive.captions()) == ""
    assert archive.image_size == (8, 8)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "here", name]


def test_a_folder_in_an_archive_and_its_training_part(
    members: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    parts = [(f"./{part}/{name}", data) for part in ("train", "test") for name, data in members]
    archive = tar(tmp_path / "x.tar", [*parts, ("./test/dog/more.png", png(1))])
    assert len(open_source(str(archive), training=True)) == 12
    assert len(open_source(f"{archive}/test")) == 13
    with pytest.raises(DdpmError, match="name the part that is meant"):
        open_source(str(archive))


def sample(key: str, value: int, label: int) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(value)), (f"{key}.cls", str(label).encode())]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two samples each, keys all different."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        files = [m for i in (0, 1) for m in sample(f"{shard * 2 + i:06d}", shard * 2 + i, i * 3)]
        tar(folder / f"data-{shard:03d}.tar", files)
    return folder


def test_shards_are_one_set_of_samples(shards: Path, tmp_path: Path) -> None:
    expected = b"".join(
        np.asarray(Image.open(io.BytesIO(png(i)))).transpose(2, 0, 1).tobytes() for i in range(6)
    )
    for spec in (shards, shards / "data-{000..002}.tar"):
        source = open_source(str(spec), training=True)
        assert decoded(source) == (expected, [0, 1] * 3, ("0", "3"))
        assert source.unread(None) == ""
    (shards / "classnames.txt").write_text("")  # a text beside them is no obstacle
    assert len(open_source(str(shards))) == 6


def test_missing_shards_are_named(shards: Path) -> None:
    with pytest.raises(DdpmError, match=r"2 of 5 shards are not there: data-003.tar, data-004"):
        open_source(str(shards / "data-{000..004}.tar"))
    with pytest.raises(DdpmError, match="from the smaller number to the larger"):
        open_source(str(shards / "data-{2..1}.tar"))


def test_keys_that_repeat_are_different_samples(tmp_path: Path) -> None:
    for shard in (0, 1):
        files = [("cat/0.png", png(shard)), ("dog/0.png", png(shard + 5))]
        tar(tmp_path / f"s-{shard}.tar", files)
    source = open_source(str(tmp_path / "s-{0..1}.tar"))
    listing = open_image_files(tmp_path / "s-{0..1}.tar")
    assert listing.names == ("s-0/cat/0.png", "s-0/dog/0.png", "s-1/cat/0.png", "s-1/dog/0.png")
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])


def test_training_shards_are_chosen_by_their_names(shards: Path) -> None:
    for part in ("train", "val"):
        tar(shards / f"set-{part}-0.tar", sample(f"{part}0", 1, 0))
    for file in shards.glob("data-*"):
        file.unlink()
    source = open_source(str(shards), training=True)
    assert len(source) == 1
    assert "only set-train-0.tar are trained on; left out: set-val-0.tar" in source.notices[0]
    with pytest.raises(DdpmError, match="holds shards of several parts"):
        open_source(str(shards))


def test_several_images_of_a_sample_are_said(tmp_path: Path) -> None:
    files = [*sample("a", 1, 0), ("a.depth.png", png(2)), *sample("b", 3, 1)]
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert any("1 samples have several images" in notice for notice in source.notices)


def test_what_is_no_file_is_left_out_and_nothing_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in [
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("device.png", tarfile.CHRTYPE, ""),
            ("passwd.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("same.png", tarfile.LNKTYPE, "a.png"),
            ("up/also.png", tarfile.SYMTYPE, "../a.png"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("a.png", "../b.png", "/etc/c.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
    source, listing = open_source(str(path)), open_image_files(path)
    assert listing.names == ("../b.png", "/etc/c.png", "a.png", "same.png", "up/also.png")
    assert all((source.image(i, SMALL) == source.image(0, SMALL)).all() for i in range(5))
    assert not Path("/etc/c.png").exists()
    assert not (tmp_path.parent / "b.png").exists()
    left_out = next(notice for notice in source.notices if "pipes" in notice)
    for words in ("1 pipes", "1 devices", "1 links", "1 files of a name that a later one has"):
        assert words in left_out


@pytest.mark.parametrize("cut", [300, 700, 1500])
def test_an_archive_that_is_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = tar(tmp_path / "x.tar", [("a.png", png(1)), ("b.png", bytes(900) + b"\1")])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DdpmError, match=r"x\.tar: damaged or cut short"):
        open_source(str(path))


def test_an_archive_with_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [(f"{i}.png", png(i)) for i in range(3)])
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"\xff" * 76  # of the second member
    path.write_bytes(data)
    with pytest.raises(DdpmError, match="damaged or cut short"):
        open_source(str(path))


def test_a_compressed_archive_that_is_cut_short_leaves_nothing(
    members: list[tuple[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    path = tar(tmp_path / "x.tar.gz", members, "w:gz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DdpmError, match=r"x\.tar\.gz: damaged or cut short"):
        open_source(str(path))
    assert [file.suffix for file in (tmp_path / "cache" / "archives").iterdir()] == [".lock"]


def test_an_archive_that_expands_without_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompressed, "_SMALL", 2**20)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(DdpmError, match="expands to more than"):
        open_source(str(path))


def test_a_member_above_the_limit_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_FILE_LIMIT", 1000)
    path = tar(tmp_path / "x.tar", [("a.png", png(1)), ("b.png", bytes(2000))])
    with pytest.raises(UnreadableError, match=r"x.tar:b.png has 2,000 bytes"):
        open_image_files(path).read(1)


def test_a_copy_has_the_same_fingerprint(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    first, copy = tar(tmp_path / "x.tar", members), tmp_path / "copy.tar"
    copy.write_bytes(first.read_bytes())
    assert open_source(str(copy)).fingerprint == open_source(str(first)).fingerprint
    tar(copy, [*members[:-2], ("cat/011.png", png(99))])
    assert open_source(str(copy)).fingerprint != open_source(str(first)).fingerprint


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header with this field of its size, and the sum that belongs to it."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[148:156] = size.ljust(12, b"\0"), b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


NEGATIVE = b"\xff" * 10 + b"\xfe\0"  # -512 in base 256, as GNU writes large numbers
LARGE = b"%011o" % 2**31


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (header("b.png", NEGATIVE), "b.png has -512 bytes"),
        (header("b.png", LARGE), "unexpected end of data"),
        (header("x", LARGE, tarfile.XHDTYPE), "a header of 2,147,483,648 bytes"),
        (header("x", LARGE, tarfile.XGLTYPE), "a header of 2,147,483,648 bytes"),
        (header("x", LARGE, tarfile.GNUTYPE_LONGNAME), "a header of 2,147,483,648 bytes"),
        (
            header("x", b"%011o" % 11, tarfile.XHDTYPE)
            + b"13 size=-512\n".ljust(512, b"\0")
            + header("b.png", b"0"),
            "b.png has -512 bytes",
        ),
        (b"", "it ends at byte 1,024 without an end mark"),
        (b"\xff" * 512, "no header of a file at byte 1,024"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, hostile: bytes, words: str) -> None:
    whole = tar(tmp_path / "x.tar", [("a.png", png(1))]).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:1024] + hostile)  # a header, and a block of content
    with pytest.raises(DdpmError, match=f"x.tar: damaged or cut short .*{words}"):
        open_image_files(tmp_path / "x.tar")


def test_what_follows_the_end_of_an_archive_is_said(tmp_path: Path) -> None:
    first = tar(tmp_path / "x.tar", [("a.png", png(1))])
    first.write_bytes(first.read_bytes() + tar(tmp_path / "y.tar", [("b.png", b"")]).read_bytes())
    listing = open_image_files(first)
    assert listing.names == ("a.png",)
    assert any("not read: what follows the end of x.tar" in line for line in listing.notices)
    assert open_image_files(tmp_path / "y.tar").notices == ()


def test_links_to_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    targets = {"b.png": "c.png", "c.png": "a.png", "d.png": "e.png", "e.png": "d.png"}
    with tarfile.open(path, "w") as archive:
        for name, target in targets.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
    listing = open_image_files(path)
    assert listing.names == ("a.png", "b.png", "c.png")
    assert [listing.read(i) for i in range(3)] == [b"one"] * 3
    assert any("2 links to what is not in it" in line for line in listing.notices)
