"""Listing and reading the image files of folders and archives."""

from __future__ import annotations

import os
import pickle
import resource
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.readers import tree
from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.readers.zips import ZipFiles
from ddpm_cli.core.errors import DdpmError


def fill(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def test_folder_is_listed_at_any_depth_in_order(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", b_DOT_PNG="b", a__z_DOT_JPeG="z", a__b__c_DOT_webp="c")
    fill(root, notes_DOT_txt="no", _DOT_hidden_DOT_png="no", _DOT_git__x_DOT_png="no")
    listing = open_image_files(root)
    assert listing.names == ("a/b/c.webp", "a/z.JPeG", "b.PNG")
    assert [listing.read(i) for i in range(3)] == [b"c", b"z", b"b"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", a__x_DOT_png="x")
    fill(tmp_path / "elsewhere", y_DOT_png="y")
    (root / "a" / "up").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    assert open_image_files(root).names == ("a/x.png", "linked/y.png")


def test_zip_reads_like_the_folder_it_was_made_of(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", b_DOT_png="b", a__z_DOT_jpg="z" * 1000, readme_DOT_md="no")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("a")
        for path in (root / "b.png", root / "a/z.jpg", root / "readme.md"):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/a/._z.jpg", "no")
        archive.writestr(".thumbs/t.png", "no")
        archive.writestr("../../outside.png", "a name like any other")
    listing, folder = open_image_files(tmp_path / "in.zip"), open_image_files(root)
    assert listing.names == ("../../outside.png", *folder.names)
    assert [listing.read(i + 1) for i in range(2)] == [folder.read(i) for i in range(2)]
    assert listing.read(0) == b"a name like any other"
    assert not (tmp_path.parent / "outside.png").exists()


def test_zip_can_be_read_by_threads_and_by_other_processes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(200):
            archive.writestr(f"{i:03}.png", f"{i}" * 500)
    listing = open_image_files(tmp_path / "x.zip")
    expected = [f"{i}".encode() * 500 for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(listing.read, range(200))) == expected
    copy = pickle.loads(pickle.dumps(listing))
    assert [copy.read(i) for i in range(200)] == expected


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_members_are_read_as_zipfile_reads_them(tmp_path: Path, method: int) -> None:
    contents = {f"{i:03d}.png": bytes(range(i % 7)) * (50 + i) for i in range(40)}
    contents["ü.png"] = b"of a name in UTF-8"
    path = tmp_path / "x.zip"
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\n" * 9)  # an archive may follow a program that unpacks it
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in contents.items():
                with archive.open(name, "w", force_zip64=name == "007.png") as member:
                    member.write(data)
    listing = ZipFiles(path)
    assert {name: listing.read(i) for i, name in enumerate(listing.names)} == contents


def altered(path: Path, at: int, value: bytes, *, directory: bool) -> None:
    """Change bytes of the only file's header, or of its entry in the directory."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") if directory else 0
    data[start + at : start + at + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "directory", "words"),
    [
        (24, (200).to_bytes(4, "little"), True, "not the 200 bytes"),  # says more than there is
        (24, (50).to_bytes(4, "little"), True, "not the 50 bytes"),  # and less
        (20, (1).to_bytes(4, "little"), True, "damaged"),  # of the packed bytes
        (24, (2**31).to_bytes(4, "little"), True, "more than the limit"),
        (16, b"\0\0\0\0", True, "CRC-32 is wrong"),
        (42, (5).to_bytes(4, "little"), True, "no file where the directory says"),
        (30, b"b.png", False, "another name in its header"),
        (10, (9).to_bytes(2, "little"), True, "compressed by Deflate64, which is not supported"),
        (10, (77).to_bytes(2, "little"), True, "compressed by method 77"),
        (8, (1).to_bytes(2, "little"), True, "is encrypted"),
    ],
)
def test_a_directory_that_lies(
    tmp_path: Path, at: int, value: bytes, directory: bool, words: str
) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100))
    altered(path, at, value, directory=directory)
    with pytest.raises(UnreadableError, match=rf"x\.zip:a\.png.*{words}"):
        ZipFiles(path).read(0)


def test_a_member_is_not_expanded_beyond_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**28))  # of which the directory says 100 bytes
    altered(path, 24, (100).to_bytes(4, "little"), directory=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableError, match="not the 100 bytes"):
        ZipFiles(path).read(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_names_outside_of_the_archive_and_names_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile's own, of the name that is there twice
        for name, data in [("../a.png", "1"), ("/etc/b.png", "2"), ("c.png", "3"), ("c.png", "4")]:
            archive.writestr(name, data)
        archive.writestr("inner.zip", "PK")
    listing = open_image_files(path)
    assert listing.names == ("../a.png", "/etc/b.png", "c.png")
    assert [listing.read(i) for i in range(3)] == [b"1", b"2", b"4"]
    assert any("1 files of a name that a later one has" in notice for notice in listing.notices)
    assert any("1 .zip (archives are not looked into" in notice for notice in listing.notices)
    assert not (tmp_path.parent / "a.png").exists()


def test_names_of_windows_tools_and_encrypted_members(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cats\\a.png", "a")
    listing = open_image_files(path)
    assert listing.names == ("cats/a.png",)
    assert listing.read(0) == b"a"
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flags of the local header,
    data[data.index(b"PK\1\2") + 8] |= 1  # and of the directory
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"cats/a\.png is encrypted; unpack"):
        open_image_files(path).read(0)


def test_fingerprint_depends_on_the_contents(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", a_DOT_png="a", b_DOT_png="b")
    first = open_image_files(root).fingerprint()
    assert open_image_files(root).fingerprint() == first
    moved = root.rename(tmp_path / "moved")
    assert open_image_files(moved).fingerprint() == first
    fill(moved, b_DOT_png="longer")
    assert open_image_files(moved).fingerprint() != first

    def zipped(text: str) -> str:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("a.png", text)
        return open_image_files(tmp_path / "x.zip").fingerprint()

    assert zipped("one") == zipped("one") != zipped("two")


def test_no_images_names_the_file_types_found(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", a_DOT_npz="", b_DOT_npz="", c_DOT_json="")
    with pytest.raises(DdpmError, match=r"no images in .*it holds 2 \.npz \(.*\), 1 \.json"):
        open_image_files(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DdpmError, match="it holds nothing"):
        open_image_files(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data.csv", "")
    with pytest.raises(DdpmError, match=r"it holds 1 \.csv"):
        open_image_files(tmp_path / "x.zip")


def test_paths_without_images(tmp_path: Path) -> None:
    fill(tmp_path, photos__a_DOT_png="a", text_DOT_zip="not a zip", text_DOT_txt="")
    with pytest.raises(DdpmError, match=r"no such folder or archive; .* holds photos"):
        open_image_files(tmp_path / "phots")
    with pytest.raises(DdpmError, match="not a zip archive"):
        open_image_files(tmp_path / "text.zip")
    with pytest.raises(DdpmError, match="neither a folder nor a"):
        open_image_files(tmp_path / "text.txt")


def test_damaged_and_oversized_members_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", "A" * 100)
        archive.writestr("big.png", "B" * 300)
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"AABA", 1))
    listing = open_image_files(path)
    with pytest.raises(UnreadableError, match=r"x\.zip:a\.png: damaged \(its CRC-32 is wrong"):
        listing.read(0)
    monkeypatch.setattr(tree, "_FILE_LIMIT", 200)
    with pytest.raises(
        UnreadableError, match=r"big\.png has 300 bytes, more than the limit of 200"
    ):
        listing.read(1)
    root = fill(tmp_path / "in", big_DOT_png="B" * 300, gone_DOT_png="")
    folder = open_image_files(root)
    with pytest.raises(UnreadableError, match=r"big\.png has 300 bytes"):
        folder.read(0)
    (root / "gone.png").unlink()
    with pytest.raises(UnreadableError, match=r"gone\.png: No such file"):
        folder.read(1)


def test_a_copy_has_the_same_fingerprint_but_another_cache_key(tmp_path: Path) -> None:
    """A run resumes with unpacked copies; caches are computed again."""
    root = fill(tmp_path / "in", a_DOT_png="a", b_DOT_png="b")
    first, cache_key = open_image_files(root).fingerprint(), open_image_files(root).cache_key()
    os.utime(root / "b.png", ns=(10**18, 10**18))
    assert open_image_files(root).fingerprint() == first
    assert open_image_files(root).cache_key() != cache_key
    (root / "b.png").write_text("c")  # of the same size and modification time
    os.utime(root / "b.png", ns=(10**18, 10**18))
    assert open_image_files(root).fingerprint() != first


def test_a_fingerprint_reads_the_first_bytes_of_few_files(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", **{f"{i:04}_DOT_png": "x" for i in range(130)})
    first, cache_key = open_image_files(root).fingerprint(), open_image_files(root).cache_key()
    changed = []
    for name in sorted(path.name for path in root.iterdir()):
        (root / name).write_text("y")
        changed.append(open_image_files(root).fingerprint() != first)
        assert open_image_files(root).cache_key() != cache_key
        (root / name).write_text("x")
    assert changed[0] and 32 <= sum(changed) <= 64


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.zip", LFS.encode(), "a.zip is not a zip archive but a Git LFS pointer.*git lfs pull"),
        ("a.zip", b"<!DOCTYPE html><html>", "not a zip archive but a web page"),
        ("a.zip", b"404: Not Found", "not a zip archive but a server's error message"),
        ("a.zip", b"", "not a zip archive but an empty file"),
        ("a.zip", b"PK\x03\x04cut", "a.zip: damaged or cut short"),
        ("a.tar", b"\0" * 257 + b"ustar", "a.tar: damaged or cut short"),
        ("a.tar", b"<!DOCTYPE html><html>", "not a tar archive but a web page"),
        ("a.mat", b"PK\x03\x04", "neither.*, but a zip archive.*data sets in files"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "neither.*, but a PNG image .give its folder"),
    ],
)
def test_what_is_no_archive_is_said_as_what_it_is(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DdpmError, match=said):
        open_image_files(tmp_path / name)


def test_texts_are_utf_8_or_marked_utf_16(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", a_DOT_png="x")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (root / "a.txt").write_bytes("caf\u00e9".encode(encoding))
        assert open_image_files(root).text("a.txt") == "caf\u00e9"
    for encoding, remedy in (("cp1252", "iconv -f WINDOWS-1252"), ("utf-16-le", "UTF-16LE")):
        (root / "a.txt").write_bytes("caf\u00e9".encode(encoding))
        with pytest.raises(UnreadableError, match=f"a.txt is not UTF-8 .*{remedy}"):
            open_image_files(root).text("a.txt")
    (root / "a.txt").write_bytes("cafe".encode("utf-16-le"))
    with pytest.raises(UnreadableError, match="is not text"):
        open_image_files(root).text("a.txt")
