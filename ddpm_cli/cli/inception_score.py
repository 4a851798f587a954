"""`ddpm inception-score`: how distinct and how varied a set of pictures is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, options


def inception_score(
    images: Annotated[
        Path,
        typer.Argument(help="Folder (searched at any depth), .zip or image .npz (arr_0)."),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="FID Inception weights, .pth or .safetensors.",
            show_default="the published ones, downloaded once",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="How pictures are resized and scaled: pytorch-fid or torch-fidelity. Only equal "
            "protocols compare."
        ),
    ] = "pytorch-fid",
    splits: Annotated[
        int,
        typer.Option(min=1, help="Parts that are scored each by itself; papers use 10 of 5,000."),
    ] = 10,
    batch: Annotated[
        int, typer.Option(min=1, help="Images through the network at a time; changes speed only.")
    ] = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    json: options.Json = False,
) -> None:
    """Inception Score of a set of pictures: mean and deviation over splits; larger is better."""
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.metrics.evaluate import judge_inception_score
    from ddpm_cli.core.metrics.extraction import load_extractor
    from ddpm_cli.core.metrics.pictures import open_side
    from ddpm_cli.core.metrics.protocols import protocol as named
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime.devices import choose_device

    reporter = console.reporter()
    how = named(protocol)
    pictures = open_side(images, skip_bad)
    if isinstance(pictures, Statistics):
        raise UsageError(f"{images} holds statistics; the Inception Score needs the images")
    extractor = load_extractor(weights, how, choose_device(device), batch, reporter)
    result = judge_inception_score(pictures, extractor, splits, reporter)
    console.result(result.line(), result.document(), json)
