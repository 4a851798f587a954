"""The built-in data set: coloured figures on a coloured background, rendered on demand.

Image i is a function of i alone. Class: the figure. Caption: "a small red circle on blue".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.annotations.captions import Captions, from_sentences
from ddpm_cli.core.data.files import ImageArray, fit
from ddpm_cli.core.data.transform import Transform

COLOURS = {
    "red": (220, 50, 47),
    "green": (60, 170, 80),
    "blue": (45, 100, 220),
    "yellow": (245, 205, 50),
    "white": (245, 245, 245),
    "black": (30, 30, 35),
}
SIZES = {"small": (0.5, 0.6), "large": (0.78, 0.9)}  # radius, as a fraction of half the image side

_SUBPIXELS = 4  # per side: a pixel's colour is the mean over 4 x 4 points

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


def _circle(x: Points, y: Points) -> Mask:
    return np.hypot(x, y) <= 1


def _square(x: Points, y: Points) -> Mask:
    return np.maximum(abs(x), abs(y)) <= 0.8


def _triangle(x: Points, y: Points) -> Mask:
    return (y <= 0.7) & (y >= 3**0.5 * abs(x) - 1)


def _cross(x: Points, y: Points) -> Mask:
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95)


def _ring(x: Points, y: Points) -> Mask:
    distance = np.hypot(x, y)
    return (distance <= 1) & (distance >= 0.55)


def _star(x: Points, y: Points) -> Mask:
    """Five points: inside the polygon whose radius falls linearly in angle from tip to notch."""
    inner, half = 0.42, np.pi / 5
    angle = (np.arctan2(x, -y) + half) % (2 * half) - half  # from the nearest tip
    tip = np.cos(angle) * np.hypot(x, y)
    side = abs(np.sin(angle)) * np.hypot(x, y)
    notch = np.array([inner * np.cos(half), inner * np.sin(half)])
    return np.asarray((1 - tip) * notch[1] >= side * (1 - notch[0]))


FIGURES: dict[str, Callable[[Points, Points], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


@dataclass(frozen=True)
class Figure:
    """The content of an image. Position and radius are in units of half its shorter side."""

    figure: str
    colour: str
    background: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def caption(self) -> str:
        """A sentence with every attribute except the position."""
        return f"a {self.size} {self.colour} {self.figure} on {self.background}"


class Shapes:
    """A source of `length` images of any size."""

    name = "shapes"
    image_size = native_size = (32, 32)  # rendered at any size
    native_channels = 3
    transparent = False
    classes = tuple(FIGURES)
    why_no_classes = label_table = ""
    notices = ()
    sequential, blocks = False, ()
    captioned = False  # by default the model is trained on classes, not on captions

    def __init__(self, length: int = 12_000) -> None:
        self.labels = np.arange(length) % len(FIGURES)
        self.fingerprint = self.cache_key = f"shapes-4-{length}"

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, index: int) -> Figure:
        """The content of image `index`; the figures are cycled through."""
        rng = np.random.default_rng([index, 20_200_619])
        colour, background = rng.choice(list(COLOURS), size=2, replace=False)
        size = str(rng.choice(list(SIZES)))
        radius = rng.uniform(*SIZES[size])
        x, y = rng.uniform(-0.08, 0.08, size=2)  # near the centre: learned sooner
        return Figure(
            figure=self.classes[self.labels[index]],
            colour=str(colour),
            background=str(background),
            size=size,
            x=float(x),
            y=float(y),
            radius=float(radius),
        )

    def captions(self) -> Captions:
        """One sentence for each image."""
        sentences = ([self.describe(index).caption] for index in range(len(self)))
        return from_sentences("the shapes' own", sentences)

    def unread(self, captions: Captions | None) -> str:
        """Nothing lies beside these images."""
        return ""

    def size_of(self, index: int) -> tuple[int, int]:
        """The (height, width) of each."""
        return self.image_size

    def image(self, index: int, transform: Transform) -> ImageArray:
        """Render image `index` as uint8 (channels, H, W), antialiased."""
        size = transform.size or self.native_size
        return fit(render(self.describe(index), size), transform)


def render(content: Figure, size: tuple[int, int]) -> ImageArray:
    """Render one figure, uint8 (3, H, W)."""
    height, width = size
    half = min(size) / 2
    rows = (np.arange(height * _SUBPIXELS, dtype=np.float64) + 0.5) / _SUBPIXELS - height / 2
    columns = (np.arange(width * _SUBPIXELS, dtype=np.float64) + 0.5) / _SUBPIXELS - width / 2
    x = (columns[None, :] / half - content.x) / content.radius
    y = (rows[:, None] / half - content.y) / content.radius
    inside = FIGURES[content.figure](x, y)
    coverage = inside.reshape(height, _SUBPIXELS, width, _SUBPIXELS).mean(axis=(1, 3))
    figure, background = (
        np.array(COLOURS[name], dtype=np.float64) for name in (content.colour, content.background)
    )
    colours = background[:, None, None] + coverage * (figure - background)[:, None, None]
    return np.asarray(colours.round(), dtype=np.uint8)
