"""Pictures of a run as data URIs, of which all together stay small enough for a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cli.core.data import files
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.report import commands
from ddpm_cli.core.report.records import Document, Record, document
from ddpm_cli.core.runtime.files import in_words, status
from ddpm_cli.core.runtime.reporting import Reporter, track
from ddpm_cli.core.runtime.run_directory import RunDirectory

PREVIEWS, PICTURES = 2_500_000, 3_000_000  # bytes of all previews, and of all others, of a page
_MOST_PREVIEWS = 200
_PICTURE, _FILM = 600_000, 1_500_000  # bytes of one, at most
_SIDE, _PREVIEW_SIDE = 1600, 768  # pixels: the longer side, at most, of one that is made smaller
_QUALITY = 82  # of WebP, for those
_TYPES = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """A picture within the page."""

    source: str  # a data URI
    alt: str
    title: str = ""
    caption: str = ""
    command: str = ""  # that drew it
    sharp: bool = True  # its pixels are shown as squares


@dataclass(frozen=True)
class Frame:
    """A preview, by the images seen before it."""

    images: int
    source: str


@dataclass(frozen=True)
class Previews:
    """Those of a run, in the order of training."""

    frames: tuple[Frame, ...]
    left_out: str = ""  # which are not in the page, and why


def previews(record: Record, space: int, reporter: Reporter) -> Previews:
    """The previews of a run, in at most `space` bytes: made smaller, or evenly left out."""
    paths = [path for path in record.run.previews() if _size(path)]
    shown = _evenly(paths, _MOST_PREVIEWS)
    if sum(map(_size, shown)) <= space:
        contents = [_read(path) for path in shown]
    else:
        smaller = track(shown, reporter, "previews", len(shown), "pictures")
        contents = [_smaller(path, _PREVIEW_SIDE) for path in smaller]
    kept = [(path, data) for path, data in zip(shown, contents, strict=True) if data]
    while len(kept) > 1 and (total := sum(len(content) for _, (content, _) in kept)) > space:
        kept = _evenly(kept, max(1, min(len(kept) - 1, int(len(kept) * space / total))))
    frames = tuple(Frame(int(path.stem), _uri(*data)) for path, data in kept)
    left = len(paths) - len(frames)
    words = f"{left:,} of {len(paths):,} previews are left out of this page." if left else ""
    return Previews(frames, words)


def found(record: Record, drawn: Sequence[Picture]) -> tuple[list[Picture], list[str]]:
    """Pictures that other commands wrote into the run, and what is left out, in words.

    drawn: those of the page already, of whose kinds no others are shown.
    """
    pictures, left_out, titles = [], [], {picture.title for picture in drawn}
    space = PICTURES - sum(len(picture.source) * 3 // 4 for picture in drawn)
    for kind in _KINDS:
        path = kind.newest(record.run)
        if path is None or kind.title in titles:
            continue
        told = str(path.relative_to(record.run.path))
        data = _film(path) if kind.film else _picture(path, bare=record.public)
        if data is None or len(data[0]) > space:
            why = "is too large for this page" if data or kind.film else "cannot be read"
            left_out.append(f"{told} ({in_words(_size(path))}) {why}.")
            continue
        space -= len(data[0])
        described = _described(kind, data, told, document(kind.settings(path)), record.summary.path)
        pictures.append(replace(described, command="") if record.public else described)
    return pictures, left_out


def embedded(content: bytes, suffix: str, title: str, caption: str, alt: str) -> Picture | None:
    """A picture that was drawn for the page, in memory; None where it is too large."""
    if suffix == ".png" and len(content) > _PICTURE:
        content, suffix = _compressed(content, "the picture", _SIDE), ".webp"
    limit = _PICTURE if suffix == ".png" else _FILM
    if len(content) > limit:
        return None
    return Picture(_uri(content, _TYPES[suffix]), alt, title, caption)


@dataclass(frozen=True)
class _Kind:
    """A kind of pictures that commands write into a run, under a name or a numbered one."""

    title: str
    pattern: str
    film: bool = False
    recorded: str | None = None  # the file of its settings; None: its name with .json

    def newest(self, run: RunDirectory) -> Path | None:
        """The one that was written last."""
        paths = [
            path
            for path in run.path.glob(self.pattern)
            if path.suffix.lower() in _TYPES and path.is_file() and _size(path)
        ]
        return max(paths, key=_modified, default=None)

    def settings(self, path: Path) -> Path:
        """Where its settings are."""
        return path.with_suffix(".json") if self.recorded is None else path.parent / self.recorded


_KINDS = (
    _Kind("Samples", "generated*/grid.png", recorded="sampling.json"),
    _Kind("Denoising film", "denoising*.*", film=True),
    _Kind("Contact sheet", "sheet*.png"),
    _Kind("Film of the training", "training*.*", film=True),
    _Kind("Between seeds or images", "interpolated*/grid.png", recorded="sampling.json"),
    _Kind("Interpolation", "interpolation*.*", film=True),
    _Kind("Between classes", "morph*.*", film=True),
    _Kind("Forward process", "forward*.*", film=True),
    _Kind("Inversion", "inverted*/inversion.png", recorded="inversion.json"),
)


def _described(
    kind: _Kind, data: tuple[bytes, str], name: str, settings: Document | None, run: Path
) -> Picture:
    """A picture with what is recorded of it."""
    words, command = [name], ""
    if settings is not None:
        told = ((key, settings.get(key)) for key in _TOLD)
        words += [_told(key, x) for key, x in told if isinstance(x, str | int | float)]
        made = settings.get("provenance")
        command = str(made.get("command", "")) if isinstance(made, dict) else ""
        command = commands.naming(command, run)
    return Picture(_uri(*data), f"{kind.title} of the run: {name}", kind.title, ", ".join(words),
                   command)  # fmt: skip


def _told(key: str, value: str | float) -> str:
    counted = isinstance(value, int) and key in ("n", "images_seen")
    return _TOLD[key].format(f"{value:,}" if counted else value)


_TOLD = {  # what is recorded of a picture, in words
    "n": "{} images",
    "sampler": "{}",
    "steps": "{} steps",
    "guidance": "guidance {}",
    "seed": "seed {}",
    "images_seen": "after {} images seen",
    "sigma_rel": "sigma_rel {}",
}


def _picture(path: Path, *, bare: bool) -> tuple[bytes, str] | None:
    """A picture, made smaller where it is too large. bare: without texts that are in the file."""
    data = _read(path)
    if data is None or len(data[0]) > _PICTURE:
        return data and _smaller(path, _SIDE)
    if bare and data[1] == _TYPES[".png"]:
        return files.png(files.decode(data[0], str(path))), data[1]
    return data


def _film(path: Path) -> tuple[bytes, str] | None:
    return _read(path) if _size(path) <= _FILM else None


def _size(path: Path) -> int:
    """Bytes of a file; 0 of one that is gone meanwhile."""
    found = status(path)
    return 0 if found is None else found.st_size


def _modified(path: Path) -> float:
    found = status(path)
    return 0.0 if found is None else found.st_mtime


def _read(path: Path) -> tuple[bytes, str] | None:
    """A picture and its type; None where it cannot be decoded, so that the page shows none."""
    try:
        content = path.read_bytes()
        files.probe(content, str(path))
    except (OSError, DdpmError):
        return None
    return content, _TYPES[path.suffix.lower()]


def _smaller(path: Path, side: int) -> tuple[bytes, str] | None:
    try:
        return _compressed(path.read_bytes(), str(path), side), _TYPES[".webp"]
    except (OSError, DdpmError):
        return None


def _compressed(content: bytes, name: str, side: int) -> bytes:
    """A picture as WebP, with no side longer than `side` pixels."""
    image = files.decode(content, name)
    share = side / max(image.shape[1:])
    if share < 1:
        height, width = (max(1, round(length * share)) for length in image.shape[1:])
        image = files.fit(image, Transform(size=(height, width), fit="stretch"))
    return files.webp(image, _QUALITY)


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly, with the last."""
    chosen = np.linspace(len(items) - 1, 0, min(most, len(items))).round().astype(int)
    return [items[i] for i in reversed(chosen.tolist())]
