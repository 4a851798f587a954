"""Films of images: as they emerge from noise, dissolve in it, or get better in a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.choices import FRAME_KINDS
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import InputImages
from ddpm_cli.core.data.pictures import films, sheets
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion.sampling import grid
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, track
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.runtime.seeds import ImageNoise

_SIDE = {".gif": 400}  # pixels of a frame's shorter side, at least: GIFs of noise soon get large
_OTHER_SIDE, _LONGEST = 512, 1200  # pixels; the longer side, at most
_CELL = 128  # pixels of an image in a strip, at least
_LARGEST_CELL = 320
_GAP = 4  # pixels between images of a strip


@dataclass(frozen=True)
class Film:
    """States of images, one after the other."""

    images: NDArray[np.uint8]  # (states, N, C, H, W)
    names: tuple[str, ...]  # of the states
    beside: NDArray[np.uint8] | None = None  # as many more images of each state
    loops: bool = False  # goes back to the first state, and pauses at the last one, too
    titled: bool = False  # each frame says its name

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pauses(self) -> int:
        """At how many states the film is held."""
        return 2 if self.loops else 1

    def evenly(self, count: int) -> Film:
        """The film with `count` states, at equal parts of all that changes in its pictures.

        One that loops has been drawn so, and stays as it is.
        """
        if self.loops:
            return self
        differences = films.changes(self.images)
        if self.beside is not None:
            differences = differences + films.changes(self.beside)
        return self._only(films.evenly(differences, count))

    def _only(self, chosen: Sequence[int]) -> Film:
        return replace(
            self,
            images=self.images[chosen],
            names=tuple(self.names[i] for i in chosen),
            beside=None if self.beside is None else self.beside[chosen],
        )

    def write(self, path: Path, columns: int | None, seconds: float, hold: float) -> int:
        """Write all states as a film of `seconds`, the last of them shown `hold` longer.

        columns: of the grid of images; None: near square. Returns the number of frames.
        """
        order = [*range(len(self)), *(range(len(self) - 2, 0, -1) if self.loops else ())]
        pauses = {0: hold, len(self) - 1: hold} if self.loops else {-1: hold}
        grids = {i: self._frame(i, columns) for i in range(len(self))}
        shorter, longer = sorted(grids[0].shape[1:])
        wanted = -(-_SIDE.get(path.suffix.lower(), _OTHER_SIDE) // shorter)
        factor = max(1, min(wanted, _LONGEST // longer))
        return films.write(path, [grids[i] for i in order], films.Timing(seconds, pauses), factor)

    def _frame(self, i: int, columns: int | None) -> ImageArray:
        """The images of state `i` as one picture (C, H, W)."""
        if self.titled:
            (image,) = self.images[i]
            words = sheets.Words(captions=[self.names[i]])
            return sheets.sheet(image[None], 1, words, gap=0, width=image.shape[2])
        parts = [self.images[i]] if self.beside is None else [self.images[i], self.beside[i]]
        return np.concatenate([sheets.grid(part, columns) for part in parts], axis=2)

    def strip(self, path: Path) -> None:
        """Write one picture: a row for each image, a column for each state, named beneath."""
        rows = [_smaller(self.images[:, n]) for n in range(self.images.shape[1])]
        if self.beside is not None:
            other = [_smaller(self.beside[:, n]) for n in range(len(rows))]
            rows = [row for pair in zip(rows, other, strict=True) for row in pair]
        width = _CELL * len(self)
        named = sheets.sheet(
            rows[-1], len(self), sheets.Words(captions=self.names), gap=_GAP, width=width
        )
        parts = [named]
        if len(rows) > 1:
            above = sheets.sheet(np.concatenate(rows[:-1]), len(self), gap=_GAP, width=width)
            parts = [above[:, :-_GAP], named]
        files.write_png(path, np.concatenate(parts, axis=1))


def check(path: Path, show: str) -> None:
    """Raise UsageError for an unusable option, before anything is sampled."""
    one_of("--show", show, FRAME_KINDS)
    films.check(path)


def denoising(
    model: Model, request: GenerationRequest, show: str, every: int, reporter: Reporter
) -> Film:
    """Sample the request's images: their states before each `every` steps, and the last.

    The noisy state is shown in DDPM's scale, x / sqrt(1 + sigma^2), which preserves the variance.
    show: xt, x0 (D of the state, thresholded and guided) or both.
    """
    indices, last = range(request.count), request.sampling.steps - 1
    noisy, clean, names = list[NDArray[np.uint8]](), list[NDArray[np.uint8]](), list[str]()
    if show != "x0":
        noisy.append(_pixels(generate.image_noise(model, request, indices)()))
    steps = generate.sample_steps(model, request, indices)
    with devices.enough_memory("use a smaller -n"):
        for step in track(steps, reporter, "sampling", request.sampling.steps, "steps"):
            if step.index % every == 0:
                names.append(_level(step.sigma))
                if show != "xt":
                    clean.append(_pixels(step.x0))
            if show != "x0" and ((step.index + 1) % every == 0 or step.index == last):
                noisy.append(_pixels(step.x / (1 + step.sigma_next**2) ** 0.5))
            if step.index == last:
                names.append(_level(step.sigma_next))
                if show != "xt":
                    clean.append(_pixels(step.x))
    shown = np.stack(clean if show == "x0" else noisy)
    return Film(shown, tuple(names), np.stack(clean) if show == "both" else None)


def forward(model: Model, images: InputImages, count: int, sampling: Sampling, seed: int) -> Film:
    """The forward process of images: x_t = sqrt(abar) x0 + sqrt(1 - abar) n, with one n each.

    Of the first `count`, at the noise levels that sampling visits, from none upwards.
    """
    transform, indices = Transform.of(model.config), range(count)
    x0 = to_unit(torch.from_numpy(np.stack([images.decode(i, transform) for i in indices])))
    shape = (model.config.network.channels, *model.config.network.size)
    noise = ImageNoise([seed + i for i in indices], shape, torch.device("cpu"))()
    sigmas = grid(model.denoiser.schedule, sampling).flip(0).tolist()
    states = [_pixels((x0 + sigma * noise) / (1 + sigma**2) ** 0.5) for sigma in sigmas]
    return Film(np.stack(states), tuple(map(_level, sigmas)))


def training(run: RunDirectory) -> Film:
    """The previews that a training wrote, in the order of the images it had seen.

    Raises DdpmError where there are fewer than two.
    """
    found = {int(path.stem): path for path in run.previews()}
    if len(found) < 2:
        raise DdpmError(
            f"{run.path} has {len(found) or 'no'} preview{'s' * (len(found) != 1)} in "
            f"{run.preview(0).parent.name}/, and a film needs two: ddpm train --preview N "
            "--snapshot-every M writes them"
        )
    pictures = [files.decode(path.read_bytes(), str(path)) for path in found.values()]
    size = pictures[-1].shape[1:]
    fitted = Transform(size=(size[0], size[1]), fit="pad")
    pictures = [files.fit(picture, fitted) for picture in pictures]
    names = tuple(f"{images:,} images seen" for images in found)
    return Film(np.stack(pictures)[:, None], names, titled=True)


def _smaller(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, C, H, W) of a size for a strip."""
    height, width = images.shape[2:]
    if max(height, width) <= _LARGEST_CELL:
        return images
    share = _LARGEST_CELL / max(height, width)
    channels = images.shape[1]
    transform = Transform(channels, (round(height * share), round(width * share)), "stretch")
    return np.stack([files.fit(image, transform) for image in images])


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    return to_uint8(x).cpu().numpy()


def _level(sigma: float) -> str:
    """A noise level as it is written beneath an image."""
    return f"sigma {sigma:,.0f}" if sigma >= 100 else f"sigma {sigma:.3g}"
