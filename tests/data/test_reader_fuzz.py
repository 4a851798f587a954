"""Damaged image files are read or named, whatever the damage: mutants of files of all formats.

The whole of it takes minutes: pytest -m fuzz tests/data/test_reader_fuzz.py
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm_cli.core.data import files
from tests.support.mutations import damaged, picture, saved

SAMPLE, ALL = 300, 20_000  # mutants in the suite, and under the marker `fuzz`
PIXELS = 4_000_000  # the largest image decoded here: what a damaged header claims costs time


def moving(form: str, **options: Any) -> bytes:
    """An animation of three frames."""
    return saved(form, save_all=True, append_images=[picture(seed=1), picture(seed=2)], **options)


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x011A] = 6, "a description", 72.0
    tags.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    return tags.tobytes()


def texts() -> PngInfo:
    info = PngInfo()
    info.add_text("workflow", "{node}" * 50)
    info.add_text("parameters", "steps" * 50, zip=True)
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    return info


def interlaced() -> bytes:
    """An interlaced PNG of one pixel, which Pillow does not write."""
    header = (1).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 1])
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0abc")), (b"IEND", b""))
    chunks = (
        len(content).to_bytes(4, "big")
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def seeds() -> dict[str, bytes]:
    """Intact files by name."""
    return {
        "plain.png": saved("PNG"),
        "palette.png": saved("PNG", "P", transparency=3),
        "alpha.png": saved("PNG", "RGBA"),
        "deep.png": saved("PNG", "I;16"),
        "interlaced.png": interlaced(),
        "moving.png": moving("PNG"),
        "metadata.png": saved("PNG", exif=exif(), pnginfo=texts(), icc_profile=b"\1" * 300),
        "plain.jpg": saved("JPEG"),
        "grey.jpg": saved("JPEG", "L"),
        "cmyk.jpg": saved("JPEG", "CMYK"),
        "exif.jpg": saved("JPEG", exif=exif(), icc_profile=b"\1" * 300, comment=b"a comment"),
        "progressive.jpg": saved("JPEG", progressive=True),
        "several.jpg": moving("MPO"),
        "lossy.webp": saved("WEBP"),
        "lossless.webp": saved("WEBP", "RGBA", lossless=True),
        "moving.webp": moving("WEBP"),
        "exif.webp": saved("WEBP", exif=exif(), xmp=b"<x/>", icc_profile=b"\1" * 300),
        "plain.gif": saved("GIF"),
        "moving.gif": moving("GIF", comment=b"a comment"),
        "plain.bmp": saved("BMP"),
        "palette.bmp": saved("BMP", "P"),
        "plain.tif": saved("TIFF"),
        "deep.tif": saved("TIFF", "I;16"),
        "moving.tif": moving("TIFF"),
        **{
            f"{kind}.tif": saved("TIFF", compression=kind)
            for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
        },
        "fax.tif": saved("TIFF", "1", compression="group4"),
        "colour.ppm": saved("PPM"),
        "grey.pgm": saved("PPM", "L"),
        "bits.pbm": saved("PPM", "1"),
        "text.ppm": b"P3 2 2 255 " + b"1 2 3 " * 4,
        "plain.tga": saved("TGA"),
        "packed.tga": saved("TGA", compression="tga_rle"),
        "plain.pcx": saved("PCX"),
        "plain.sgi": saved("SGI"),
        "plain.dds": saved("DDS"),
        "plain.ico": saved("ICO"),
        "plain.qoi": saved("QOI") if "QOI" in Image.SAVE else b"qoif",
        **({"plain.jp2": saved("JPEG2000")} if ".jp2" in files.SUFFIXES else {}),
        **({"plain.avif": saved("AVIF", exif=exif())} if ".avif" in files.SUFFIXES else {}),
    }


def with_sums(data: bytes) -> bytes:
    """A PNG with the CRCs of its chunks put right, so that damage is met behind them."""
    out, start = bytearray(data), 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            break
        out[end - 4 : end] = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big")
        start = end
    return bytes(out)


def mutants(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes, the same in every run; each format in turn."""
    originals = list(seeds().items())
    for number in range(count):
        rng = random.Random(number)
        name, original = originals[number % len(originals)]
        whole = damaged(rng, original, rng.choice((1, 1, 2, 3)))
        yield f"{number}-{name}", with_sums(whole) if rng.random() < 0.5 else whole


def outcome(data: bytes, name: str) -> str:
    """ "read", or "named" where an UnreadableError names the file in one line."""
    found = set()
    for read in (files.probe, files.traits, files.decode):
        try:
            read(data, name)
            found.add("read")
        except files.UnreadableError as error:
            assert str(error).startswith(f"{name}: "), error
            assert "\n" not in str(error)
            assert "object at 0x" not in str(error)
            found.add("named")
    return "named" if "named" in found else "read"


def run(count: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS // 2)
    outcomes = [outcome(data, name) for name, data in mutants(count)]
    assert capfd.readouterr() == ("", "")
    assert set(outcomes) == {"read", "named"}


def test_intact_files_are_read() -> None:
    assert {name: outcome(data, name) for name, data in seeds().items()} == dict.fromkeys(
        seeds(), "read"
    )


def test_damaged_files_are_read_or_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(SAMPLE, monkeypatch, capfd)


@pytest.mark.fuzz
def test_many_damaged_files_are_read_or_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(ALL, monkeypatch, capfd)
