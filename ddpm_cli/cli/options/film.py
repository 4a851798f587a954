"""Options of `ddpm gif`: what the film shows, how long it is, and its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli.options import completion
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.data.formats import FILMS, FRAMES_PER_SECOND
from ddpm_cli.core.errors import UsageError

FORMATS = tuple(suffix[1:] for suffix in FILMS)
_FILM, _LENGTH = "Film", "Length and format"  # panels
_REVERSE = "denoising"  # the film without an option
_NAMES = {"forward": "forward", "training": "training", "interpolate": "interpolation"}
_FRAMES, _LOOP_FRAMES, _COLUMNS = 40, 64, 8  # by default: of a film, of one there and back, a strip
_SECONDS, _HOLD, _LOOP_HOLD = 4.0, 2.0, 0.5
_MOST_COLUMNS = 64  # of a strip


@dataclass(frozen=True)
class ShownOptions:
    """What a film shows: denoising, or one of four others."""

    show: Annotated[
        str | None,
        typer.Option(
            help="Of denoising xt: the noisy state; x0: what the model sees in it; both: side by "
            "side.",
            show_default="xt",
            rich_help_panel=_FILM,
        ),
    ] = None
    forward: Annotated[
        Path | None,
        typer.Option(
            help="Show instead how this image, or those of a folder, dissolve in noise, at the "
            "noise levels of the steps.",
            rich_help_panel=_FILM,
        ),
    ] = None
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="Show instead the previews that the run's training wrote, one after the other.",
            rich_help_panel=_FILM,
        ),
    ] = False
    interpolate: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="SEED SEED",
            help="Show instead the images between those of two seeds, there and back: noise on a "
            "sphere, and their conditions mixed.",
            rich_help_panel=_FILM,
        ),
    ] = None
    morph: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="CLASS CLASS",
            help="Show instead one class becoming another and back, from the same noise: D of both "
            "is mixed.",
            rich_help_panel=_FILM,
        ),
    ] = None
    strip: Annotated[
        bool,
        typer.Option(
            "--strip",
            help="One still picture (PNG) instead of a film: a row for each image, a column for "
            "each state, its noise level beneath.",
            rich_help_panel=_FILM,
        ),
    ] = False

    @property
    def kind(self) -> str:
        """denoising, forward, training, interpolate or morph."""
        given = {
            "forward": self.forward is not None,
            "training": self.training,
            "interpolate": self.interpolate is not None,
            "morph": self.morph is not None,
        }
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise UsageError(f"--{chosen[0]} and --{chosen[1]} are two films; give one of them")
        if self.interpolate is not None and min(self.interpolate) < 0:
            raise UsageError(f"--interpolate takes seeds of 0 or more, not {min(self.interpolate)}")
        return chosen[0] if chosen else _REVERSE

    @property
    def is_transition(self) -> bool:
        """Whether it goes from some images to others and back."""
        return self.kind in ("interpolate", "morph")

    @property
    def name(self) -> str:
        """The film's name, which its file has by default."""
        return _NAMES.get(self.kind, self.kind)


@dataclass(frozen=True)
class LengthOptions:
    """How long a film is, and its format."""

    frames: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=15_000,
            help="Frames, or columns of a strip, at equal parts of what changes in the picture.",
            show_default=f"{_FRAMES}; {_LOOP_FRAMES} there and back; {_COLUMNS} in a strip",
            rich_help_panel=_LENGTH,
        ),
    ] = None
    every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show every k-th step of denoising instead, whatever changes.",
            rich_help_panel=_LENGTH,
        ),
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=300,
            help=f"Length of the film, in seconds; has at most {FRAMES_PER_SECOND} frames per "
            "second.",
            show_default=f"{_SECONDS:g}, or --frames by --fps",
            rich_help_panel=_LENGTH,
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=FRAMES_PER_SECOND,
            help="Frames per second.",
            show_default="--frames by --seconds",
            rich_help_panel=_LENGTH,
        ),
    ] = None
    hold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=300,
            help="Seconds to hold the last frame after that; both ends of a film there and back.",
            show_default=f"{_HOLD:g}; {_LOOP_HOLD:g} there and back",
            rich_help_panel=_LENGTH,
        ),
    ] = None
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="gif; webp (the same, smaller); mp4 (needs the extra video); or png (animated, "
            "exact colours, large).",
            show_default="by the suffix of --out, else gif",
            autocompletion=completion.among(FORMATS),
            rich_help_panel=_LENGTH,
        ),
    ] = None

    def of_films(self) -> list[str]:
        """The options given that a strip has no use for."""
        values = {"seconds": self.seconds, "fps": self.fps, "hold": self.hold, "format": self.kind}
        return [f"--{name}" for name, value in values.items() if value is not None]

    def resolve(self, shown: ShownOptions) -> tuple[int, float, float]:
        """How many frames or columns, and how many seconds to show and to hold them."""
        if None not in (self.frames, self.seconds, self.fps):
            raise UsageError("--frames, --seconds and --fps: two of them say the third; give two")
        if self.every is not None and self.frames is not None:
            raise UsageError("--every and --frames both choose the frames; give one of them")
        frames = self.frames or (_LOOP_FRAMES if shown.is_transition else _FRAMES)
        seconds = _SECONDS if self.seconds is None else self.seconds
        hold = (_LOOP_HOLD if shown.is_transition else _HOLD) if self.hold is None else self.hold
        if shown.strip:
            if frames > _MOST_COLUMNS and self.frames is not None:
                raise UsageError(f"--frames {frames}: a strip has at most {_MOST_COLUMNS} columns")
            return self.frames or _COLUMNS, 0, 0
        if self.fps is not None and self.frames is not None:
            seconds = frames / self.fps
        elif self.fps is not None:
            frames = max(2, round(seconds * self.fps))
        most = _most_frames(seconds)
        if self.frames is not None and frames > most:
            raise UsageError(
                f"--frames {frames} in {seconds:g} s are more than {FRAMES_PER_SECOND} per "
                "second, which viewers show at most"
            )
        return min(frames, most), seconds, hold

    def check_strip(self, steps: int) -> None:
        """Raise UsageError where --every of so many steps is more than a strip has space for."""
        states = 1 if self.every is None else -(-steps // self.every) + 1
        if states > _MOST_COLUMNS:
            raise UsageError(
                f"--every {self.every} of {steps} steps are {states:,} states, and a strip has at "
                f"most {_MOST_COLUMNS} columns; --every {-(-steps // (_MOST_COLUMNS - 1))} fits"
            )

    def file(self, out: Path | None, folder: Path, shown: ShownOptions) -> Path:
        """The film's path: --out, or a name in this folder."""
        kind = self.kind
        if kind is not None:
            one_of("--format", kind, FORMATS)
        if shown.strip:
            kind = "png"
        if out is None:
            return folder / f"{shown.name}.{kind or 'gif'}"
        if kind is not None and out.suffix.lower() != f".{kind}":
            why = "--strip is a PNG" if shown.strip else f"--format is {kind}"
            raise UsageError(f"--out {out} should end in .{kind}: {why}")
        return out

    def notices(self, shown: ShownOptions, available: int, seconds: float) -> list[str]:
        """What is said where other frames are shown than was asked for."""
        if self.frames is not None and not shown.is_transition and available < self.frames:
            return [f"--frames {self.frames} is more than there are: {available} are shown"]
        most = _most_frames(seconds)
        if self.every is not None and not shown.strip and most < available:
            return [
                f"{most} of {available} frames are in the film: viewers show at most "
                f"{FRAMES_PER_SECOND} a second; --seconds {available / FRAMES_PER_SECOND:g} has "
                "space for all"
            ]
        return []


def _most_frames(seconds: float) -> int:
    """The frames for which there is time; a product such as 0.58 * 50 is not rounded down."""
    return max(2, int(seconds * FRAMES_PER_SECOND + 1e-6))
