"""How far fakes and held-out images are from the training images, as two distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.plots import write_figure

_BINS = 60
_FAKES, _HELD_OUT = "tab:orange", "tab:blue"


class Panel(NamedTuple):
    """Distances of one kind, of fakes and of held-out images."""

    name: str  # of the x axis
    fakes: NDArray[np.float64]  # (n,)
    held_out: NDArray[np.float64]  # (m,)
    marks: Sequence[tuple[float, str]]  # distances that mean something, and what


@canvas.defaults()
def distributions(path: Path, panels: Sequence[Panel]) -> None:
    """Draw the distributions of fakes and of held-out images over each other, a panel each."""
    figure = canvas.Figure(figsize=(5.6 * len(panels), 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        both = np.concatenate([panel.fakes, panel.held_out])
        high = float(np.quantile(both, 0.999))  # one that is far away would hide the rest
        edges = np.linspace(
            0, max(high, *(1.02 * place for place, _ in panel.marks), 1e-9), _BINS + 1
        )
        for values, colour, name in (
            (panel.held_out, _HELD_OUT, f"{len(panel.held_out):,} held-out images"),
            (panel.fakes, _FAKES, f"{len(panel.fakes):,} fakes"),
        ):
            weights = np.full(len(values), 100 / len(values))
            style = {"bins": edges, "weights": weights, "color": colour}
            axes.hist(np.minimum(values, edges[-1]), histtype="stepfilled", alpha=0.25, **style)
            axes.hist(np.minimum(values, edges[-1]), histtype="step", lw=1.5, label=name, **style)
        for (place, meaning), line in zip(panel.marks, ("--", ":"), strict=False):
            axes.axvline(place, color="0.3", ls=line, lw=1.3, label=meaning)
        axes.set(xlabel=panel.name, ylabel="% of the images", xlim=edges[[0, -1]])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        # above the plot, as the curves may be anywhere in it
        axes.legend(
            fontsize=8, ncols=2, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0)
        )
    write_figure(path, figure)
