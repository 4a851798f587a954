"""A noise schedule as numbers, as curves, and as a picture being destroyed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core.config.run import DiffusionConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.diffusion import sampling, schedules
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import plots
from ddpm_cli.core.figures.plots import NoisyImage
from ddpm_cli.core.runtime import seeds

_STAGES = 9  # pictures in a strip
_FRAMES = 24  # of the GIF
_LONGEST = 192  # pixels of a picture's longer side: more would hide the noise's grain
_TAIL = 0.8  # where the last fifth of the timesteps begins
_CUT = 0.9989  # above it a beta was cut to the largest allowed
_FAINT = 0.05  # of the picture's contrast: hardly visible under the noise


def tabulate(config: DiffusionConfig, how: Sampling) -> dict[str, Any]:
    """Every table of a schedule, and the timesteps that a sampler visits on it."""
    schedule = schedules.from_config(config)
    visited = schedule.timestep(sampling.grid(schedule, how)[:-1]).tolist()
    return {
        "schedule": schedule.name,
        "timesteps": len(schedule),
        "beta": schedule.beta.tolist(),
        "alpha_bar": schedule.alpha_bar.tolist(),
        "sigma": schedule.sigma.tolist(),
        "snr": schedule.snr.tolist(),
        "steps": [int(t) if t == int(t) else round(t, 3) for t in visited],
    }


def contrast(table: dict[str, Any]) -> list[float]:
    """How much of the picture is left at each timestep: its share sqrt(abar) of x_t."""
    return [math.sqrt(abar) for abar in table["alpha_bar"]]


def diagnosis(table: dict[str, Any]) -> list[str]:
    """What the schedule's end means, in words."""
    name, left, total = table["schedule"], contrast(table), table["timesteps"]
    end = f"{name}: abar_T = {table['alpha_bar'][-1]:.1e}: {_percent(1 - left[-1])} of the picture "
    if left[-1] > _FAINT:
        end += "is hidden at the end, so sampling starts from noise that training never saw"
    else:
        end += "is hidden at the end, so sampling can start from pure noise"
    lines = [end]
    cut = sum(beta > _CUT for beta in table["beta"])
    if cut > 1:
        lines.append(
            f"{name}: {cut} betas are cut to 0.999: {total} timesteps are too few for this schedule"
        )
    if total < 10:
        return lines
    begin = int(_TAIL * total)
    tail = f"{name}: the last 20 % of the timesteps hold less than {_percent(left[begin])} of the "
    tail += "picture"
    if left[begin] < _FAINT:
        tail += ": they are nearly redundant, and few-step samplers lose little by skipping them"
    return [*lines, tail]


def draw(
    tables: Sequence[dict[str, Any]],
    plot: Path | None,
    image: Path | None,
    strip: Path | None,
    *,
    overwrite: bool,
) -> list[Path]:
    """Draw the curves into `plot`, and the destruction of `image` into `strip` and a GIF beside it.

    Raises DdpmError where a file is there already, or the picture cannot be read.
    """
    film = None if strip is None else strip.with_suffix(".gif")
    written = [path for path in (plot, strip, film) if path is not None]
    for path in written:
        if path.exists() and not overwrite:
            raise DdpmError(f"{path} exists; choose another name, or add --overwrite")
    x0 = None if image is None else _picture(image)
    if plot is not None:
        plots.schedule_curves(plot, tables)
    if x0 is not None and strip is not None and film is not None:
        plots.strip(strip, [_destruction(x0, table, _STAGES) for table in tables])
        films = [_destruction(x0, table, _FRAMES) for table in tables]
        files.write_gif(film, plots.frames(films), seconds=4, hold=1)
    return written


def _picture(path: Path) -> Tensor:
    """Read a picture, no larger than its noise's grain allows: (3, H, W) in [-1, 1]."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DdpmError(f"--image {path}: {error.strerror}") from error
    (height, width), _ = files.probe(data, str(path))
    shrink = min(1.0, _LONGEST / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    return to_unit(torch.from_numpy(files.decode(data, str(path), size=size)))


def _destruction(x0: Tensor, table: dict[str, Any], count: int) -> list[NoisyImage]:
    """The picture at evenly spaced timesteps, in DDPM's scale, all with the same noise."""
    noise = torch.randn(x0.shape, generator=seeds.generator(0, "strip"))
    total, left = table["timesteps"], contrast(table)
    stages = []
    for t in np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist():
        x = left[t] * x0 + (1 - left[t] ** 2) ** 0.5 * noise
        stages.append(NoisyImage(table["schedule"], t, left[t], to_uint8(x).numpy()))
    return stages


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.999 else f"{100 * share:.5g} %"
