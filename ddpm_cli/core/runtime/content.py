"""What a file that is not what its name says holds, told from its first bytes."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path

_HEAD = 4096  # bytes that are enough
ZIP = b"PK\x03\x04"  # the first bytes of a zip archive, which torch.save writes, too

_ERRORS = (  # what servers answer instead of a file: GitHub, Hugging Face, S3, Google Drive
    b"404",
    b"403",
    b"429",
    b"not found",
    b"entry not found",
    b"repository not found",
    b"access denied",
    b"access to ",
    b"forbidden",
    b"too many requests",
    b"invalid username or password",
    b"invalid credentials",
    b'{"error"',
    b'{"message"',
    b'{"detail"',
)
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta", b"<title")
_BINARY = (  # (offset, magic bytes, what it is)
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1f\x8b", "a gzip archive (.gz, .tar.gz)"),
    (0, b"BZh", "a bzip2 archive (.bz2, .tar.bz2)"),
    (0, b"\xfd7zXZ\0", "an xz archive (.xz, .tar.xz)"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive (.zst, .tar.zst)"),
    (257, b"ustar", "a tar archive"),
    (0, ZIP, "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"PK\x07\x08", "the first part of a zip archive in several parts"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypcrx ", "a raw camera file"),
    (4, b"ftyp", "a video (MP4 or MOV)"),
    (0, b"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\0\x05\x16\x07", "a file of macOS's attributes (._name), not the file itself"),
)


def describe_not_binary(head: bytes) -> str | None:
    """What stands in the place of a binary file, from its first bytes, with the remedy.

    A pointer of Git LFS or git-annex, a web page, a server's error message, text, nothing or
    zeros; None where the bytes are of a binary file.
    """
    start = head[:_HEAD]
    if not start:
        return "an empty file: copy or download it again"
    if not start.strip(b"\0"):
        return "a file of zeros, left by a copy that was cut short: copy or download it again"
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull`"
    if b"/annex/objects/" in start and len(head) < _HEAD:
        return "a git-annex pointer, not the file itself: run `git annex get`"
    if not _is_text(start):
        return None
    words = start.removeprefix(codecs.BOM_UTF8).strip().lower()
    if words.startswith(_PAGES) or (words.startswith((b"<?xml", b"<!--")) and b"<html" in words):
        return "a web page (HTML): the download failed; download it again"
    if words.startswith(_ERRORS) or (words.startswith(b"<?xml") and b"<error>" in words):
        return (
            f"a server's error message ({_quoted(start)}): the download failed; download it again"
        )
    return "a text file" if words else "a file of blanks"


def describe(head: bytes) -> str | None:
    """As `describe_not_binary`, and archives, videos and other kinds of files; None if unknown."""
    text = describe_not_binary(head)
    known = (what for at, magic, what in _BINARY if head[at : at + len(magic)] == magic)
    return text or next(known, None)


def describe_file(path: Path) -> str | None:
    """As `describe`; None also for what is no file, or cannot be read."""
    with suppress(OSError):
        if path.is_file():  # opening a pipe would wait for ever
            with path.open("rb") as file:
                return describe(file.read(_HEAD))
    return None


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file, enough to describe it; none where it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(_HEAD)
    return b""


def _is_text(start: bytes) -> bool:
    """Whether bytes, which may end within a character, are UTF-8 without control characters."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return not any(ord(character) < 32 and character not in "\t\n\r\f\x1b" for character in text)


def _quoted(start: bytes) -> str:
    """The first words of a message, on one line."""
    line = " ".join(start.decode("utf-8", "replace").split())
    return repr(line if len(line) <= 40 else line[:39] + "…")
