"""Reading and writing image files. With colours, films, palettes and sheets it alone imports PIL.

An image is a uint8 array (C, H, W): 1 channel grey, 3 RGB, 4 RGBA.
"""

from __future__ import annotations

import ctypes
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging, features
from PIL.PngImagePlugin import PngInfo

from ddpm_cli.core.data import colours, metadata, npy_image
from ddpm_cli.core.data.formats import NO_SIGNATURE, REMEDIES, SUFFIXES_OF
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, first_line, listed
from ddpm_cli.core.runtime.content import describe
from ddpm_cli.core.runtime.files import write_bytes

# Part of the keys of caches. Raise it where `decode` or `fit` returns other pixels than before, for
# any image that may be cached: another crop, filter, rounding, background or EXIF handling.
# 2: floats from 0 to 1, transparent 16-bit grey, resolution of large JPEGs that EXIF turns.
DECODER_VERSION = 2

USUAL_PIXELS = 2 * 89_478_485  # the largest image that Pillow decodes by default

_LISTED = 10  # unreadable files named in a message

_RGB = Transform()
_FILTER = Image.Resampling.BICUBIC  # of all resizing; Pillow widens it to shrink: antialiased
_ORIENTATION = 0x0112  # EXIF tag
_JPEGS = frozenset({"JPEG", "MPO"})  # Pillow's names of the formats
_ORIENTING = frozenset({"exif", "xmp"})  # what may hold an orientation, in a JPEG
_WIDTH, _HEIGHT = 0x0100, 0x0101  # TIFF tags
_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageArray = NDArray[np.uint8]


def _silence_pillow() -> None:
    """Keep off stderr what Pillow warns of: it is an error of ours, or of no consequence."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with suppress(AttributeError, OSError):  # libtiff prints errors itself, unless linked otherwise
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _register_heif() -> bool:
    """Let Pillow read HEIC where the package pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except (ImportError, OSError):  # OSError: its library does not load
        return False
    register_heif_opener()
    return True


_silence_pillow()
_OPTIONAL = {  # formats that not every installation reads
    "HEIF": _register_heif(),
    "AVIF": find_spec("PIL._avif") is not None,
    "WEBP": find_spec("PIL._webp") is not None,
    "JPEG2000": features.check("jpg_2000"),
}
_FORMATS = tuple(form for form in SUFFIXES_OF if _OPTIONAL.get(form, True))
SUFFIXES = frozenset(suffix for form in _FORMATS for suffix in SUFFIXES_OF[form])


class UnreadableError(DdpmError):
    """A file that is not an image, is truncated, or is too large to decode safely."""


def is_image_file(name: str) -> bool:
    """Whether a name is that of an image file, and not a hidden file or one of __MACOSX."""
    base = name[name.rfind("/") + 1 :]
    return (
        base[max(0, base.rfind(".")) :].lower() in SUFFIXES
        and base[0] != "."
        and ("__MACOSX" not in name or "__MACOSX" not in name.split("/"))
    )


def max_pixels() -> int | None:
    """Pixels of the largest image that is decoded: Pillow's limit of this process. None: any."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def allow_pixels(count: int | None) -> None:
    """Let in images of up to `count` pixels, as --max-pixels says, and no fewer than now."""
    if count is not None and Image.MAX_IMAGE_PIXELS is not None:
        half = -(-count // 2)  # Pillow allows twice as many
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, half)


def list_unreadable(failures: Sequence[str], total: int) -> str:
    """The files that cannot be read, in one line: the first of them, each with its reason."""
    return f"{len(failures)} of {total} images cannot be read: {listed(failures, _LISTED, '; ')}"


def probe(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Read the header: ((height, width) in pixels, channels: 1 for grey images, 3 for others).

    As traits and decode, raises UnreadableError for whatever Pillow raises on a damaged file.
    """
    with _opened(data, name, pixels=False) as image:
        width, height = image.size
        if image.format == "TIFF":  # of which newer versions of Pillow have swapped the sides
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = tags[_WIDTH], tags[_HEIGHT]
        if _orientation(image) >= 5:  # those that swap the sides
            width, height = height, width
        return (height, width), (1 if colours.grey(image) else 3)


def traits(data: bytes, name: str) -> frozenset[str]:
    """Properties that decoding to RGB will remove, from the header.

    Any of "grey", "transparent", "16-bit", "CMYK", "turned" (by EXIF) and "of several frames".
    """
    with _opened(data, name, pixels=False) as image:
        present = {
            "grey": colours.grey(image),
            "transparent": colours.transparent(image),
            "16-bit": image.mode in colours.DEEP_MODES,
            "CMYK": image.mode == "CMYK",
            "turned": _orientation(image) != 1,
            "of several frames": _animated(image),
        }
    return frozenset(trait for trait, has in present.items() if has)


def decode(data: bytes, name: str, transform: Transform = _RGB) -> ImageArray:
    """Decode an image file to uint8 (channels, H, W), by Transform.

    The first frame of an animation, rotated by its EXIF orientation, 16 bits scaled to 8. A resized
    JPEG of at least four times the size is decoded at a fraction of its resolution, which is
    quicker and as good to a few levels. Raises UnreadableError.
    """
    with _opened(data, name, pixels=True) as image:
        if image.format in _JPEGS:
            _decode_smaller(image, transform)
        image.load()  # before its orientation, which may follow the pixels
        turn = _UPRIGHT.get(_orientation(image))
        return _transformed(image if turn is None else image.transpose(turn), transform)


def fit(image: ImageArray, transform: Transform) -> ImageArray:
    """Transform a decoded image (C, H, W), as `decode` does."""
    return _transformed(Image.fromarray(_interleaved(image)), transform)


def write_png(path: Path, image: ImageArray, text: Mapping[str, str] | None = None) -> None:
    """Write (C, H, W) uint8 as PNG with chunks of text, whole or not at all."""
    write_bytes(path, png(image, text), durable=False)


def png(image: ImageArray, text: Mapping[str, str] | None = None) -> bytes:
    """An image (C, H, W) uint8 as PNG, with chunks of text."""
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    content = io.BytesIO()
    Image.fromarray(_interleaved(image)).save(content, "PNG", pnginfo=chunks)
    return content.getvalue()


def webp(image: ImageArray, quality: int) -> bytes:
    """An image (C, H, W) uint8 as WebP with loss, of a quality from 0 to 100."""
    content = io.BytesIO()
    Image.fromarray(_interleaved(image)).save(content, "WEBP", quality=quality)
    return content.getvalue()


def text_of(data: bytes, name: str) -> dict[str, str]:
    """The text chunks of a PNG that precede its pixels, by key. Raises UnreadableError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return {str(k): v for k, v in image.info.items() if isinstance(v, str)}
    except Exception as error:  # Pillow's, of any type
        raise UnreadableError(f"{name}: not a PNG, or damaged") from error


@contextmanager
def _opened(data: bytes, name: str, *, pixels: bool) -> Iterator[Image.Image]:
    """Open an image file for work with Pillow alone; `pixels`: whether they will be read.

    Pillow validates little: damage surfaces as an exception of any type, also while pixels are
    read. All of them become an UnreadableError that names the file.
    """
    try:
        with _open(metadata.essential_png(data, pixels=pixels), name) as image:
            yield image
    except DdpmError:
        raise
    except MemoryError as error:
        raise UnreadableError(f"{name}: more memory is needed than there is") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"{name}: {_too_many_pixels(error)}") from error
    except UnidentifiedImageError as error:
        raise UnreadableError(f"{name}: {_unidentified(data)}") from error
    except Exception as error:
        words = first_line(error) if isinstance(error, OSError | SyntaxError | ValueError) else ""
        said = " " in words and "truncated" not in words
        detail = f" ({words})" if said else ""
        raise UnreadableError(f"{name}: damaged or cut short{detail}") from error


def _open(data: bytes, name: str) -> Image.Image:
    suffix = name[name.rfind(".") :].lower()
    if suffix == npy_image.SUFFIX:
        return _open_npy(data, name)
    # its signature is no other format's, and the others take long to import
    formats = ("PNG",) if data.startswith(metadata.PNG) else _formats(suffix)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except (OSError, ValueError, SyntaxError):
        essential = metadata.essential_jpeg(data)
        if essential is data:
            raise
        return Image.open(io.BytesIO(essential), formats=formats)


def _open_npy(data: bytes, name: str) -> Image.Image:
    try:
        pixels = npy_image.pixels_of(data, name)
    except DdpmError as error:
        raise UnreadableError(str(error)) from error
    count, limit = pixels.shape[0] * pixels.shape[1], max_pixels()
    if limit is not None and count > limit:
        raise Image.DecompressionBombError(f"{count} pixels")
    return Image.fromarray(pixels)


@lru_cache
def _formats(suffix: str) -> tuple[str, ...]:
    """Pillow's names of the formats that a file of this suffix may have.

    Others are never tried, such as EPS, which runs Ghostscript; those that anything may be taken
    for, only where the suffix says so.
    """
    Image.init()
    return tuple(
        form
        for form in _FORMATS
        if form in Image.OPEN and (form not in NO_SIGNATURE or suffix in SUFFIXES_OF[form])
    )


def _too_many_pixels(error: Exception) -> str:
    counted = re.search(r"\d+", str(error))  # Pillow's message begins with it
    count = int(counted[0]) if counted else 0
    return (
        f"{count:,} pixels are more than the limit of {max_pixels():,}; if you trust the file, add "
        f"--max-pixels {count}"
    )


def _unidentified(data: bytes) -> str:
    """What a file is that Pillow does not take for an image."""
    what = describe(data)
    if what is None:
        return "not an image file in a supported format"
    form = what.split()[1].replace("HEIC", "HEIF")  # "a HEIC image"
    if form in _FORMATS:
        return "damaged or cut short"
    if form in SUFFIXES_OF:
        return f"{what} ({REMEDIES[SUFFIXES_OF[form][0]]})"
    return f"not an image but {what}"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the image has none, or none that can be read."""
    if image.format in _JPEGS and not _ORIENTING.intersection(image.info):
        return 1  # getexif would build an empty directory
    with suppress(Exception):  # junk in EXIF is no reason to refuse the pixels
        value = Image.Image.getexif(image).get(_ORIENTATION)  # that of PNG decodes the pixels
        if value in _UPRIGHT:
            return int(value)
    return 1


def _animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return True  # its second frame is damaged, which the first is not


def _decode_smaller(image: Image.Image, transform: Transform) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8, where that leaves twice the pixels a side."""
    if transform.size is None or transform.channels == 4:
        return
    height, width = transform.size
    if min(image.size) >= 4 * min(height, width):
        if _orientation(image) >= 5:  # those that swap the sides
            height, width = width, height
        image.draft(None, (2 * width, 2 * height))


def _transformed(image: Image.Image, transform: Transform) -> ImageArray:
    array = np.asarray(_fit(colours.to_channels(image, transform), transform))
    return array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy()


def _fit(image: Image.Image, transform: Transform) -> Image.Image:
    """An image at the transform's size, antialiased."""
    if transform.size is None or image.size == transform.size[::-1]:
        return image
    height, width = transform.size
    if transform.fit == "stretch":
        return image.resize((width, height), _FILTER)
    if transform.fit == "crop":
        return ImageOps.fit(image, (width, height), method=_FILTER)
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    colour = colours.padding(image.mode, transform.background)
    sheet = Image.new(image.mode, (width, height), colour)
    sheet.paste(image.resize(inner, _FILTER), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return sheet


def _interleaved(image: ImageArray) -> ImageArray:
    """(C, H, W) as (H, W) grey or (H, W, C)."""
    return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
