"""Damage and metadata of image files: what is read all the same, and what is said of the rest."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm_cli.core.data import files

NOISE = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)


def encoded(form: str, **options: Any) -> bytes:
    """An image of 9 x 5 pixels (width x height)."""
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, form, **options)
    return buffer.getvalue()


def with_segment(kind: int, body: bytes) -> bytes:
    """A JPEG with one more segment of an application."""
    jpeg = encoded("JPEG")
    return jpeg[:2] + struct.pack(">BBH", 0xFF, 0xE0 + kind, len(body) + 2) + body + jpeg[2:]


def with_orientation(kind: int, value: bytes) -> bytes:
    """A JPEG whose EXIF orientation has a type of TIFF and a value of up to 4 bytes."""
    entry = struct.pack("<HHHI", 1, 0x112, kind, len(value)) + value.ljust(4, b"\0")
    return with_segment(1, b"Exif\0\0II*\0\x08\0\0\0" + entry + bytes(4))


def with_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A PNG with one more chunk, behind its header."""
    png, code = encoded("PNG"), zlib.crc32(kind + content) if crc is None else crc
    chunk = len(content).to_bytes(4, "big") + kind + content + code.to_bytes(4, "big")
    return png[:33] + chunk + png[33:]


def text(keyword: str, content: str, *, packed: bool = False) -> bytes:
    info = PngInfo()
    info.add_text(keyword, content, zip=packed)
    return encoded("PNG", pnginfo=info)


UPRIGHT = {  # metadata that is broken, or huge
    "orientation of text": with_orientation(2, b"6\0"),
    "orientation undefined": with_orientation(7, b"\6"),
    "orientation out of range": with_orientation(3, b"\x2a\0"),
    "junk in the EXIF of a WebP": encoded("WEBP", lossless=True, exif=b"Exif\0\0junkjunkjunk"),
    "junk in the EXIF of a JPEG": with_segment(1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "junk in the EXIF of a PNG": with_chunk(b"eXIf", b"junk"),
    "EXIF of a PNG with a wrong sum": with_chunk(b"eXIf", b"junk", crc=1),
    "a JFIF header cut short": with_segment(0, b"JFIF\0"),
    "a profile cut short": with_segment(2, b"ICC_PROFILE\0"),
    "Photoshop's notes cut short": with_segment(13, b"Photoshop 3.0\x008BIM\3"),
    "a long text": text("workflow", "{node}" * 500_000),
    "a packed text": text("workflow", "{node}" * 500_000, packed=True),
    "a bomb": text("parameters", "\0" * 80_000_000, packed=True),
    "a bomb that is XMP": text("XML:com.adobe.xmp", " " * 5_000_000, packed=True),
    "a text by the name of a property": text("transparency", "none"),
    "a text by the name of EXIF": text("exif", "none"),
    "a profile of 2 MB": encoded("PNG", icc_profile=bytes(2_000_000)),
    "a resolution cut short": with_chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_metadata_does_not_make_an_image_unreadable(name: str) -> None:
    assert files.probe(UPRIGHT[name], name) == ((5, 9), 3)
    assert files.traits(UPRIGHT[name], name) == frozenset()
    pixels = files.decode(UPRIGHT[name], name)
    exact = not UPRIGHT[name].startswith(b"\xff\xd8")
    assert np.array_equal(pixels, NOISE.transpose(2, 0, 1)) == exact
    assert pixels.shape == (3, 5, 9)


def test_a_header_cut_short_is_named_by_every_reader() -> None:
    for length in range(8, len(encoded("PNG")) - 30):
        for read in (files.decode, files.probe, files.traits):
            try:
                read(encoded("PNG")[:length], "cut.png")
            except files.UnreadableError as error:
                assert str(error).startswith("cut.png: damaged or cut short")
            else:
                assert read is not files.decode


def test_an_animation_cut_in_the_middle_gives_its_first_frame() -> None:
    more = [Image.fromarray(np.roll(NOISE, i, axis=0)) for i in (1, 2)]
    for form in ("PNG", "GIF"):
        whole = encoded(form, save_all=True, append_images=more)
        first = files.decode(whole, "whole")
        cut = whole[: -len(whole) // 4]
        assert np.array_equal(files.decode(cut, "cut"), first)
        assert "of several frames" in files.traits(cut, "cut")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", b"", "not an image but an empty file"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("a.jpg", b"<html><body>404</body></html>", "a web page (HTML)"),
        ("a.png", b"a caption", "not an image but a text file"),
        ("a.png", b"\0\0\0\x18ftypisom" + bytes(range(1, 99)), "not an image but a video"),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image but"),
        ("a.png", b"%PDF-1.7\n\xff\xfe", "not an image but a PDF document"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "damaged or cut short"),
        ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(99), "pip install pillow-heif reads them"),
        ("a.png", bytes(range(1, 255)), "not an image file in a supported format"),
    ],
)
def test_what_is_no_image_is_said(name: str, data: bytes, words: str) -> None:
    for read in (files.probe, files.traits, files.decode):
        with pytest.raises(files.UnreadableError) as caught:
            read(data, name)
        assert words in str(caught.value)


def test_formats_by_any_of_their_suffixes() -> None:
    assert {".jfif", ".jpe", ".tga", ".jp2", ".qoi", ".pbm", ".dib", ".mpo"} <= files.SUFFIXES
    assert not {".eps", ".pdf", ".ps", ".svg", ".psd", ".h5", ".mpg", ".npz"} & files.SUFFIXES
    tga = encoded("TGA")
    assert files.decode(tga, "a.tga").shape == (3, 5, 9)
    with pytest.raises(files.UnreadableError):  # any bytes may be taken for this format
        files.decode(tga, "a.png")
    assert files.decode(encoded("PNG"), "a.jpg").shape == (3, 5, 9)


def test_large_images_are_refused_before_they_are_decoded_unless_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(files.UnreadableError, match=r"45 pixels.* limit of 40.* --max-pixels 45"):
        files.decode(encoded("PNG"), "scan.png")
    files.allow_pixels(45)
    assert files.decode(encoded("PNG"), "scan.png").shape == (3, 5, 9)


def in_a_process(program: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that reads images, as its own process: filters and plugins are per process."""
    lines = f"import sys; sys.path.insert(0, {str(path)!r})\n{program}" if path else program
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)


def test_what_pillow_prints_does_not_reach_the_terminal() -> None:
    tiff = encoded("TIFF", compression="tiff_lzw")
    damaged = tiff[:8] + bytes(40) + tiff[48:]
    transparent = encoded("PNG")
    result = in_a_process(
        "import warnings\n"
        "from ddpm_cli.core.data import files\n"
        "from PIL import Image\n"
        "Image.MAX_IMAGE_PIXELS = 30\n"  # from which on it warns
        f"for data in ({damaged!r}, {transparent!r}, b''):\n"
        "    try:\n"
        "        files.decode(data, 'a')\n"
        "    except files.UnreadableError:\n"
        "        pass\n"
    )
    assert result.stderr == ""


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    assert ".heic" not in files.SUFFIXES  # the tests run without it
    (tmp_path / "pillow_heif.py").write_text(
        "import io\n"
        "from PIL import Image, ImageFile, PngImagePlugin\n"
        "class Stand(PngImagePlugin.PngImageFile):\n"
        "    format = 'HEIF'\n"
        "    def __init__(self, file, name=None):\n"
        "        super().__init__(io.BytesIO(file.read()[12:]), name)\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Stand, lambda start: start[4:12] == b'ftypheic')\n"
    )
    heic = b"\0\0\0\x0cftypheic" + encoded("PNG")
    result = in_a_process(
        "from ddpm_cli.core.data import files\n"
        f"print(files.decode({heic!r}, 'a.heic').shape, files.is_image_file('a.HEIC'))",
        tmp_path,
    )
    assert result.stdout == "(3, 5, 9) True\n"
