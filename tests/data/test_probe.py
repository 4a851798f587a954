"""Probing an image reads its header alone, and agrees with what decoding returns."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from ddpm_cli.core.data import files

SIDEWAYS = 6  # EXIF orientation: a quarter turn


def encoded(form: str, mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    """An image of 9 x 5 pixels (width x height)."""
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def chunks(png: bytes) -> list[bytes]:
    """The chunks of a PNG, whole."""
    found, start = [], 8
    while start < len(png):
        end = start + 12 + struct.unpack(">I", png[start : start + 4])[0]
        found.append(png[start:end])
        start = end
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def late(png: bytes, kind: bytes) -> bytes:
    """The same PNG, with the chunks of a kind after the pixels, as some editors write them."""
    parts = chunks(png)
    moved = [part for part in parts if part[4:8] == kind]
    assert moved
    kept = [part for part in parts if part[4:8] != kind]
    return png[:8] + b"".join([*kept[:-1], *moved, kept[-1]])


def texts() -> PngInfo:
    """An orientation in XMP alone."""
    info = PngInfo()
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{SIDEWAYS}"/>'
    info.add_itxt("XML:com.adobe.xmp", xmp)
    return info


def raw_profile() -> PngInfo:
    """An orientation as ImageMagick once wrote it."""
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    content = exif.tobytes()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True)
    return info


IMAGES = {
    "png": encoded("PNG"),
    "grey png": encoded("PNG", "L"),
    "palette png": encoded("PNG", "P"),
    "transparent png": encoded("PNG", "RGBA"),
    "deep png": encoded("PNG", "I;16"),
    "sideways png": encoded("PNG", orientation=SIDEWAYS),
    "mirrored png": encoded("PNG", orientation=2),
    "sideways png, late": late(encoded("PNG", orientation=SIDEWAYS), b"eXIf"),
    "sideways png by XMP": encoded("PNG", pnginfo=texts()),
    "sideways png by XMP, late": late(encoded("PNG", pnginfo=texts()), b"iTXt"),
    "sideways png by a raw profile": encoded("PNG", pnginfo=raw_profile()),
    "animated png": encoded(
        "PNG", save_all=True, append_images=[Image.new("RGB", (9, 5))], orientation=SIDEWAYS
    ),
    "jpeg": encoded("JPEG"),
    "sideways jpeg": encoded("JPEG", orientation=SIDEWAYS),
    "sideways tiff": encoded("TIFF", orientation=SIDEWAYS),
    "sideways webp": encoded("WEBP", orientation=SIDEWAYS),
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
}


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats of the images whose pixels are read."""
    formats: list[str] = []
    load = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> Any:
        formats.append(str(self.format))
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return formats


@pytest.mark.parametrize("name", IMAGES)
def test_no_pixel_is_read_and_the_size_is_that_of_decoding(name: str, decodes: list[str]) -> None:
    size, channels = files.probe(IMAGES[name], name)
    traits = files.traits(IMAGES[name], name)
    assert decodes == []
    assert size == files.decode(IMAGES[name], name).shape[1:]
    assert size == ((9, 5) if "sideways" in name or name == "animated png" else (5, 9))
    assert channels == (1 if name in ("grey png", "deep png") else 3)
    turned = any(word in name for word in ("sideways", "mirrored", "animated"))
    assert ("turned" in traits) == turned
    assert ("of several frames" in traits) == (name == "animated png")


@pytest.mark.parametrize("name", [name for name in IMAGES if "png" in name])
def test_a_png_that_is_cut_short_within_its_pixels(name: str) -> None:
    data = IMAGES[name]
    at = data.index(b"IDAT") + 6
    with pytest.raises(files.UnreadableError):
        files.decode(data[:at], name)
    sideways = ("sideways" in name and "late" not in name) or name == "animated png"
    assert files.probe(data[:at], name)[0] == ((9, 5) if sideways else (5, 9))


@pytest.mark.parametrize("length", range(0, len(IMAGES["sideways png"]) + 1, 3))
def test_a_png_of_any_length_is_probed_or_named(length: int) -> None:
    try:
        files.probe(IMAGES["sideways png"][:length], "holiday.png")
    except files.UnreadableError as error:
        assert "holiday.png" in str(error)


def test_a_chunk_of_nonsense_length_after_the_pixels() -> None:
    data = IMAGES["sideways png"]
    for length in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x09"):
        broken = data[:-12] + length + b"tEXt" + data[-4:]
        assert files.probe(broken, "x.png") == ((9, 5), 3)


def test_training_names_a_truncated_png(train_tiny: Callable[..., Any], photos: Path) -> None:
    """All headers are probed before: that of this one is whole."""
    path = photos / "dark" / "5.png"
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"IDAT") + 20])
    result = train_tiny("--out", "run")
    assert (result.code, "1 of 24 images cannot be read: dark/5.png" in result.err) == (1, True)
    assert train_tiny("--out", "run", "--skip-bad").code == 0
