"""`ddpm inception-score`: how distinct and how varied a set of pictures is."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm_cli.cli import console, processes
from ddpm_cli.cli.options import common, scoring


def inception_score(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder (searched at any depth), .zip, image .npz (arr_0) or data set "
            "(cifar10:test)."
        ),
    ],
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    features: scoring.Features = None,
    splits: Annotated[
        int,
        typer.Option(min=1, help="Parts that are scored each by itself; papers use 10 of 5,000."),
    ] = 10,
    batch: scoring.Batch = 64,
    nproc: common.Nproc = 1,
    device: common.Device = "auto",
    precision: scoring.Precision = "fp32",
    skip_bad: common.SkipBad = False,
    json: common.Json = False,
) -> None:
    """Inception Score of a set of pictures: mean and deviation over splits; larger is better."""
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.metrics.evaluate import evaluate_inception_score
    from ddpm_cli.core.metrics.inputs import open_input
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime import devices, distributed

    reporter = console.reporter()
    network = scoring.ExtractorOptions(weights, features, protocol, batch, precision)
    pictures = open_input(images, skip_bad)
    if isinstance(pictures, Statistics):
        raise UsageError(f"{images} holds statistics; the Inception Score needs the images")
    chosen = devices.choose_device(device)
    if processes.launch_if_needed(nproc, device):
        return
    with distributed.process_group(chosen):
        extractor = network.load(chosen, reporter)
        result = evaluate_inception_score(pictures, extractor, splits, reporter)
    console.result(result.line(), result.document(), json)
