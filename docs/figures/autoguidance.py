"""Guidance by a worse model against classifier-free guidance, in numbers and in digits.

    python docs/figures/autoguidance.py --results autoguidance.json --run runs/digits-s0

The results are those of tests/benchmarks/autoguidance.py, which says how its runs are trained; the
run is the first of them.

- autoguidance.png: the distance by the weight, and precision against recall, with each run;
- autoguidance-digits.png: twelve seeds of one digit, guided by both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from drawing import options, plots, save, save_plots, sheet

import ddpm_cli as ddpm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTPUTS = ("autoguidance.png", "autoguidance-digits.png")

WAYS = {"classifier-free": "classifier-free", "guide 40000": "by a worse model"}
DIGIT, SEEDS = "2", 12
GUIDE = "000000040000.pt"
SHOWN: dict[str, dict[str, Any]] = {
    "no guidance": {},
    "classifier-free, 2": {"guidance": 2},
    "by a worse model, 2": {"guidance": 2, "guide": GUIDE},
}

Rows = list[dict[str, Any]]


def curve(axes: Axes, rows: Rows, x: str, y: str, name: str, colour: str) -> None:
    """The mean over runs by weight as a line, and each run as a point."""
    by_weight = defaultdict(list)
    for row in rows:
        by_weight[row["weight"]].append(row)
    means = [
        [fmean(row[key] for row in by_weight[weight]) for key in (x, y)]
        for weight in sorted(by_weight)
    ]
    axes.plot(*np.array(means).T, "-o", color=colour, label=name, ms=5)
    axes.plot([r[x] for r in rows], [r[y] for r in rows], ".", color=colour, alpha=0.4, ms=5)
    if x != "weight":
        for weight, place in zip(sorted(by_weight), means, strict=True):
            axes.annotate(
                f"{weight:g}",
                (place[0], place[1]),
                fontsize=9,
                xytext=(4, 4),
                textcoords="offset points",
            )


def main() -> None:
    """Draw both."""
    chosen = options(__doc__, results="a file of tests/benchmarks/autoguidance.py", run="a run")
    rows: Rows = json.loads(Path(chosen.results).read_text())
    figure, (plot,) = plots(1, 2, height=3.4)
    for colour, (way, name) in enumerate(WAYS.items()):
        own = [row for row in rows if row["guided"] in (way, "plain")]
        curve(plot[0], own, "weight", "distance", name, f"C{colour}")
        curve(plot[1], own, "recall", "precision", name, f"C{colour}")
    plot[0].set(xlabel="--guidance", ylabel="Frechet distance (local)", ylim=(0, None))
    plot[1].set(xlabel="recall", ylabel="precision")
    plot[0].legend(fontsize=9)
    save_plots(chosen.out / OUTPUTS[0], figure)

    run = Path(chosen.run)
    model, shown = ddpm.load(run), []
    for settings in SHOWN.values():
        found = settings | ({"guide": run / "snapshots" / GUIDE} if "guide" in settings else {})
        shown.append(model.sample(SEEDS, classes=[DIGIT], steps=30, **found))
    picture = sheet(np.concatenate(shown), SEEDS, rows=list(SHOWN))
    save(chosen.out / OUTPUTS[1], picture)


if __name__ == "__main__":
    main()
