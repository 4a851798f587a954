"""`ddpm fid`: distance between two sets of images."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import NO_SCORE, stop_at_once
from ddpm_cli.core.runtime.reporting import Warned

INPUTS = f"{IMAGE_FILES}, statistics .npz (mu, sigma) or a data set's name (cifar10:train)"


@grouped
@stop_at_once(NO_SCORE)
def fid(
    real: Annotated[str, typer.Argument(help=f"The real images: {INPUTS}.")],
    fake: Annotated[
        str,
        typer.Argument(
            help="The images to score: any of the same, or a run (or snapshot) to sample from."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Scores to compute from the one pass: any of fid,kid,prdc,is,sfid,infinity,mind,"
            "classes (prdc: precision, recall, density, coverage; is: the fakes' Inception Score; "
            "infinity: FID of infinitely many fakes; classes: FID and KID of each class).",
            show_default="fid,kid,prdc",
        ),
    ] = None,
    class_groups: Annotated[
        str | None,
        typer.Option(
            help='With classes: also FID and Inception Score of groups of them, such as "animals='
            'cat,dog;vehicles=car", by names or indices.',
            show_default="none",
        ),
    ] = None,
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Also FID of real images against as many other real images."),
    ] = False,
    spread: Annotated[
        bool, typer.Option(help="FID's standard error, from 10 resamples of the fakes.")
    ] = True,
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    features: scoring.Features = None,
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
    cache: Annotated[
        bool, typer.Option(help="Cache the features of images in files for the next call.")
    ] = True,
    save_real: Annotated[
        Path | None,
        typer.Option(
            help="Write the real images' statistics to this .npz, to be REAL next time.",
            show_default="not written",
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    json: common.Json = False,
) -> None:
    """Frechet Inception distance and related scores of two sets of images.

    FID and KID: lower is better. Precision falls when fakes resemble no real image, recall when
    they miss some kinds of real images.

    Examples:
        ddpm fid photos/ fake/
        ddpm fid cifar10:train runs/cifar10-32 -n 10000 --metrics fid,kid,prdc
    """
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.metrics.evaluate import evaluate
    from ddpm_cli.core.metrics.inputs.opening import open_input
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.metrics.requested import RequestedMetrics
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime import devices, distributed, processes, provenance
    from ddpm_cli.core.runtime.files import new_file
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    start_up.end()
    allow_pixels(max_pixels)
    reporter = console.reporter()
    if save_real is not None and save_real.suffix != ".npz":
        raise UsageError(f"--save-real {save_real} should end in .npz")
    at_once = parse_batch(batch)
    extractor_settings = ExtractorSettings(weights, features, protocol, at_once, precision)
    if is_run_or_weights(real):
        raise UsageError(f"REAL {real} is a run; only FAKE can be one")
    run = scoring.run_to_sample(fake, count, seed, conditions, sampling, precision, given)
    real_input = open_input(real, skip_bad, reporter)
    fake_input = None if run else open_input(fake, skip_bad, reporter)
    no_images = isinstance(real_input, Statistics) and isinstance(fake_input, Statistics)
    if no_images and extractor_settings != ExtractorSettings(batch=at_once):
        raise UsageError(
            "both inputs are statistics, so no network runs: --weights, --features, --protocol and "
            "--precision have no meaning"
        )
    if processes.launch_if_needed(nproc, device, reporter, NO_SCORE):
        return
    chosen = devices.choose_device(device)
    with distributed.process_group(chosen), ExitStack() as stack:
        if save_real is not None:
            claim = new_file(save_real, "--save-real", overwrite=overwrite)
            distributed.broadcast_from_rank0(lambda: str(stack.enter_context(claim)))
        if fake_input is None:
            assert run is not None, "without images there is a run"
            fake_input = run.open(at_once, chosen, reporter)
        requested = RequestedMetrics.parse(
            metrics, class_groups, spread=spread, floor=floor, cache=cache
        )
        extractor = None if no_images else extractor_settings.load(chosen, reporter)
        report, statistics = evaluate(real_input, fake_input, extractor, requested, reporter)
        for notice in report.notices():
            reporter.say(Warned(notice))
        document = report.document() | {"provenance": provenance.gather(chosen)}
        console.result(report.lines(), document, json)
        if save_real is not None and statistics is not None:
            statistics.write(save_real)
            reporter.say(f"the statistics of REAL are in {save_real}")
