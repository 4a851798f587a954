"""Sheets of images: tiled, enlarged by a whole factor, with titles and captions.

Pixels stay sharp squares, since they are repeated and not resampled.
"""

from __future__ import annotations

import textwrap
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ddpm_cli.core.data.files import ImageArray

WIDTH = 768  # pixels of a sheet, at least
_HIGHEST = 8192  # pixels: what enlarging does not exceed
_TITLE, _CAPTION = 17, 14  # font sizes in pixels
_TITLE_LINES, _CAPTION_LINES = 3, 4  # at most; the rest is an ellipsis
_ROW_TITLE = 150  # pixels of the widest title beside a row
_SPACE = 6  # pixels between words and images
_FRAME = 4  # pixels around an image that is marked
_MARK = (214, 39, 40)  # red, which is seen beside dark images too


@dataclass(frozen=True)
class Words:
    """What is written on a sheet; what is empty takes no space."""

    heading: str = ""
    columns: Sequence[str] = ()  # a title for each
    rows: Sequence[str] = ()
    captions: Sequence[str] = ()  # one for each image


NO_WORDS = Words()


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> ImageArray:
    """Tile images (N, C, H, W) row by row, near square, with `gap` white pixels between them."""
    n, channels, height, width = images.shape
    columns = min(n, columns or near_square(n))
    rows = -(-n // columns)
    tiled = np.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8
    )
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        tiled[:, top : top + height, left : left + width] = image
    return tiled


def near_square(count: int) -> int:
    """The columns of a grid of so many images that is as high as wide, or a little wider."""
    return max(1, int(np.ceil(np.sqrt(count))))


def enlarge(image: ImageArray, side: int = 512) -> ImageArray:
    """Repeat pixels by an integer factor so that the shorter side has about `side` pixels."""
    return _repeated(image, max(1, round(side / min(image.shape[1:]))))


def sheet(
    images: NDArray[np.uint8],
    columns: int | None = None,
    words: Words = NO_WORDS,
    *,
    gap: int = 4,
    width: int = WIDTH,
    marked: Container[int] = (),
) -> ImageArray:
    """Tile images (N, C, H, W) with words, enlarged so that they are at least `width` pixels wide.

    gap: pixels between images. marked: numbers of the images with a frame, red where there are
    colours. Without enlargement beyond 8,192 pixels in height, or where images are large enough.
    """
    n, channels, *size = images.shape
    columns = columns or near_square(n)
    layout = _Layout(size, columns, -(-n // columns), words, gap, width)
    canvas = np.full((channels, *layout.size), 255, dtype=np.uint8)
    height, width = layout.tile
    for i, image in enumerate(images):
        top, left = layout.corner(i)
        if i in marked:
            frame = slice(top - _FRAME, top + height + _FRAME)
            colour = _MARK if channels >= 3 else (0,)
            canvas[:3, frame, left - _FRAME : left + width + _FRAME] = np.reshape(
                colour, (-1, 1, 1)
            )
        canvas[:, top : top + height, left : left + width] = _repeated(image, layout.factor)
    ink = layout.written()
    canvas[:3] = np.minimum(canvas[:3], ink)  # white where there are images
    return canvas


class _Layout:
    """The places of images and words on a sheet, in pixels."""

    def __init__(
        self, size: Sequence[int], columns: int, rows: int, words: Words, gap: int, width: int
    ) -> None:
        self.columns, self.rows, self.gap, self.words = columns, rows, gap, words
        title, caption = _Font(_TITLE, _TITLE_LINES), _Font(_CAPTION, _CAPTION_LINES)
        self._title, self._caption = title, caption
        self._beside = [title.wrapped(text, _ROW_TITLE) for text in words.rows]
        self.left = max(map(title.width, self._beside), default=-_SPACE) + _SPACE
        self.factor = self._factor(size, width)
        self.tile = size[0] * self.factor, size[1] * self.factor
        across = columns * (self.tile[1] + gap) + gap
        self._heading = title.wrapped(words.heading, self.left + across - 2 * gap)
        self._above = [title.wrapped(text, self.tile[1]) for text in words.columns]
        self._below = [caption.wrapped(text, self.tile[1]) for text in words.captions]
        self.head = title.height([self._heading])
        self.top = self.head + title.height(self._above)
        self.pitch = self.tile[0] + caption.height(self._below) + gap
        self.size = self.top + rows * self.pitch + gap, self.left + across

    def _factor(self, size: Sequence[int], width: int) -> int:
        """The whole number by which images of this (height, width) are enlarged."""
        space = width - self.left - self.gap * (self.columns + 1)
        wanted = -(-space // (self.columns * size[1]))
        return max(1, min(wanted, _HIGHEST // (self.rows * size[0])))

    def corner(self, i: int) -> tuple[int, int]:
        """The upper left corner of an image: (y, x)."""
        row, column = divmod(i, self.columns)
        x = self.left + self.gap + column * (self.tile[1] + self.gap)
        return self.top + self.gap + row * self.pitch, x

    def written(self) -> NDArray[np.uint8]:
        """All words in black on white, (H, W)."""
        paper = Image.new("L", self.size[::-1], 255)
        draw = ImageDraw.Draw(paper)
        half = self.tile[1] // 2
        self._title.write(draw, self._heading, (self.size[1] // 2, _SPACE // 2))
        for column, lines in enumerate(self._above):
            over = self.top - self._title.height([lines]) + _SPACE  # the last line at the images
            self._title.write(draw, lines, (self.corner(column)[1] + half, over))
        for row, lines in enumerate(self._beside):
            middle = self.corner(row * self.columns)[0] + self.tile[0] // 2
            high = self._title.height([lines]) - _SPACE
            self._title.write(draw, lines, (self.left // 2, middle - high // 2))
        for i, lines in enumerate(self._below):
            y, x = self.corner(i)
            self._caption.write(draw, lines, (x + half, y + self.tile[0] + _SPACE // 2))
        return np.asarray(paper)


class _Font:
    """Pillow's own font at one size in pixels, and how many lines a text may have."""

    def __init__(self, size: int, lines: int) -> None:
        self._font, self._lines = ImageFont.load_default(size), lines
        self._line = size + 3

    def wrapped(self, text: str, width: int) -> list[str]:
        """A text in lines of at most this width; one that is too long ends in an ellipsis."""
        text = text.encode("utf-8", "replace").decode()  # names of files may be no UTF-8
        widest = 3 * max(1, width // self._line)  # of letters as narrow as a third of the height
        for letters in range(min(len(text), widest), 0, -1):
            lines = textwrap.wrap(text, letters, max_lines=self._lines, placeholder="…")
            if self.width(lines) <= width:
                return lines
        return []

    def width(self, lines: Sequence[str]) -> int:
        """The pixels of the widest line."""
        return max((int(np.ceil(self._font.getlength(line))) for line in lines), default=0)

    def height(self, texts: Sequence[Sequence[str]]) -> int:
        """The pixels of the text of most lines, with space around it; 0 where there is none."""
        most = max(map(len, texts), default=0)
        return most * self._line + _SPACE if most else 0

    def write(self, draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int]) -> None:
        """Write lines below a point (x, y), in whose middle they are."""
        x, y = at
        for number, line in enumerate(lines):
            place = x - self._font.getlength(line) // 2, y + number * self._line
            draw.text(place, line, fill=0, font=self._font)


def _repeated(image: ImageArray, factor: int) -> ImageArray:
    return image.repeat(factor, axis=1).repeat(factor, axis=2)
