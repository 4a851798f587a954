"""Where models meet scores: a run as pictures to judge, and a score now and then in training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.sampling import Sampling
from ddpm_cli.core.generation import drawing
from ddpm_cli.core.metrics.sides import DrawnPictures
from ddpm_cli.core.runtime import devices, rundir
from ddpm_cli.core.runtime.reporting import Reporter, Silent


def is_run(spec: str) -> bool:
    """Whether this names a run directory or a model's weights file."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path.suffix == ".safetensors"
    return (
        rundir.RunDirectory(path).weights.is_file() and rundir.RunDirectory(path).config.is_file()
    )


def drawn_by_run(
    path: Path,
    count: int,
    seed: int,
    how: Sampling,
    batch: int,
    device: torch.device,
    reporter: Reporter,
) -> DrawnPictures:
    """Pictures of a run, drawn while they are judged: those that `ddpm sample` would write."""
    precision = devices.choose_precision("auto", device)
    model = drawing.load_model(rundir.find_weights(path.expanduser()), device, precision)
    request = drawing.make_request(model, count, seed, None, how)
    reporter.say(
        f"{model.path}: {model.images:,} images seen; drawing {count:,} pictures in {how.steps} "
        f"steps, eta {how.eta:g}, guidance {how.guidance:g}, seed {seed}"
    )
    return drawn(model, request, batch, str(path))


def drawn(model: drawing.Model, request: drawing.Request, batch: int, label: str) -> DrawnPictures:
    """Pictures of a model as one side to judge."""

    def draw(indices: range) -> Iterator[Tensor]:
        for _, pictures in drawing.draw(model, request, indices, batch, Silent()):
            yield torch.from_numpy(pictures)

    return DrawnPictures(label, request.count, draw)
