"""The picture of a model's card: what these weights drew from noise alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.checkpoints.weights import Weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation.outputs import record
from ddpm_cli.core.generation.trained_model import TrainedModel
from ddpm_cli.core.hub import card
from ddpm_cli.core.runtime.files import read_json
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory

_DRAWN, _STEPS = 16, 50  # images of a picture that is drawn for the card, and their steps

# What sampling.json says of images that begin at noise of a seed. Anything more may be of images
# of the user's (--init, --mask, --given, --noise), which a grid of samples resembles or shows.
_PLAIN = {
    *("weights", "weights_sha256", "images_seen", "sigma_rel", "seed", "n", "provenance"),
    *("classes", "classes_at_random", "prompts"),
    *Sampling().document(),
}


class Picture(NamedTuple):
    """A picture of samples, and what is said of it."""

    path: Path
    caption: str


def found(run: RunDirectory, model: Weights) -> Picture | None:
    """The newest grid of plain samples of these weights in the run, or else their preview.

    None where there is neither, and of a model that draws from images that it is given: beside its
    samples are those images, of the training or of the user.
    """
    if model.config.network.given_channels:
        return None
    grids = sorted(_grids(run, model.sha256), key=lambda grid: grid.path.stat().st_mtime)
    preview = run.preview(model.images)
    if grids or not preview.is_file():
        return next(reversed(grids), None)
    return Picture(preview, "A preview of the training, always from the same noise.")


def why_none(config: RunConfig) -> str:
    """Why a picture is not there, and what happens."""
    if config.network.given_channels:
        return f"no {card.PICTURE}: pictures of this model show the images that it was given, too"
    return f"{card.PICTURE} would be drawn: the run has no picture of these weights"


def draw(source: Path, out: Path, device: str, reporter: Reporter) -> Picture:
    """Sample a grid."""
    model = TrainedModel.load(source, device, "auto", reporter)
    steps = min(_STEPS, model.config.diffusion.timesteps)
    guidance = card.GUIDANCE if model.config.guidable else 1.0
    images = model.sample(_DRAWN, steps=steps, guidance=guidance).transpose(0, 3, 1, 2)
    files.write_png(out, sheets.enlarge(sheets.grid(images)))
    return Picture(out, _caption(f"{_DRAWN} samples", steps, guidance, seed=0))


def _grids(run: RunDirectory, sha256: str) -> Iterator[Picture]:
    """Those grids that `ddpm sample` drew with these weights from the noise of a seed."""
    for path in run.path.glob("generated*/grid.png"):
        settings = path.with_name(record.SETTINGS)
        try:
            document = read_json(settings)
            older = path.stat().st_mtime < settings.stat().st_mtime  # of what was there before
        except (OSError, ValueError):
            continue
        if older or not isinstance(document, dict) or document.get("weights_sha256") != sha256:
            continue
        if document.keys() <= _PLAIN and (caption := _described(document)):
            yield Picture(path, caption)


def _described(settings: dict[str, Any]) -> str:
    """The caption of a grid; "" where its settings are damaged."""
    seed, steps, guidance = (settings.get(name) for name in ("seed", "steps", "guidance"))
    if isinstance(seed, int) and isinstance(steps, int) and isinstance(guidance, int | float):
        return _caption("Samples", steps, guidance, seed)
    return ""


def _caption(what: str, steps: int, guidance: float, seed: int) -> str:
    return f"{what} in {steps} steps, guidance {guidance:g}, seed {seed}."
