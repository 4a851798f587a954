"""A noise schedule as numbers, as curves, and as a picture being destroyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_cli.core import plots
from ddpm_cli.core.config import DiffusionConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.diffusion import grids, schedules
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import seeds

_STAGES = 10  # pictures in a strip


def tabulate(name: str, timesteps: int, steps: int, spacing: str) -> dict[str, Any]:
    """Every table of a schedule, and the timesteps that `steps` sampling steps visit."""
    schedule = schedules.from_config(DiffusionConfig(name, timesteps))
    return {
        "schedule": schedule.name,
        "timesteps": len(schedule),
        "beta": schedule.beta.tolist(),
        "alpha_bar": schedule.alpha_bar.tolist(),
        "sigma": schedule.sigma.tolist(),
        "snr": schedule.snr.tolist(),
        "steps": grids.timesteps(timesteps, steps, spacing).tolist(),
    }


def draw(
    table: dict[str, Any],
    plot: Path | None,
    image: Path | None,
    strip: Path | None,
    *,
    overwrite: bool,
) -> list[Path]:
    """Draw the curves into `plot` and the destruction of `image` into `strip`, where given."""
    written = [path for path in (plot, strip) if path is not None]
    for path in written:
        if path.exists() and not overwrite:
            raise DdpmError(f"{path} exists; choose another name, or add --overwrite")
    stages = None if image is None else _destruction(image, table)
    if plot is not None:
        plots.schedule_curves(plot, table)
    if strip is not None and stages is not None:
        files.write_png(strip, stages)
    return written


def _destruction(image: Path, table: dict[str, Any]) -> files.Picture:
    """The picture at evenly spaced timesteps, in DDPM's scale, all with the same noise."""
    try:
        x0 = to_unit(torch.from_numpy(files.decode(image.read_bytes(), str(image))))
    except OSError as error:
        raise DdpmError(f"--image {image}: {error.strerror}") from error
    noise = torch.randn(x0.shape, generator=seeds.generator(0, "strip"))
    stages = (
        np.linspace(0, table["timesteps"] - 1, min(_STAGES, table["timesteps"])).round().astype(int)
    )
    pictures = [x0]
    for abar in (table["alpha_bar"][t] for t in stages):
        pictures.append(abar**0.5 * x0 + (1 - abar) ** 0.5 * noise)
    return files.grid(to_uint8(torch.stack(pictures)).numpy(), columns=len(pictures))
