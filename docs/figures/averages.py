"""Power profiles, one rebuilt from stored ones, and its error by their number; scores by length.

    python docs/figures/averages.py --scores averages.json

The scores are those of a run of digits, minutes on a CPU, which this writes:

    python -m tests.benchmarks.post_hoc_ema mnist mnist-train.zip --images 40960 \
        --out runs/averages
    ddpm ema runs/averages --sigma-rel 0.02,0.05,0.1,0.15,0.2,0.25 --sweep --real mnist:test \
        -n 500 --steps 10 --sampler dpmpp-2m --features mnist-classifier.safetensors \
        --json > averages.json

- averages.png: profiles of several lengths; the fit of one of .15 from 8 stored pairs; the error of
  fits, |fit - profile| / |profile|, by the number of pairs;
- averages-scores.png: the distance of samples to real images against the length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from drawing import WIDTH, options, plots, save_plots

from ddpm_cli.core.checkpoints import profiles
from ddpm_cli.core.checkpoints.profiles import Array, Profile

OUTPUTS = ("averages.png", "averages-scores.png")

TRACKED = (0.05, 0.1)
LENGTHS = (0.03, 0.05, 0.1, 0.15, 0.25)
IMAGES = 1000  # of the training drawn; profiles have no scale
TAUS = np.linspace(0, 1, 1001)


def density(profile: Profile) -> Array:
    """A profile at TAUS, relative to the images of the whole training."""
    end, exponent = profile.images / IMAGES, profile.gamma
    inside = np.minimum(TAUS / end, 1) ** exponent * (exponent + 1) / end
    return np.where(end >= TAUS, inside, 0)


def pairs(count: int) -> list[Profile]:
    """Pairs of the lengths that are tracked, stored at equal intervals."""
    times = [round(IMAGES * k / count) for k in range(1, count + 1)]
    return [Profile(images, length) for images in times for length in TRACKED]


def draw_profiles(path: Path) -> None:
    """Three panels, which need no run."""
    figure, panels = plots(columns=3, height=3.0)
    shapes, rebuilt, errors = panels[0]
    for length in LENGTHS:
        shapes.plot(TAUS, density(Profile(IMAGES, length)), label=f"{length:g}")
    shapes.set(title="profiles by sigma_rel", ylim=(0, 12), xlabel="images, relative")
    shapes.legend(fontsize=8)

    stored, wanted = pairs(8), Profile(IMAGES, 0.15)
    fit = profiles.fit(stored, wanted)
    for profile in stored:
        rebuilt.fill_between(TAUS, density(profile), color="0.8", alpha=0.25, lw=0)
    made = sum(x * density(one) for x, one in zip(fit.coefficients, stored, strict=True))
    rebuilt.plot(TAUS, made, label="of 8 pairs")
    rebuilt.plot(TAUS, density(wanted), "k--", lw=1, label="exact")
    rebuilt.set(title="0.15, rebuilt", ylim=(-0.5, 6.5), xlabel="images, relative")
    rebuilt.legend(fontsize=8)

    counts = (4, 8, 16, 32, 64, 128)
    for length in (0.03, 0.07, 0.15, 0.2, 0.25):
        found = [profiles.fit(pairs(n), Profile(IMAGES, length)).error for n in counts]
        errors.loglog(counts, found, "o-", ms=3, label=f"{length:g}")
    errors.set(title="error of the profile", xlabel="stored pairs")
    errors.legend(fontsize=8)
    save_plots(path, figure)


def draw_scores(path: Path, document: dict[str, Any]) -> None:
    """Scores with their standard errors, and the length that is the best."""
    scored = sorted(document["settings"], key=lambda one: one["values"]["sigma_rel"])
    lengths = [one["values"]["sigma_rel"] for one in scored]
    figure, panels = plots(width=0.6 * WIDTH)
    (axes,) = panels[0]
    values = [one["value"] for one in scored]
    axes.errorbar(lengths, values, [one["std"] for one in scored], fmt="o-", capsize=3)
    label = f"{document['score']} (lower is better)"
    axes.set(xlabel="sigma_rel", ylabel=label, ylim=(0, None))
    save_plots(path, figure)


def main() -> None:
    """Draw both."""
    chosen = options(__doc__, scores="the document of ddpm ema --sweep")
    draw_profiles(chosen.out / "averages.png")
    draw_scores(chosen.out / "averages-scores.png", json.loads(Path(chosen.scores).read_text()))


if __name__ == "__main__":
    main()
