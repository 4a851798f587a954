"""`ddpm train-classifier`: a classifier whose features replace the FID Inception's in scores."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def train_classifier(
    data: Annotated[
        str,
        typer.Option(
            help=f"Labelled images: mnist, fashion-mnist, cifar10, shapes, …, or {IMAGE_FILES} "
            "with classes (sub-folders are classes)."
        ),
    ] = "mnist",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write (.safetensors).", show_default="<data>-classifier.safetensors"
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 3,
    batch: Annotated[int, typer.Option(help="Images per optimiser step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and shifts.")] = 0,
    device: common.Device = "auto",
    skip_bad: common.SkipBad = False,
    max_pixels: common.MaxPixels = None,
    json: common.Json = False,
) -> None:
    """Train a small classifier, for --features of fid and inception-score; minutes on a CPU.

    Scores in its features are labelled local, are not FID, and compare only with scores of the same
    file.

    Examples:
        ddpm train-classifier --data mnist
        ddpm fid mnist:test fake/ --features mnist-classifier.safetensors
    """
    from ddpm_cli.core.checkpoints import classifier
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.data.sources import open_source
    from ddpm_cli.core.runtime import provenance
    from ddpm_cli.core.runtime.devices import choose_device
    from ddpm_cli.core.runtime.downloads import sha256_of
    from ddpm_cli.core.runtime.files import new_file
    from ddpm_cli.core.training.classifier import ClassifierTraining
    from ddpm_cli.core.training.classifier import train_classifier as train

    start_up.end()
    allow_pixels(max_pixels)
    recipe = ClassifierTraining(epochs, batch, lr, seed)
    path = out or Path(
        f"{open_source(data, console.reporter(), training=True).name}-classifier.safetensors"
    )
    chosen = choose_device(device)
    with new_file(path, overwrite=overwrite):
        network, config = train(data, recipe, chosen, console.reporter(), skip_bad=skip_bad)
        classifier.save(path, network, config)
    document = {
        "out": str(path),
        "sha256": sha256_of(path),
        "data": data,
        "classes": list(config.labels),
        "size": list(config.size),
        "channels": config.channels,
        "features": network.width,
        "accuracy": config.accuracy if math.isfinite(config.accuracy) else None,
        "provenance": provenance.gather(chosen),
    }
    accuracy = "too few images to hold some out and measure the accuracy"
    if math.isfinite(config.accuracy):
        accuracy = f"accuracy {100 * config.accuracy:.2f} % on held-out images"
    text = (
        f"{path}: {accuracy}, {network.width} features\n"
        f"Next: ddpm fid REAL FAKE --features {quote(str(path))}"
    )
    console.result(text, document, json)
