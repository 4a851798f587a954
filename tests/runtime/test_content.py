"""Files that are not what their names say are told from their first bytes."""

import pytest

from ddpm_cli.core.runtime.content import describe, describe_not_binary

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 95628359\n"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "an empty file"),
        (bytes(4096), "zeros"),
        (POINTER, "`git lfs pull`"),
        (b"../.git/annex/objects/MD5E-s3--1.png/MD5E-s3--1.png", "`git annex get`"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page"),
        (b"\xef\xbb\xbf\n  <HTML>", "a web page"),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-"><html xmlns="">', "a web page"),
        (b"404: Not Found", "'404: Not Found'"),
        (b"Entry not found", "a server's error message"),
        (b'{"error":"Repository not found"}', "a server's error message"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "error message"),
        (b"a caption of an image\n", "a text file"),
        ("\u00e9".encode() * 3000, "a text file"),
    ],
)
def test_files_in_the_place_of_binary_ones_are_named(head: bytes, words: str) -> None:
    described = describe_not_binary(head)
    assert described is not None and words in described
    assert "\n" not in described


def test_text_cut_within_a_character_is_text() -> None:
    assert describe_not_binary(b"a" * 4095 + "\u00e9".encode()) == "a text file"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"Rar!\x1a\x07\x01\x00\x33\x92\xb5\xe5", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
        (b"\x1f\x8b\x08\x00\x00", "gzip"),
        (b"dog/1.png".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
    ],
)
def test_kinds_of_binary_files(head: bytes, words: str) -> None:
    assert describe_not_binary(head) is None
    assert words in str(describe(head))


def test_unknown_bytes_are_not_described() -> None:
    assert describe(b"\x80\x02}q\x00(X\x05\x00\x00\x00") is None
