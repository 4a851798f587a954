"""Animations of the reverse process, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.data import files, sheets
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, track

FRAME_KINDS = ("xt", "x0", "both")


def check(path: Path, show: str) -> None:
    """Raise UsageError for an unusable option, before anything is sampled."""
    one_of("--show", show, FRAME_KINDS)
    if path.suffix.lower() != ".gif":
        raise UsageError(f"--out {path} should end in .gif")


def denoising(
    model: Model, request: GenerationRequest, show: str, every: int, reporter: Reporter
) -> list[ImageArray]:
    """Sample the request's images as one grid, a frame per `every` steps and one for the last step.

    The noisy state is shown in DDPM's scale, x / sqrt(1 + sigma^2), which preserves the variance.
    """
    indices = range(request.count)
    start = generate.image_noise(model, request, indices)()
    frames = [] if show == "x0" else [_frame(start, start, show)]
    steps = generate.sample_steps(model, request, indices)
    with devices.enough_memory("use a smaller -n"):
        for step in track(steps, reporter, "sampling", request.sampling.steps, "steps"):
            if (step.index + 1) % every == 0 or step.index + 1 == request.sampling.steps:
                frames.append(_frame(step.x / (1 + step.sigma_next**2) ** 0.5, step.x0, show))
    return frames


def write(path: Path, frames: Sequence[ImageArray], seconds: float, hold: float) -> int:
    """Write the frames as a looping GIF of `seconds`, the last frame shown `hold` longer.

    Returns how many of them are in it: those for which there is time.
    """
    return files.write_gif(path, frames, seconds, hold)


def _frame(state: Tensor, x0: Tensor, show: str) -> ImageArray:
    states = {"xt": [state], "x0": [x0], "both": [state, x0]}[show]
    grids = [sheets.enlarge(sheets.grid(to_uint8(x).cpu().numpy()), 256) for x in states]
    return np.concatenate(grids, axis=2)
