"""ICC profiles made by hand (ICC.1:2001): three primaries, grey, or a table of inks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

XYZ = tuple[float, float, float]

SRGB: tuple[XYZ, XYZ, XYZ] = (  # the primaries of sRGB, adapted to D50
    (0.43607, 0.22249, 0.01392),
    (0.38515, 0.71687, 0.09708),
    (0.14307, 0.06061, 0.71410),
)
P3: tuple[XYZ, XYZ, XYZ] = (  # those of Display P3
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
D50: XYZ = (0.9642, 1.0, 0.8249)


def of_colours(primaries: Sequence[XYZ], gamma: float) -> bytes:
    """A profile of RGB images: linear light is the level to the power gamma."""
    tags = {f"{c}XYZ": _xyz(value) for c, value in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", tags | {f"{c}TRC": _curve(gamma) for c in "rgb"})


def of_grey(gamma: float) -> bytes:
    """A profile of grey images."""
    return _profile(b"GRAY", {"kTRC": _curve(gamma)})


def of_inks() -> bytes:
    """A profile of CMYK images that are grey: L* is 100 without cyan and 0 with all of it."""
    corners = [(level, 128, 128) for level in (255, 0) for _ in range(8)]  # cyan varies slowest
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    table += 4 * bytes(range(256)) + bytes(v for corner in corners for v in corner)
    table += 3 * bytes(range(256))
    return _profile(b"CMYK", {"A2B0": table}, kind=b"prtr", connection=b"Lab ")


def _profile(
    space: bytes, tags: dict[str, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    text = b"test\0"
    tags = {
        "desc": b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(79),
        "cprt": b"text" + bytes(4) + text,
        "wtpt": _xyz(D50),
        **tags,
    }
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = start + len(content)
    head = struct.pack(">I4xI4s4s4s", size, 0x02100000, kind, space, connection)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    return (head + _xyz(D50)[8:]).ljust(128, b"\0") + table + content


def _xyz(value: XYZ) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * v) for v in value))


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(256 * gamma))
