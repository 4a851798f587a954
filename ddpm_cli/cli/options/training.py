"""Options of `ddpm train` about pictures, length, learning and saving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import given
from ddpm_cli.core.config.presets import PRESETS

_DATA = "Data"
_LENGTH = "Length"
_LEARNING = "Learning"

_PRESET_HELP = "Settings to start from: " + "; ".join(f"{n}: {p.about}" for n, p in PRESETS.items())


@dataclass(frozen=True)
class DataOptions:
    """Which pictures."""

    data: Annotated[
        str,
        typer.Option(
            help="A folder or .zip of images (sub-folders are classes), the built-in shapes, or "
            "mnist, fashion-mnist, kmnist, svhn, stl10, cifar10, cifar100.",
            rich_help_panel=_DATA,
        ),
    ] = "shapes"
    preset: Annotated[
        str | None,
        typer.Option(help=f"{_PRESET_HELP}.", rich_help_panel=_DATA, show_default="by the data"),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON or TOML file of settings over the preset's, such as a run's config.json.",
            rich_help_panel=_DATA,
        ),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            help="Picture size in pixels, 64 or 64x128 (height x width): images are cropped to "
            "that shape around their centre and resized.",
            rich_help_panel=_DATA,
            show_default="the images' own up to 64, else 64",
        ),
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(
            help="1 grey, 3 colour, 4 with alpha.",
            rich_help_panel=_DATA,
            show_default="1 if all are grey, else 3",
        ),
    ] = None
    flip: Annotated[
        bool | None,
        typer.Option(
            help="Mirror half of the images.", rich_help_panel=_DATA, show_default="by the preset"
        ),
    ] = None
    augment: Annotated[
        float | None,
        typer.Option(
            help="Probability with which an image is mirrored, scaled, rotated, stretched and "
            "moved, each. The network is told how, so that samples are not. Against overfitting: "
            "0.12 for CIFAR-10.",
            rich_help_panel=_DATA,
            show_default="0, or the preset's",
        ),
    ] = None
    holdout: Annotated[
        int | None,
        typer.Option(
            help="Images kept out of training to measure a validation loss on.",
            rich_help_panel=_DATA,
            show_default="0",
        ),
    ] = None
    skip_bad: common.SkipBad = False

    def settings(self) -> dict[str, Any]:
        """The settings of DataConfig that were given."""
        return given(flip=self.flip, augment=self.augment, holdout=self.holdout)


@dataclass(frozen=True)
class LengthOptions:
    """When training ends."""

    images: Annotated[
        int | None, typer.Option(help="Stop after this many images seen.", rich_help_panel=_LENGTH)
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(help="Stop after this many optimiser steps.", rich_help_panel=_LENGTH),
    ] = None
    epochs: Annotated[
        float | None,
        typer.Option(help="Stop after this many passes over the data.", rich_help_panel=_LENGTH),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this many minutes of training.", rich_help_panel=_LENGTH),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when this many snapshots in a row bring no better (held-out) loss.",
            rich_help_panel=_LENGTH,
            show_default="never",
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The settings of Budget that were given."""
        return given(images=self.images, steps=self.steps, epochs=self.epochs, minutes=self.minutes)


@dataclass(frozen=True)
class LearningOptions:
    """How the weights move."""

    batch: Annotated[
        int | None,
        typer.Option(
            help="Images an optimiser step, over all processes together.", rich_help_panel=_LEARNING
        ),
    ] = None
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate (AdamW).", rich_help_panel=_LEARNING)
    ] = None
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="A run or weights file (of ddpm convert, too) whose weights a new training starts "
            "from. They bring their network, size and noise process along; classes and captions "
            "may be others. A resume goes on from its snapshot.",
            rich_help_panel=_LEARNING,
            show_default="random weights",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of weights, order and noise.", rich_help_panel=_LEARNING, show_default="0"
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The settings of OptimiserConfig that were given."""
        return given(batch=self.batch, lr=self.lr, seed=self.seed)
