"""The files of `ddpm memorisation`: the nearest pairs, both distributions, and the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.figures.distances import Panel, distributions
from ddpm_cli.core.metrics.memorisation.compare import Comparison
from ddpm_cli.core.metrics.memorisation.pixels import NEIGHBOURS
from ddpm_cli.core.metrics.memorisation.report import COPY, PAIRS, MemorisationReport
from ddpm_cli.core.metrics.memorisation.small_images import working_size
from ddpm_cli.core.runtime.files import finite, write_json
from ddpm_cli.core.runtime.results_folder import remove_earlier

SHEET, PLOT, DOCUMENT = "pairs.png", "distances.png", "memorisation.json"
FILES = SHEET, PLOT, DOCUMENT
_GAP, _APART = 1, 20  # pixels between the two images of a pair, before they are enlarged; of pairs
_SHOWN = 160  # pixels a side of an image on the sheet, at most, before it is enlarged
_WIDTH = 1100  # pixels of the sheet, at least, where it has several columns


def written(folder: Path) -> str:
    """What the files of a folder show, in one line."""
    return (
        f"Look at {folder.resolve() / SHEET} (the nearest pairs) and {PLOT} (all distances) "
        f"there; {DOCUMENT} names the fakes that are as near as copies"
    )


def write_results(
    folder: Path, comparison: Comparison, report: MemorisationReport, document: dict[str, object]
) -> None:
    """Write the three files, in place of earlier ones. Raises DdpmError where it fails."""
    remove_earlier(folder, FILES)
    _draw_pairs(folder / SHEET, comparison, report)
    fakes, held_out = comparison.fakes, comparison.held_out
    percentile = "1st percentile of the held-out"
    pixels = Panel(
        f"in pixels: distance to the nearest training image,\nover that to the next {NEIGHBOURS}",
        fakes.pixels.relative,
        held_out.pixels.relative,
        ((report.pixels.threshold, percentile), (COPY, "nearer: as copies")),
    )
    features = Panel(
        f"in features ({report.origin.name}):\ndistance to the nearest training image",
        fakes.features,
        held_out.features,
        ((report.features.threshold, percentile),),
    )
    distributions(folder / PLOT, (pixels, features))
    write_json(folder / DOCUMENT, finite(document), durable=False)  # last: it stands for all


def _draw_pairs(path: Path, comparison: Comparison, report: MemorisationReport) -> None:
    """The nearest pairs: a fake on the left, its training image on the right."""
    shown = report.pairs[:PAIRS]
    size = working_size(comparison.size, _SHOWN)
    fakes = comparison.fake.pictures([pair.place for pair in shown], size)
    trained = comparison.train.pictures([pair.row for pair in shown], size)
    gap = np.full((*fakes.shape[:3], _GAP), 255, np.uint8)
    tiles = np.concatenate([fakes, gap, trained], axis=3)
    captions = [f"{pair.relative:.2f}  {pair.fake} | {pair.train}" for pair in shown]
    heading = (
        "A fake on the left, its nearest training image on the right. The number is their "
        f"distance over that to the next {NEIGHBOURS}; below {COPY:g} they are as near as copies"
    )
    columns = int(np.ceil(np.sqrt(len(shown) / 2)))
    words = Words(heading=heading, captions=captions)
    width = _WIDTH if columns > 1 else sheets.WIDTH
    files.write_png(path, sheets.sheet(tiles, columns, words, gap=_APART, width=width))
