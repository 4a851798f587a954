"""Inspection of noise schedules: as tables, as curves, and on an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.readers import tree
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion import sampling, schedules
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import plots
from ddpm_cli.core.figures.plots import NoisyImage
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.files import new_file, read_bytes

_STRIP_LENGTH = 9  # images in the strip
_FRAMES = 24  # of the GIF
_MAX_SIZE = 192  # pixels of the longer side: in larger images the noise is too fine to see
_TAIL = 0.8  # where the last fifth of the timesteps begins
_FAINT = 0.05  # signal coefficient below which the image is hardly visible under the noise


def tabulate(config: DiffusionConfig, settings: Sampling) -> dict[str, Any]:
    """The tables of a schedule, and the timesteps and noise levels that a sampler visits on it."""
    schedule = schedules.from_config(config)
    levels = sampling.grid(schedule, settings)
    visited = schedule.timestep(levels[:-1]).tolist()
    return {
        "schedule": schedule.name,
        "timesteps": len(schedule),
        "beta": schedule.beta.tolist(),
        "alpha_bar": schedule.alpha_bar.tolist(),
        "sigma": schedule.sigma.tolist(),
        "snr": schedule.snr.tolist(),
        "steps": [int(t) if t == int(t) else round(t, 3) for t in visited],
        "levels": levels.tolist(),
    }


def signal(table: dict[str, Any]) -> list[float]:
    """Signal coefficient sqrt(abar_t) of x_0 in x_t at each timestep."""
    return [math.sqrt(abar) for abar in table["alpha_bar"]]


def diagnosis(table: dict[str, Any]) -> list[str]:
    """Sentences on the schedule's end: terminal signal, clipped betas, redundant timesteps."""
    name, coefficients, total = table["schedule"], signal(table), table["timesteps"]
    hidden = f"{_percent(1 - coefficients[-1])} of the image is hidden at the end"
    end = f"{name}: abar_T = {table['alpha_bar'][-1]:.1e}: {hidden}, so sampling "
    if coefficients[-1] > _FAINT:
        end += "starts from noise that training never saw"
    else:
        end += "can start from pure noise"
    lines = [end]
    if clipped := schedules.clipping_notice(name, table["beta"]):
        lines.append(clipped)
    if total < 10:
        return lines
    begin = int(_TAIL * total)
    tail = f"{name}: the last 20 % of the timesteps hold less than "
    tail += f"{_percent(coefficients[begin])} of the image"
    if coefficients[begin] < _FAINT:
        tail += ": they are nearly redundant, and few-step samplers lose little by skipping them"
    return [*lines, tail]


def save_figures(
    tables: Sequence[dict[str, Any]],
    plot: Path | None,
    image: Path | None,
    strip: Path | None,
    *,
    overwrite: bool,
) -> list[Path]:
    """Plot the curves to `plot`, and noisy versions of `image` to `strip` and a GIF beside it.

    Returns the files written. Raises DdpmError where one exists, or the image cannot be read.
    """
    gif = None if strip is None else strip.with_suffix(".gif")
    written = [path for path in (plot, strip, gif) if path is not None]
    x0 = None if image is None else _read_image(image)
    with ExitStack() as stack:
        for path in written:
            stack.enter_context(new_file(path, "name", overwrite=overwrite))
        if plot is not None:
            plots.schedule_curves(plot, tables)
        if x0 is not None and strip is not None and gif is not None:
            plots.strip(strip, [_noisy_images(x0, table, _STRIP_LENGTH) for table in tables])
            rows = [_noisy_images(x0, table, _FRAMES) for table in tables]
            films.write_gif(gif, plots.frames(rows), seconds=4, hold=1)
    return written


def _read_image(path: Path) -> Tensor:
    """Read an image, downsampled to 192 pixels at most: (3, H, W) in [-1, 1]."""
    try:
        data = read_bytes(path, tree.file_limit())
    except (OSError, ValueError) as error:
        raise DdpmError(f"--image {path}: {getattr(error, 'strerror', None) or error}") from error
    (height, width), _ = files.probe(data, str(path))
    shrink = min(1.0, _MAX_SIZE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    return to_unit(torch.from_numpy(files.decode(data, str(path), Transform(size=size))))


def _noisy_images(x0: Tensor, table: dict[str, Any], count: int) -> list[NoisyImage]:
    """x_t at evenly spaced timesteps, in DDPM's scale, all with the same noise."""
    noise = torch.randn(x0.shape, generator=seeds.generator(0, "strip"))
    total, coefficients = table["timesteps"], signal(table)
    noisy_images = []
    for t in np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist():
        coefficient = coefficients[t]
        x = coefficient * x0 + (1 - coefficient**2) ** 0.5 * noise
        noisy_images.append(NoisyImage(table["schedule"], t, coefficient, to_uint8(x).numpy()))
    return noisy_images


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.999 else f"{100 * share:.5g} %"
