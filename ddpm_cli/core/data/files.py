"""Reading and writing image files. The only module that imports PIL and imageio.

An image is a uint8 array (C, H, W): 1 channel grey, 3 RGB, 4 RGBA.
"""

from __future__ import annotations

import io
import textwrap
import zlib
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

# Part of the keys of caches. Raise it where `decode` or `fit` returns other pixels than before, for
# any image that may be cached: another crop, filter, rounding, background or EXIF handling.
DECODER_VERSION = 1

_CAPTION_WIDTH = 96  # pixels: a captioned image is enlarged to about this width
_FONT_SIZE, _CAPTION_LINES = 11, 4  # in pixels; at most

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError)  # that PIL raises on damage

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PNG_METADATA = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})  # that may follow the pixels

ImageArray = NDArray[np.uint8]


class UnreadableError(DdpmError):
    """A file that is not an image, is truncated, or is too large to decode safely."""


def is_image_file(name: str) -> bool:
    """Whether a name is that of an image file, and not a hidden file or one of __MACOSX."""
    path = Path(name)
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and "__MACOSX" not in path.parts
    )


def probe(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Read the header: ((height, width) in pixels, channels: 1 for grey images, 3 for others)."""
    with _open(_without_pixels(data), name) as image:
        exif = _exif(image, name)
        width, height = image.size
        if image.format == "TIFF":  # of which newer versions of PIL have swapped the sides already
            width, height = exif[0x0100], exif[0x0101]
        transposed = exif.get(0x0112) in (5, 6, 7, 8)  # EXIF orientations that swap the sides
        grey = image.mode in ("1", "L", "LA") or image.mode in _DEEP_MODES
        return ((width, height) if transposed else (height, width)), (1 if grey else 3)


def traits(data: bytes, name: str) -> frozenset[str]:
    """Properties that decoding to RGB will remove, from the header.

    Any of "grey", "transparent", "16-bit", "CMYK", "turned" (by EXIF) and "of several frames".
    """
    with _open(_without_pixels(data), name) as image:
        present = {
            "grey": image.mode in ("1", "L", "LA") or image.mode in _DEEP_MODES,
            "transparent": _transparent(image),
            "16-bit": image.mode in _DEEP_MODES,
            "CMYK": image.mode == "CMYK",
            "turned": _exif(image, name).get(0x0112) in range(2, 9),
            "of several frames": bool(getattr(image, "is_animated", False)),
        }
    return frozenset(trait for trait, has in present.items() if has)


def decode(
    data: bytes, name: str, channels: int = 3, size: tuple[int, int] | None = None
) -> ImageArray:
    """Decode an image file to uint8 (channels, H, W).

    The first frame of an animation, rotated by its EXIF orientation, 16 bits scaled to 8,
    transparency composited on white (unless channels is 4). With `size` (height, width) it is
    centre-cropped to that aspect ratio and resized with antialiasing. Raises UnreadableError.
    """
    with _open(data, name) as image:
        try:
            if size is not None and channels != 4:
                image.draft(
                    None, (2 * size[1], 2 * size[0])
                )  # JPEG: decode at a reduced resolution
            upright = ImageOps.exif_transpose(image)
            return _array(_resize(_convert(upright, channels), size))
        except _DECODING_ERRORS as error:
            raise UnreadableError(f"{name}: {error}") from error


def fit(image: ImageArray, channels: int, size: tuple[int, int]) -> ImageArray:
    """Convert a decoded image (C, H, W) to `channels` and `size` (height, width), as `decode`."""
    return _array(_resize(_convert(Image.fromarray(_interleaved(image)), channels), size))


def write_png(path: Path, image: ImageArray) -> None:
    """Write (C, H, W) uint8 as PNG, whole or not at all."""
    with atomic_write(path, durable=False) as partial:
        imageio.imwrite(partial, _interleaved(image), extension=".png")


def write_gif(path: Path, frames: Sequence[ImageArray], seconds: float, hold: float) -> None:
    """Write frames (C, H, W) as a looping GIF of `seconds`, the last frame shown `hold` longer."""
    each = max(1000 * seconds / len(frames), 20)  # milliseconds; browsers slow down below 20
    durations = [each] * (len(frames) - 1) + [each + 1000 * hold]
    with atomic_write(path, durable=False) as partial:
        imageio.imwrite(
            partial, [_rgb(frame) for frame in frames], extension=".gif", duration=durations, loop=0
        )


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> ImageArray:
    """Tile images (N, C, H, W) row by row, near square, with `gap` white pixels between them."""
    n, channels, height, width = images.shape
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    sheet = np.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8
    )
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def captioned(images: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Images (N, C, H, W), small ones enlarged, each with its caption below."""
    factor = max(1, round(_CAPTION_WIDTH / images.shape[3]))
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    n, channels, height, width = large.shape
    font = ImageFont.load_default(_FONT_SIZE)
    columns = max(8, int(width / font.getlength("n")))
    wrapped = [textwrap.wrap(caption, columns)[:_CAPTION_LINES] for caption in captions]
    below = (_FONT_SIZE + 2) * max(map(len, wrapped)) + 4
    out = np.full((n, channels, height + below, width), 255, dtype=np.uint8)
    out[:, :, :height] = large
    for image, lines in zip(out, wrapped, strict=True):
        strip = Image.new("L", (width, below), 255)
        ImageDraw.Draw(strip).multiline_text((1, 1), "\n".join(lines), fill=0, font=font, spacing=2)
        image[: min(channels, 3), height:] = np.asarray(strip)
    return out


def enlarge(image: ImageArray, side: int = 512) -> ImageArray:
    """Repeat pixels by an integer factor so that the shorter side has about `side` pixels."""
    factor = max(1, round(side / min(image.shape[1:])))
    return image.repeat(factor, axis=1).repeat(factor, axis=2)


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise UnreadableError(f"{name}: not an image file in a supported format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(f"{name}: {error}") from error
    except _DECODING_ERRORS as error:
        raise UnreadableError(f"{name}: {error}") from error


def _without_pixels(data: bytes) -> bytes:
    """A PNG without its pixels: its metadata may follow them, and PIL would decode them first.

    Other files are returned as they are.
    """
    if not data.startswith(_PNG):
        return data
    kept, start, after_pixels = [_PNG], len(_PNG), False
    while start + 12 <= len(data):  # a chunk: length, kind, content, CRC
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if end > len(data) or kind == b"IEND" or (after_pixels and kind == b"fcTL"):
            break  # fcTL: the next frame of an animation
        if kind in (b"IDAT", b"fdAT"):
            after_pixels = True
        elif not after_pixels:
            kept.append(data[start:end])
        elif kind in _PNG_METADATA:  # whose CRC decoding does not verify
            content = data[start + 4 : end - 4]
            kept += [data[start : start + 4], content, zlib.crc32(content).to_bytes(4, "big")]
        start = end
    return b"".join([*kept, _PNG_END])


def _exif(image: Image.Image, name: str) -> Image.Exif:
    """The EXIF tags of an opened image, from its header."""
    try:
        return Image.Image.getexif(image)  # that of PNG images decodes the pixels
    except _DECODING_ERRORS as error:
        raise UnreadableError(f"{name}: {error}") from error


def _convert(image: Image.Image, channels: int) -> Image.Image:
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


def _resize(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or image.size == (size[1], size[0]):
        return image
    return ImageOps.fit(image, (size[1], size[0]), method=Image.Resampling.BICUBIC)


def _array(image: Image.Image) -> ImageArray:
    array = np.array(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _interleaved(image: ImageArray) -> ImageArray:
    """(C, H, W) as (H, W) grey or (H, W, C)."""
    return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)


def _rgb(image: ImageArray) -> ImageArray:
    """(C, H, W) as (H, W, 3)."""
    rgb = np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
    return rgb.transpose(1, 2, 0)
