"""The loss on images held out beside that on images trained on, overall and by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.axes import logarithmic, named, of_images
from ddpm_cli.core.figures.plots import NOISE_QUARTERS, write_figure
from ddpm_cli.core.runtime.run_directory import Row


@canvas.defaults()
def curves(path: Path, rows: Sequence[Row], label: str, stop_at_gap: float | None = None) -> bool:
    """Draw both losses, and the ratio of the two by quarter of the noise levels, by images seen.

    label: of the losses; stop_at_gap: the gap at which training stops, which is marked with what is
    compared with it: the largest ratio less two standard errors of the difference. Returns
    False, and draws nothing, where no row has both.
    """
    found = [row for row in rows if None not in (row.get("loss_holdout"), row.get("loss_trained"))]
    if not found:
        return False
    images, held_out, trained = (
        _column(found, name) for name in ("images", "loss_holdout", "loss_trained")
    )
    figure = canvas.Figure(figsize=(10, 5), layout="constrained")
    losses, ratios = figure.subplots(1, 2)
    losses.plot(images, held_out, "o-", ms=3, color="tab:orange", label="held out")
    losses.plot(images, trained, "o-", ms=3, color="tab:blue", label="trained on")
    best = int(np.argmin(held_out))
    losses.plot(images[best], held_out[best], "*", ms=13, color="tab:red", label="lowest")
    losses.set_title("loss of the averaged weights")
    named(losses, label)
    for quarter, (colour, name) in enumerate(NOISE_QUARTERS):
        one, other = (_column(found, f"loss_{of}_q{quarter}") for of in ("holdout", "trained"))
        if np.isfinite(one / other).any():
            ratios.plot(images, one / other, "o-", ms=3, color=colour, label=name)
    ratios.axhline(1, color="grey", lw=0.8)
    certain = 1 + _column(found, "loss_gap")
    if stop_at_gap is not None and np.isfinite(certain).any():
        name = "largest less 2 errors"
        ratios.plot(images, certain, "s:", ms=3, color="tab:red", lw=1, label=name)
    if stop_at_gap is not None:
        ratios.axhline(1 + stop_at_gap, color="tab:red", lw=1, ls="--", label="--stop-at-gap")
    ratios.set_title("their ratio by noise level; 1 is no gap")
    named(ratios, "held out / trained on")
    for axes in (losses, ratios):
        of_images(axes)
        logarithmic(axes)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    write_figure(path, figure)
    return True


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column; NaN where a row has no number."""
    return np.array([row.get(name) for row in rows], dtype=float)
