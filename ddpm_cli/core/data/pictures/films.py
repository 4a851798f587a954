"""Films: which states are shown, for how long, and their files: GIF, WebP, MP4 and animated PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.formats import FILMS, FRAMES_PER_SECOND
from ddpm_cli.core.data.pictures import palettes
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.files import write_bytes

_TICK = 10  # milliseconds: the unit of GIF
_SHORTEST = 1000 // FRAMES_PER_SECOND  # milliseconds that a frame is shown
_WEBP_EFFORT = {"method": 2, "quality": 50}  # of lossless compression: time, not loss


@dataclass(frozen=True)
class Timing:
    """How long a film lasts, without the pauses: frames share the seconds equally."""

    seconds: float
    pauses: Mapping[int, float] = field(default_factory=dict)  # seconds more, by frame; -1: last

    def most(self) -> int:
        """The number of frames for which there is time."""
        return self._ticks() * _TICK // _SHORTEST

    def durations(self, count: int) -> list[int]:
        """Milliseconds of each of `count` frames, in hundredths of a second.

        The rounding is spread over the frames, so that the film is as long as asked.
        """
        ends = np.round(np.arange(count + 1) * (self._ticks() / count)).astype(int)
        milliseconds: list[int] = (_TICK * np.diff(ends)).tolist()
        for frame, pause in self.pauses.items():
            milliseconds[frame] += _TICK * round(1000 / _TICK * pause)
        return milliseconds

    def _ticks(self) -> int:
        return max(_SHORTEST // _TICK, round(1000 / _TICK * self.seconds))


def check(path: Path) -> None:
    """Raise UsageError where a film of this name cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in FILMS:
        raise UsageError(f"--out {path} should end in {', '.join(FILMS[:-1])} or {FILMS[-1]}")
    if suffix == ".mp4" and find_spec("av") is None:
        raise UsageError(
            f"{path.name} needs the package av: pip install 'ddpm-cli[video]'; or choose "
            "--format gif, webp or png"
        )


def changes(states: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean absolute difference of each of N states from the last, in grey levels: (N - 1,)."""
    pairs = pairwise(states)
    return np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairs], np.float64)


def evenly(differences: NDArray[np.float64], count: int) -> list[int]:
    """The numbers of `count` states at equal parts of all that changes, first and last among them.

    differences: (N - 1,) of each state from the one before it. Each state is chosen once; of no
    more than `count` states all are.
    """
    total = len(differences) + 1
    if total <= count:
        return list(range(total))
    if count == 1:
        return [total - 1]
    path = np.concatenate([[0.0], np.cumsum(differences)])
    if path[-1] == 0:
        path = np.arange(total, dtype=np.float64)
    chosen: list[int] = []
    for place, target in enumerate(np.linspace(0, path[-1], count)):
        first = chosen[-1] + 1 if chosen else 0
        last = total - (count - place)  # leaves a state for each of the others
        chosen.append(int(np.clip(np.abs(path - target).argmin(), first, last)))
    return chosen


def write(path: Path, frames: Sequence[ImageArray], timing: Timing, factor: int = 1) -> int:
    """Write frames (C, H, W) as a film that repeats, by the suffix of its name, else a GIF.

    factor: by which pixels are enlarged. Where there are more frames than the time allows, some are
    left out, evenly; equal ones in a row become one. Returns the number of frames in the file.
    """
    shown = np.linspace(0, len(frames) - 1, min(len(frames), timing.most())).round().astype(int)
    durations = timing.durations(len(shown))
    rgb = [_rgb(frames[i]) for i in shown]
    writers = {".webp": _webp, ".mp4": _mp4, ".png": _png}
    writer = writers.get(path.suffix.lower(), _gif)
    count, content = writer(rgb, durations, factor)
    write_bytes(path, content, durable=False)
    return count


def write_gif(path: Path, frames: Sequence[ImageArray], seconds: float, hold: float) -> int:
    """Write frames (C, H, W) as a GIF of `seconds`, the last frame shown `hold` longer."""
    return write(path, frames, Timing(seconds, {-1: hold}))


def _gif(frames: list[ImageArray], durations: list[int], factor: int) -> tuple[int, bytes]:
    """One palette for all frames; of a pixel that does not change the file has nothing."""
    palette = palettes.choose(frames)
    numbers, durations = _merged(palettes.assign(frames, palette), durations)
    images = [Image.fromarray(_enlarged(each, factor)) for each in numbers]
    for image in images:
        image.putpalette(palette.tobytes())
    settings = {
        "palette": palette.tobytes() + bytes(3 * (palettes.SIZE - len(palette))),
        "transparency": len(palette),
        "optimize": True,  # leaves out what is as it was
    }
    return len(images), _saved(images, "GIF", durations, **settings)


def _webp(frames: list[ImageArray], durations: list[int], factor: int) -> tuple[int, bytes]:
    """The colours of a GIF without further loss, which of noise is smaller than WebP with loss."""
    palette = palettes.choose(frames)
    numbers, durations = _merged(palettes.assign(frames, palette), durations)
    images = [Image.fromarray(palette[_enlarged(each, factor)]) for each in numbers]
    return len(images), _saved(images, "WEBP", durations, lossless=True, **_WEBP_EFFORT)


def _png(frames: list[ImageArray], durations: list[int], factor: int) -> tuple[int, bytes]:
    """Exact colours: larger than the other formats."""
    frames, durations = _merged(frames, durations)
    images = [Image.fromarray(_enlarged(frame, factor)) for frame in frames]
    return len(images), _saved(images, "PNG", durations)


def _mp4(frames: list[ImageArray], durations: list[int], factor: int) -> tuple[int, bytes]:
    """H.264 at a constant rate and of even sides, which every player takes."""
    import imageio.v3 as imageio

    frames, durations = _merged(frames, durations)
    ends = np.cumsum(durations) // _SHORTEST
    content = io.BytesIO()
    with imageio.imopen(content, "w", plugin="pyav", extension=".mp4") as film:
        film.init_video_stream("libx264", fps=FRAMES_PER_SECOND, pixel_format="yuv420p")
        for frame, times in zip(frames, np.diff(ends, prepend=0), strict=True):
            picture = _even(_enlarged(frame, factor))
            for _ in range(times):
                film.write_frame(picture)
    return len(frames), content.getvalue()


def _saved(
    images: Sequence[Image.Image], form: str, durations: list[int], **settings: object
) -> bytes:
    content = io.BytesIO()
    first, *others = images
    first.save(
        content,
        form,
        save_all=True,
        append_images=others,
        duration=durations if others else durations[0],
        loop=0,
        **settings,
    )
    return content.getvalue()


def _merged(
    frames: Sequence[NDArray[np.uint8]], durations: Sequence[int]
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Frames without those that equal the one before them, which is shown longer instead."""
    kept: list[NDArray[np.uint8]] = []
    lengths: list[int] = []
    for frame, duration in zip(frames, durations, strict=True):
        if kept and np.array_equal(kept[-1], frame):
            lengths[-1] += duration
        else:
            kept.append(frame)
            lengths.append(duration)
    return kept, lengths


def _enlarged(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Repeat the pixels of (H, W, …)."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) with a row and a column repeated where that makes their number even."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], "edge")


def _rgb(image: ImageArray) -> ImageArray:
    """(C, H, W) as (H, W, 3)."""
    rgb = np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
    return np.ascontiguousarray(rgb.transpose(1, 2, 0))
