"""What the modes and profiles of image files mean: any of Pillow's images as grey, RGB or RGBA.

Grey is luma by ITU-R 601-2: L = 0.299 R + 0.587 G + 0.114 B, rounded.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from ddpm_cli.core.data.transform import Transform

DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
_OPAQUE = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}  # modes with transparency, as those kept
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of profiles, by mode
_LARGEST_PROFILE = 2**22  # bytes; those of printing presses have up to 3 MB
_LEVELS = 9  # of each channel, of the colours that tell whether a profile is sRGB's


def to_channels(image: Image.Image, transform: Transform) -> Image.Image:
    """A loaded image of any mode in mode L, RGB or RGBA, as the transform says.

    Its embedded profile is used where the transform asks for sRGB.
    """
    channels, mode = transform.channels, _MODES[transform.channels]
    profile = image.info.get("icc_profile") if transform.srgb else None
    image = _plain(image)
    if profile:
        image = _in_srgb(image, profile)
    if transparent(image) and channels != 4:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, transform.background)
        image = Image.alpha_composite(background, layer)
    return image if image.mode == mode else image.convert(mode)


def padding(mode: str, background: tuple[int, int, int]) -> tuple[int, ...]:
    """The value of pixels that pad an image of mode L, RGB or RGBA; transparent where they may."""
    if mode == "RGBA":
        return (*background, 0)
    pixel = Image.new("RGB", (1, 1), background).convert(mode)
    return tuple(np.asarray(pixel).ravel().tolist())


def grey(image: Image.Image) -> bool:
    """Whether an image has no colours: by its mode, whatever its pixels."""
    return image.mode in ("1", "L", "LA", "La") or image.mode in DEEP_MODES


def transparent(image: Image.Image) -> bool:
    """Whether an image may have transparent pixels."""
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode L, LA, RGB, RGBA or CMYK: without palette, key colour and 16 bits."""
    if image.mode in DEEP_MODES:
        return _eight_bit(image)
    if image.mode in _OPAQUE:
        return image.convert(_OPAQUE[image.mode])
    if "transparency" in image.info:
        return image.convert("LA" if grey(image) else "RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """65535 of 16 bits as 255. Floats are from 0 to 1 where none is larger, else to 255."""
    exact = np.asarray(image)
    values = np.nan_to_num(exact.astype(np.float64))
    largest = values.max(initial=0)
    if image.mode.startswith("I;16") or (image.mode == "I" and largest > 255):
        values = values / 257
    elif image.mode == "F" and largest <= 1:
        values = values * 255
    levels = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        levels.putalpha(Image.fromarray(np.where(exact == key, 0, 255).astype(np.uint8)))
    return levels


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """A plain image whose colours are those of a profile, in sRGB; its transparency as it was."""
    alpha = image.getchannel("A") if transparent(image) else None
    colours = image if alpha is None else image.convert(image.mode.removesuffix("A"))
    transform = _to_srgb(profile, colours.mode) if len(profile) <= _LARGEST_PROFILE else None
    if transform is None:
        return image
    converted = transform.apply(colours)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From images of a mode to RGB in sRGB, by the perceptual intent.

    None where nothing is to be done: a profile that is sRGB's (to one level of 255), that is
    damaged, which is no reason to refuse the pixels, or of another kind of image.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        target = ImageCms.createProfile("sRGB")
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE  # exact, if grey
        transform = ImageCms.buildTransform(source, target, mode, "RGB", flags=flags)
        return None if mode != "CMYK" and _changes_little(transform, mode) else transform
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, _LEVELS).round().astype(np.uint8)
    axes = np.meshgrid(levels, levels, levels) if mode == "RGB" else [levels[None]] * 3
    before = np.stack(axes, axis=-1).reshape(1, -1, 3)  # one row of colours
    colours = Image.fromarray(before).convert(mode)
    after = np.asarray(transform.apply(colours), dtype=int)
    return bool(np.abs(after - before).max() <= 1)
