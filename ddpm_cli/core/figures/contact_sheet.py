"""A contact sheet: images as the network sees them, with their classes or captions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddpm_cli.core.conditioning.labels import label_name, label_of
from ddpm_cli.core.data import files
from ddpm_cli.core.data.inspection.survey import Survey, spread_over_classes
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.threads import cores

_IMAGES = 64  # at most
_SIDE = 4096  # pixels of a side of the sheet, about, at most: of large images it shows fewer


def images_on(size: tuple[int, int]) -> int:
    """How many images of this (height, width) a sheet shows."""
    return max(4, min(_IMAGES, _SIDE // size[0] * (_SIDE // size[1])))


def draw(path: Path, survey: Survey, transform: Transform) -> int:
    """Write a sheet of images spread over the classes, transformed; how many it shows."""
    assert transform.size is not None
    positions = spread_over_classes(survey, images_on(transform.size))
    rows = [int(survey.rows[position]) for position in positions]
    with ThreadPoolExecutor(cores()) as pool:
        images = np.stack([*pool.map(lambda row: survey.source.image(row, transform), rows)])
    words = [_words(survey, row) for row in rows]
    files.write_png(path, sheets.sheet(images, words=Words(captions=words)))
    return len(rows)


def _words(survey: Survey, row: int) -> str:
    """What is below an image: its first caption, or its class."""
    if survey.captions is not None:
        first = int(survey.captions.indices[row, 0])
        return survey.captions.sentences[first]
    if not survey.source.classes:
        return ""
    return label_name(label_of(survey.source.labels[row]), survey.source.classes)
