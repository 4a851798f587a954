"""Picture files in and out. The only place that knows PIL and imageio.

A picture is a uint8 array (C, H, W): 1 channel grey, 3 RGB, 4 RGBA.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.files import atomic_write

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)

_LEGIBLE, _FONT, _LINES = 96, 11, 4  # of captions: pixels of width and of height, and lines at most

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})

ImageArray = NDArray[np.uint8]


class UnreadableError(DdpmError):
    """A file that is not a picture, is cut short, or is too large to decode safely."""


def is_image_file(name: str) -> bool:
    """Whether a file name looks like a picture's (hidden files and macOS leftovers do not)."""
    path = Path(name)
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and "__MACOSX" not in path.parts
    )


def probe(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Read the header: ((height, width) in pixels, channels: 1 for grey pictures, 3 for others)."""
    with _opened(data, name) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
        grey = image.mode in ("1", "L", "LA") or image.mode in _DEEP_MODES
        return ((width, height) if turned else (height, width)), (1 if grey else 3)


def traits(data: bytes, name: str) -> frozenset[str]:
    """Name what decoding to RGB will change, from the header.

    Any of "grey", "transparent", "16-bit", "CMYK", "turned" (by EXIF) and "of several frames".
    """
    with _opened(data, name) as image:
        found = {
            "grey": image.mode in ("1", "L", "LA") or image.mode in _DEEP_MODES,
            "transparent": _transparent(image),
            "16-bit": image.mode in _DEEP_MODES,
            "CMYK": image.mode == "CMYK",
            # asking a PNG for its EXIF decodes it whole
            "turned": image.format in ("JPEG", "MPO", "TIFF", "WEBP")
            and image.getexif().get(0x0112, 1) != 1,
            "of several frames": bool(getattr(image, "is_animated", False)),
        }
    return frozenset(trait for trait, present in found.items() if present)


def decode(
    data: bytes, name: str, channels: int = 3, size: tuple[int, int] | None = None
) -> ImageArray:
    """Decode a picture file to uint8 (channels, H, W).

    The first frame of an animation; turned upright by its EXIF orientation; 16-bit scaled to 8;
    transparency laid on white (unless 4 channels are asked for). With `size` (height, width) it is
    centre-cropped to that shape and resized with antialiasing.
    """
    with _opened(data, name) as image:
        try:
            if size is not None and channels != 4:
                image.draft(None, (2 * size[1], 2 * size[0]))  # JPEG: decode no finer than needed
            upright = ImageOps.exif_transpose(image)
            return _array(_fitted(_in_mode(upright, channels), size))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise UnreadableError(f"{name}: {error}") from error


def fit(picture: ImageArray, channels: int, size: tuple[int, int]) -> ImageArray:
    """Bring an already decoded picture (C, H, W) to `channels` and `size` (height, width)."""
    array = picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)
    return _array(_fitted(_in_mode(Image.fromarray(array), channels), size))


def write_png(path: Path, picture: ImageArray) -> None:
    """Write (C, H, W) uint8 as PNG, whole or not at all."""
    with atomic_write(path) as partial:
        imageio.imwrite(partial, _interleaved(picture), extension=".png")


def write_gif(path: Path, frames: Sequence[ImageArray], seconds: float, hold: float) -> None:
    """Write frames (C, H, W) as an endless GIF of `seconds`, its end held for `hold` more."""
    each = max(1000 * seconds / len(frames), 20)  # milliseconds; browsers slow down below 20
    durations = [each] * (len(frames) - 1) + [each + 1000 * hold]
    with atomic_write(path) as partial:
        imageio.imwrite(
            partial, [_rgb(frame) for frame in frames], extension=".gif", duration=durations, loop=0
        )


def grid(pictures: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> ImageArray:
    """Lay pictures (N, C, H, W) out in rows, as square as can be, `gap` white pixels apart."""
    n, channels, height, width = pictures.shape
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    sheet = np.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8
    )
    for i, picture in enumerate(pictures):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


def captioned(pictures: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures (N, C, H, W), enlarged where they are small, each with its caption beneath it."""
    factor = max(1, round(_LEGIBLE / pictures.shape[3]))
    large = pictures.repeat(factor, axis=2).repeat(factor, axis=3)
    n, channels, height, width = large.shape
    font = ImageFont.load_default(_FONT)
    columns = max(8, int(width / font.getlength("n")))
    wrapped = [textwrap.wrap(caption, columns)[:_LINES] for caption in captions]
    below = (_FONT + 2) * max(map(len, wrapped)) + 4
    out = np.full((n, channels, height + below, width), 255, dtype=np.uint8)
    out[:, :, :height] = large
    for picture, lines in zip(out, wrapped, strict=True):
        strip = Image.new("L", (width, below), 255)
        ImageDraw.Draw(strip).multiline_text((1, 1), "\n".join(lines), fill=0, font=font, spacing=2)
        picture[: min(channels, 3), height:] = np.asarray(strip)
    return out


def enlarge(picture: ImageArray, least: int = 512) -> ImageArray:
    """Repeat pixels by a whole factor so that the shorter side has about `least` pixels."""
    factor = max(1, round(least / min(picture.shape[1:])))
    return picture.repeat(factor, axis=1).repeat(factor, axis=2)


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise UnreadableError(f"{name}: not a picture that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UnreadableError(f"{name}: {error}") from error


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _DEEP_MODES:
        image = _eight_bit(image)
    if _transparent(image) and channels != 4:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255):
        values = values / 257  # 65535 -> 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _fitted(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or image.size == (size[1], size[0]):
        return image
    return ImageOps.fit(image, (size[1], size[0]), method=Image.Resampling.BICUBIC)


def _array(image: Image.Image) -> ImageArray:
    array = np.array(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _interleaved(picture: ImageArray) -> ImageArray:
    return picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)


def _rgb(picture: ImageArray) -> ImageArray:
    return (
        np.repeat(picture, 3, axis=0).transpose(1, 2, 0)
        if len(picture) == 1
        else picture[:3].transpose(1, 2, 0)
    )
