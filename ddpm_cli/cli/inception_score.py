"""`ddpm inception-score`: how distinct and how varied a set of pictures is."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm_cli.cli import console, judging, options, processes


def inception_score(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder (searched at any depth), .zip, image .npz (arr_0) or data set "
            "(cifar10:test)."
        ),
    ],
    weights: judging.Weights = None,
    protocol: judging.Protocol = None,
    features: judging.Features = None,
    splits: Annotated[
        int,
        typer.Option(min=1, help="Parts that are scored each by itself; papers use 10 of 5,000."),
    ] = 10,
    batch: judging.Batch = 64,
    nproc: options.Nproc = 1,
    device: options.Device = "auto",
    precision: judging.Precision = "fp32",
    skip_bad: options.SkipBad = False,
    json: options.Json = False,
) -> None:
    """Inception Score of a set of pictures: mean and deviation over splits; larger is better."""
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.metrics.evaluate import judge_inception_score
    from ddpm_cli.core.metrics.sides import open_side
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime import devices, distributed

    reporter = console.reporter()
    network = judging.Network(weights, features, protocol, batch, precision)
    pictures = open_side(images, skip_bad)
    if isinstance(pictures, Statistics):
        raise UsageError(f"{images} holds statistics; the Inception Score needs the images")
    chosen = devices.choose_device(device)
    if processes.launched(nproc, device):
        return
    with distributed.joined(chosen):
        extractor = network.load(chosen, reporter)
        result = judge_inception_score(pictures, extractor, splits, reporter)
    console.result(result.line(), result.document(), json)
