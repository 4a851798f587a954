"""Small images of noise in any format, and ways to damage a file."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

LENGTHS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xea\x60\0\0\xea\x60")


def picture(mode: str = "RGB", side: tuple[int, int] = (23, 17), seed: int = 0) -> Image.Image:
    """Noise, or its first bits, of width x height pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (side[1], side[0], 3)).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(noise).convert(mode)


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(mode).save(buffer, form, **options)
    return buffer.getvalue()


def flipped(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        data[rng.randrange(len(data))] = rng.randrange(256)


def flipped_in_header(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(len(data), 80))] = rng.choice((0, 1, 127, 128, 255))


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def hollowed(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 4, 13, 100))]


def swapped(rng: random.Random, data: bytearray) -> None:
    a, b, width = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 4, 12, 50))
    first, second = data[a : a + width], data[b : b + width]
    data[a : a + width], data[b : b + width] = second, first


def doubled(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.choice((1, 4, 12, 60, 500))]


def lengthened(rng: random.Random, data: bytearray) -> None:
    """A number of nonsense, as a length, a count or a size."""
    start, value = rng.randrange(len(data)), rng.choice(LENGTHS)
    data[start : start + len(value)] = value


def padded(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(rng.choice((1, 10, 1000)))


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flipped,
    flipped_in_header,
    cut,
    hollowed,
    swapped,
    doubled,
    lengthened,
    padded,
)


def damaged(rng: random.Random, original: bytes, times: int) -> bytes:
    """A file after so many mutations."""
    data = bytearray(original)
    for _ in range(times):
        if data:
            rng.choice(MUTATIONS)(rng, data)
    return bytes(data)
