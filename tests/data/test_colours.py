"""Modes and colour profiles of image files, against numbers worked out here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ddpm_cli.core.data import colours, files
from ddpm_cli.core.data.transform import Transform
from tests.support import colour_profiles

IN_TRAINING = Transform(srgb=True)
RAMP = np.stack([np.arange(256), np.arange(256)[::-1], np.arange(256) // 2], -1).astype(np.uint8)
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes, transform: Transform = IN_TRAINING) -> NDArray[np.int64]:
    """Pixels (H, W, C)."""
    return files.decode(data, "image", transform).transpose(1, 2, 0).astype(int)


def srgb_levels(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light in [0, 1] as levels of sRGB (IEC 61966-2-1)."""
    light = light.clip(0, 1)
    low = light <= 0.0031308
    return 255 * np.where(low, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("srgb", [False, True])
@pytest.mark.parametrize("mode", [*MODES, "HSV", "I", "F", "I;16", "I;16L", "I;16B"])
def test_every_mode_of_pillow_is_converted(mode: str, srgb: bool, channels: int) -> None:
    image = Image.new(mode, (3, 2))
    image.info["icc_profile"] = colour_profiles.of_colours(colour_profiles.P3, 1.8)
    converted = colours.to_channels(image, Transform(channels, srgb=srgb))
    assert converted.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]


def test_grey_of_colours_is_luma_of_itu_r_601() -> None:
    expected = RAMP @ np.array([0.299, 0.587, 0.114])
    grey = decoded(encoded(Image.fromarray(RAMP[None])), Transform(1))[0, :, 0]
    assert np.abs(grey - expected).max() <= 0.5 + 1e-3  # rounded; the weights have 16 bits
    small = decoded(encoded(Image.fromarray(RAMP.reshape(16, 16, 3))), Transform(1, (8, 8)))
    before = decoded(encoded(Image.fromarray(RAMP.reshape(16, 16, 3))), Transform(3, (8, 8)))
    # Grey first and then smaller, or the reverse: rounded twice, by half a level each.
    assert np.abs(small[..., 0] - before @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_cmyk_is_the_product_of_paper_left_white() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 100, 200, 50], [9, 9, 9, 255]]], np.uint8)
    pixels = decoded(encoded(Image.fromarray(inks, "CMYK"), "TIFF"))
    white = 255 - inks.astype(float)
    expected = white[..., :3] * white[..., 3:] / 255
    assert np.abs(pixels - expected).max() <= 1  # Pillow divides integers


def test_lab_is_converted_by_its_formula() -> None:
    """CIE 1976: L* = 116 (Y/Yn)^(1/3) - 16 of greys, whose a and b are 0 (128 as Pillow has it)."""
    lightness = np.arange(0, 256, 15, dtype=np.uint8)
    lab = np.stack([lightness, *[np.full_like(lightness, 128)] * 2], -1)[None]
    bands = [Image.fromarray(lab[..., i]) for i in range(3)]
    tiff = encoded(Image.merge("LAB", bands), "TIFF")
    f = (lightness / 255 * 100 + 16) / 116
    light = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    expected = srgb_levels(light)[None, :, None].repeat(3, 2)
    for transform in (Transform(), IN_TRAINING):
        assert np.abs(decoded(tiff, transform) - expected).max() <= 1.5  # two tables of 8 bits
    grey = decoded(tiff, Transform(1))
    assert np.abs(grey - expected[..., :1]).max() <= 1.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 0.2, 1.0], np.float32), [0, 51, 255]),  # from 0 to 1
        (np.array([0, 0.2, 200.4], np.float32), [0, 0, 200]),  # from 0 to 255
        (np.array([-3, 300, np.nan], np.float32), [0, 255, 0]),
        (np.array([0, 257, 65535], np.int32), [0, 1, 255]),
        (np.array([0, 128, 255], np.int32), [0, 128, 255]),
        (np.array([0, 257 * 9, 65535], np.uint16), [0, 9, 255]),
    ],
)
def test_deep_tiffs(values: NDArray[np.generic], expected: list[int]) -> None:
    tiff = encoded(Image.fromarray(values[None]), "TIFF")
    assert decoded(tiff, Transform(1))[0, :, 0].tolist() == expected


def png(depth: int, kind: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row of two pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    "data",
    [
        png(8, 6, bytes([90, 60, 30, 255, 1, 2, 3, 0])),
        png(8, 3, b"\0\1", (b"PLTE", bytes([90, 60, 30, 1, 2, 3])), (b"tRNS", b"\xff\0")),
        png(8, 2, bytes([90, 60, 30, 1, 2, 3]), (b"tRNS", struct.pack(">3H", 1, 2, 3))),
        png(16, 6, struct.pack(">8H", *(257 * v for v in (90, 60, 30, 255, 1, 2, 3, 0)))),
    ],
    ids=["alpha", "palette", "key colour", "16 bits"],
)
def test_transparency_lies_on_the_background(data: bytes) -> None:
    for background in ((255, 255, 255), (0, 0, 0), (10, 200, 30)):
        pixels = decoded(data, Transform(background=background))
        assert pixels[0].tolist() == [[90, 60, 30], list(background)]
    assert decoded(data, Transform(4))[0, :, 3].tolist() == [255, 0]
    grey = decoded(data, Transform(1, background=(255, 0, 0)))[0, :, 0]
    assert grey.tolist() == [66, 76]  # 0.299 * 90 + 0.587 * 60 + 0.114 * 30; 0.299 * 255


def test_transparent_grey_of_16_bits() -> None:
    key = png(16, 0, struct.pack(">2H", 257 * 90, 1000), (b"tRNS", struct.pack(">H", 1000)))
    alpha = png(16, 4, struct.pack(">4H", 257 * 90, 65535, 1000, 0))
    for data in (key, alpha):
        assert decoded(data, Transform(1))[0, :, 0].tolist() == [90, 255]
        assert decoded(data, Transform(1, background=(0, 0, 0)))[0, :, 0].tolist() == [90, 0]


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (1, 1), (200, 100, 0, 102))  # 0.4
    pixels = decoded(encoded(image), Transform(background=(0, 50, 100)))[0, 0]
    assert np.abs(pixels - [80, 70, 60]).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_a_profile_of_linear_light_is_converted(form: str) -> None:
    profile = colour_profiles.of_colours(colour_profiles.SRGB, 1.0)
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(Image.fromarray(RAMP[None]), form, icc_profile=profile, **options)
    assert (decoded(data, Transform())[0] == RAMP).all()  # without, as it is stored
    expected = srgb_levels(RAMP / 255)
    assert np.abs(decoded(data)[0] - expected).max() <= 1.5  # LittleCMS: fixed-point numbers


def test_other_primaries_are_converted() -> None:
    """Red and blue exchanged, and Display P3 by its matrix."""
    red, green, blue = colour_profiles.SRGB
    swapped = colour_profiles.of_colours((blue, green, red), 1.0)
    data = encoded(Image.fromarray(RAMP[None]), icc_profile=swapped)
    assert np.abs(decoded(data)[0] - srgb_levels(RAMP / 255)[:, ::-1]).max() <= 1.5

    data = encoded(Image.fromarray(RAMP[None]), "PNG", icc_profile=P3_GAMMA_2)
    to_xyz, of_srgb = np.array(colour_profiles.P3).T, np.array(colour_profiles.SRGB).T
    light = (RAMP / 255) ** 2 @ (np.linalg.inv(of_srgb) @ to_xyz).T
    assert light.min() < 0  # some of these colours do not exist in sRGB, and are clipped
    assert np.abs(decoded(data)[0] - srgb_levels(light)).max() <= 2  # and a matrix of 16 bits


P3_GAMMA_2 = colour_profiles.of_colours(colour_profiles.P3, 2.0)


def test_profiles_of_grey_and_of_transparent_images() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    alpha = levels[:, ::-1]
    profile = colour_profiles.of_grey(1.0)
    expected = srgb_levels(levels[..., None] / 255)
    grey = encoded(Image.fromarray(levels), icc_profile=profile)
    assert np.abs(decoded(grey, Transform(1, srgb=True)) - expected).max() <= 1
    both = encoded(Image.fromarray(np.stack([levels, alpha], -1), "LA"), icc_profile=profile)
    four = decoded(both, Transform(4, srgb=True))
    assert np.abs(four[..., :3] - expected).max() <= 1
    assert (four[..., 3] == alpha).all()
    deep = encoded(Image.fromarray(levels.astype(np.uint16) * 257), "TIFF", icc_profile=profile)
    assert np.abs(decoded(deep, Transform(1, srgb=True)) - expected).max() <= 1

    profile = colour_profiles.of_colours(colour_profiles.SRGB, 1.0)
    rgba = np.concatenate([RAMP, alpha[0][:, None]], -1)[None]
    four = decoded(encoded(Image.fromarray(rgba), icc_profile=profile), Transform(4, srgb=True))
    assert np.abs(four[..., :3] - srgb_levels(RAMP / 255)).max() <= 1.5
    assert (four[..., 3] == alpha).all()
    few = Image.fromarray(RAMP[:200:2][None]).quantize(100)
    from_palette = decoded(encoded(few, icc_profile=profile))
    plain = np.asarray(few.convert("RGB"))
    assert np.abs(from_palette - srgb_levels(plain / 255)).max() <= 1.5


def test_profiles_that_change_nothing() -> None:
    """sRGB's own, damaged ones, and those of another kind of image."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = colour_profiles.of_colours(colour_profiles.SRGB, 1.0)
    useless = (srgb, linear[:200], b"junk" * 100, colour_profiles.of_grey(1.0), linear * 40_000)
    for profile in useless:
        data = encoded(Image.fromarray(RAMP[None]), "TIFF", icc_profile=profile)
        assert (decoded(data)[0] == RAMP).all()
    grey = encoded(Image.fromarray(RAMP[None, :, 0]), icc_profile=linear)
    assert (decoded(grey, Transform(1, srgb=True))[0] == RAMP[:, :1]).all()


@pytest.mark.parametrize("content", [b"name\0\0junk", b"name", b"name\0\7x", b""])
def test_damaged_profiles_in_a_png(content: bytes) -> None:
    row = bytes([90, 60, 30, 1, 2, 3])
    assert decoded(png(8, 2, row, (b"iCCP", content))).ravel().tolist() == list(row)
    bomb = b"name\0\0" + zlib.compress(bytes(2**21))
    assert decoded(png(8, 2, row, (b"iCCP", bomb))).ravel().tolist() == list(row)


def test_a_wrong_checksum_of_a_profile_is_no_matter() -> None:
    profile = colour_profiles.of_colours(colour_profiles.SRGB, 1.0)
    row = bytes([128, 128, 128, 0, 0, 0])
    data = png(8, 2, row, (b"iCCP", b"name\0\0" + zlib.compress(profile)))
    at = data.index(b"IDAT") - 8  # the profile's checksum
    broken = data[:at] + bytes(4) + data[at + 4 :]
    assert broken != data
    assert decoded(broken)[0, 0].tolist() == decoded(data)[0, 0].tolist() != [128, 128, 128]


def test_inks_are_converted_by_their_profile() -> None:
    """A profile of CMYK whose table says that cyan is all that is seen, as a grey."""
    inks = np.zeros((1, 6, 4), np.uint8)
    inks[0, :, 0] = [0, 51, 102, 153, 204, 255]
    inks[0, :, 1] = 77  # of which the profile knows nothing
    profile = colour_profiles.of_inks()
    for form in ("TIFF", "JPEG"):
        image = Image.fromarray(inks.repeat(8, 0).repeat(8, 1), "CMYK")
        options = {} if form == "TIFF" else {"quality": 100, "subsampling": 0}
        data = encoded(image, form, icc_profile=profile, **options)
        lightness = 1 - inks[0, :, 0] / 255
        f = (100 * lightness + 16) / 116
        light = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
        expected = srgb_levels(light)[:, None]
        # 1 of a table of 8 bits, 3 of JPEG's colours
        assert np.abs(decoded(data)[4, 4::8] - expected).max() <= (2 if form == "TIFF" else 5)
