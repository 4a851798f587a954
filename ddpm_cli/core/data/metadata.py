"""Image files without their metadata, which then cannot make them unreadable.

What may hold the orientation is kept: EXIF and XMP; and where pixels are read, their profile.
"""

from __future__ import annotations

import zlib

PNG, _END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PIXELS = frozenset({b"IDAT", b"fdAT"})
_HEADER = frozenset({b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL"})  # before the pixels
_TEXTS = frozenset({b"iTXt", b"tEXt", b"zTXt"})
_ORIENTING = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})  # keywords of texts
_UNPACKED_LIMIT = 2**20  # bytes of a compressed text or profile, unpacked; Pillow refuses more

_JPEG, _SCAN = b"\xff\xd8", 0xDA
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE}) - {0xE1, 0xEE}  # EXIF and XMP; the colours


def essential_png(data: bytes, *, pixels: bool) -> bytes:
    """A PNG without texts and later frames, and without its colour profile unless pixels are read.

    EXIF and XMP are kept also where they follow the pixels. Without `pixels` those are left out,
    too, as Pillow decodes them to reach what follows. A file that is cut short stays so. Other
    files are returned as they are.
    """
    if not data.startswith(PNG):
        return data
    kept, start, after_pixels = [PNG], len(PNG), False
    while start + 12 <= len(data):  # a chunk: length, kind, content, CRC
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if kind == b"IEND" or (after_pixels and kind == b"fcTL"):  # fcTL: the next frame
            return b"".join([*kept, _END])
        if end > len(data):
            break
        if kind in _PIXELS:
            after_pixels = True
            if pixels:
                kept.append(data[start:end])
        elif _is_of_use(kind, data[start + 8 : end - 4], pixels=pixels):
            kept.append(_with_crc(data[start : end - 4]))
        elif kind in _HEADER or (kind[:1].isupper() and not after_pixels):
            kept.append(data[start:end])
        start = end
    return b"".join([*kept, data[start:] if pixels else _END])


def essential_jpeg(data: bytes) -> bytes:
    """A JPEG without the segments of applications (profiles, previews) and comments.

    The same bytes object for other files, and where there are none.
    """
    if not data.startswith(_JPEG):
        return data
    kept, start, dropped = [_JPEG], len(_JPEG), False
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _SCAN:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] in _JPEG_METADATA:
            dropped = True
        else:
            kept.append(data[start:end])
        start = end
    return b"".join([*kept, data[start:]]) if dropped else data


def _with_crc(chunk: bytes) -> bytes:
    """A chunk with its own CRC: of metadata, a wrong one is no reason to refuse the pixels."""
    return chunk + zlib.crc32(chunk[4:]).to_bytes(4, "big")


def _is_of_use(kind: bytes, content: bytes, *, pixels: bool) -> bool:
    """Whether a chunk is EXIF, a profile where pixels are read, or a text with the orientation."""
    if kind == b"iCCP":  # name, method, profile
        method_and_profile = content.partition(b"\0")[2]
        return pixels and method_and_profile[:1] == b"\0" and _unpacks(method_and_profile[1:])
    return kind == b"eXIf" or (kind in _TEXTS and _may_orient(kind, content))


def _may_orient(kind: bytes, content: bytes) -> bool:
    """Whether a text is one that Pillow takes an orientation from, and can unpack."""
    keyword, _, text = content.partition(b"\0")
    if keyword not in _ORIENTING:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] == b"\0"):
        return True
    # iTXt: flag, method, language, translated keyword, text; zTXt: method, text
    return _unpacks(text[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else text[1:])


def _unpacks(packed: bytes) -> bool:
    """Whether Pillow unpacks this: no damage, and not too large."""
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(packed, _UNPACKED_LIMIT)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
