"""docs/images/pixels.png: what is done to pixels before a network sees them. Needs no run.

python docs/figures/pixels.py
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from drawing import options, save, sheet
from PIL import Image, ImageDraw

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform

sys.path.append(str(Path(__file__).parents[2]))  # of a repository: the tests make colour profiles
from tests.support import colour_profiles

OUTPUTS = ("pixels.png",)

SIDE = 96  # pixels of each picture
SIZE = (SIDE, SIDE)


def scene() -> Image.Image:
    """A landscape of 240x160 with a sun, a house and a tree."""
    y = np.linspace(0, 1, 160)[:, None, None]
    sky = np.broadcast_to(
        np.array([90, 150, 230]) * (1 - y) + np.array([255, 225, 190]) * y, (160, 240, 3)
    )
    image = Image.fromarray(sky.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((12, 14, 52, 54), fill=(255, 215, 60))
    draw.polygon(
        [(0, 120), (80, 70), (170, 118), (240, 84), (240, 160), (0, 160)], fill=(70, 140, 80)
    )
    draw.rectangle((92, 88, 140, 132), fill=(205, 75, 60))
    draw.polygon([(86, 88), (116, 60), (146, 88)], fill=(110, 60, 50))
    draw.rectangle((198, 90, 206, 134), fill=(100, 70, 45))
    draw.ellipse((180, 48, 224, 100), fill=(35, 100, 55))
    return image


def figure() -> Image.Image:
    """A ring that fades out, on nothing: an image with transparency."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    alpha = np.clip(255 * (1 - 4 * np.abs(np.hypot(x, y) - 0.6)), 0, 255) * (1 - 0.45 * (1 + x))
    colour = np.broadcast_to(np.array([230, 70, 40]), (*SIZE, 3))
    return Image.fromarray(np.concatenate([colour, alpha[..., None]], -1).astype(np.uint8))


def decoded(
    image: Image.Image, transform: Transform, form: str = "PNG", **options: object
) -> ImageArray:
    """An image file of a form as a network sees it, in RGB."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    pixels = files.decode(buffer.getvalue(), "image", transform)
    return pixels if len(pixels) == 3 else pixels.repeat(3, axis=0)


def pictures() -> dict[str, ImageArray]:
    """Each case by its name, (3, H, W)."""
    photo, ring = scene(), figure()
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright: to be turned clockwise
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    swapped = colour_profiles.of_colours(colour_profiles.SRGB[::-1], 2.2)
    blue = Image.merge("RGB", photo.split()[::-1])
    return {
        "crop": decoded(photo, Transform(3, SIZE)),
        "pad": decoded(photo, Transform(3, SIZE, "pad")),
        "pad, background #204060": decoded(photo, Transform(3, SIZE, "pad", (32, 64, 96))),
        "stretch": decoded(photo, Transform(3, SIZE, "stretch")),
        "channels 1": decoded(photo, Transform(1, SIZE)),
        "16-bit grey": decoded(deep, Transform(1, SIZE), "TIFF"),
        "CMYK": decoded(photo.convert("CMYK"), Transform(3, SIZE), "TIFF"),
        "EXIF applied": decoded(
            photo.rotate(90, expand=True), Transform(3, SIZE), "JPEG", exif=turned
        ),
        "alpha on white": decoded(ring, Transform(3, SIZE)),
        "alpha on black": decoded(ring, Transform(3, SIZE, background=(0, 0, 0))),
        "profile ignored": decoded(blue, Transform(3, SIZE), icc_profile=swapped),
        "profile to sRGB": decoded(blue, Transform(3, SIZE, srgb=True), icc_profile=swapped),
    }


def main() -> None:
    """Draw them with the option or property beneath each."""
    folder = options(__doc__).out
    shown = pictures()
    images = np.stack(list(shown.values())).transpose(0, 2, 3, 1)
    save(folder / OUTPUTS[0], sheet(images, 4, captions=list(shown), width=768))


if __name__ == "__main__":
    main()
