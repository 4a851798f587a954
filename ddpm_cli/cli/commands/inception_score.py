"""`ddpm inception-score`: quality and diversity of one set of images."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import NO_SCORE, stop_at_once


@grouped
@stop_at_once(NO_SCORE)
def inception_score(
    images: Annotated[
        str,
        typer.Argument(
            help=f"{IMAGE_FILES.capitalize()}, a data set's name (cifar10:test), or a run "
            "to sample from."
        ),
    ],
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    features: scoring.Features = None,
    splits: Annotated[
        int,
        typer.Option(min=1, help="Splits, each scored by itself; papers use 10 of 5,000 images."),
    ] = 10,
    count: scoring.Count = None,
    *,
    conditions: conditioning.ConditionOptions,
    given: scoring.Given = None,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    batch: scoring.Batch = "auto",
    nproc: common.Nproc = 1,
    device: common.Device = "auto",
    precision: scoring.Precision = "fp32",
    skip_bad: common.SkipBad = False,
    max_pixels: common.MaxPixels = None,
    json: common.Json = False,
) -> None:
    """Inception Score of a set of images: mean and deviation over splits; higher is better.

    Examples:
        ddpm inception-score fake/
        ddpm inception-score runs/cifar10-32 -n 5000
    """
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.metrics.evaluate import evaluate_inception_score
    from ddpm_cli.core.metrics.inputs.opening import open_input
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.metrics.requested import check_metric
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime import devices, distributed, processes, provenance

    start_up.end()
    allow_pixels(max_pixels)
    reporter = console.reporter()
    at_once = parse_batch(batch)
    extractor_settings = ExtractorSettings(weights, features, protocol, at_once, precision)
    check_metric("is", extractor_settings.network)
    run = scoring.run_to_sample(images, count, seed, conditions, sampling, precision, given)
    image_set = None if run else open_input(images, skip_bad, reporter)
    if isinstance(image_set, Statistics):
        raise UsageError(f"{images} holds statistics; the Inception Score needs the images")
    chosen = devices.choose_device(device)
    if processes.launch_if_needed(nproc, device, console.reporter(), NO_SCORE):
        return
    with distributed.process_group(chosen):
        if image_set is None:
            assert run is not None, "without images there is a run"
            image_set = run.open(at_once, chosen, reporter)
        extractor = extractor_settings.load(chosen, reporter)
        result = evaluate_inception_score(image_set, extractor, splits, reporter)
    document = result.document() | {"provenance": provenance.gather(chosen)}
    console.result(result.line(), document, json)
