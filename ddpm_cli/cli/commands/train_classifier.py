"""`ddpm train-classifier`: features for scores where the FID Inception has nothing to say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common


def train_classifier(
    data: Annotated[
        str,
        typer.Option(
            help="Labelled pictures: mnist, fashion-mnist, cifar10, shapes, …, or a folder or .zip "
            "whose sub-folders are the classes."
        ),
    ] = "mnist",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write (.safetensors).", show_default="<data>-classifier.safetensors"
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 3,
    batch: Annotated[int, typer.Option(help="Images an optimiser step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and moves.")] = 0,
    device: common.Device = "auto",
    skip_bad: common.SkipBad = False,
    json: common.Json = False,
) -> None:
    """Train a small classifier, for --features of fid and inception-score; minutes on a CPU.

    Scores in its features say how alike pictures are to it. They are labelled local, are not FID,
    and compare only with scores of the same file.
    """
    from ddpm_cli.core.checkpoints import classifier
    from ddpm_cli.core.data.sources import open_source
    from ddpm_cli.core.errors import DdpmError
    from ddpm_cli.core.runtime.devices import choose_device
    from ddpm_cli.core.runtime.downloads import sha256_of
    from ddpm_cli.core.training.classifier import Recipe
    from ddpm_cli.core.training.classifier import train_classifier as learn

    recipe = Recipe(epochs, batch, lr, seed)
    place = out or Path(f"{open_source(data).name}-classifier.safetensors")
    if place.exists() and not overwrite:
        raise DdpmError(f"{place} is there already; choose another --out, or --overwrite")
    network, config = learn(
        data, recipe, choose_device(device), console.reporter(), skip_bad=skip_bad
    )
    classifier.save(place, network, config)
    document = {
        "out": str(place),
        "sha256": sha256_of(place),
        "data": data,
        "classes": list(config.labels),
        "size": list(config.size),
        "channels": config.channels,
        "features": network.width,
        "accuracy": config.accuracy if math.isfinite(config.accuracy) else None,
    }
    rightly = "too few pictures to hold some out and measure the accuracy"
    if math.isfinite(config.accuracy):
        rightly = f"{100 * config.accuracy:.2f} % of held-out pictures named rightly"
    text = (
        f"{place}: {rightly}, {network.width} features\nNext: ddpm fid REAL FAKE --features {place}"
    )
    console.result(text, document, json)
