"""`ddpm memorisation`: whether fakes are copies of training images."""

from __future__ import annotations

from pathlib import Path
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
def memorisation(
    fake: Annotated[
        str,
        typer.Argument(
            help=f"The fakes: a run (or snapshot) to sample from, {IMAGE_FILES}.",
        ),
    ],
    train: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="The images that the model was trained on: image files or a data set's name.",
            show_default="of a run its training images",
            rich_help_panel=common.DATA,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Images of the same kind that it was not trained on. What share of these is near "
            "to a training image is what chance explains.",
            show_default="of a run those it held out, or the test split of its data set",
            rich_help_panel=common.DATA,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pairs.png, distances.png and memorisation.json.",
            show_default="memorisation in the run, or memorisation-FAKE, then with -2 and so on",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what an earlier call left at --out, or else in its default folder.",
        ),
    ] = False,
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The network whose features are compared beside the pixels: inception, dinov2-l, "
            "clip-l336, or a classifier of ddpm train-classifier.",
            show_default="inception",
            rich_help_panel=scoring.FEATURES,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=2,
            help="Fakes to sample from a run: 1000 tell a copied share to about 2 points.",
            show_default="5000, or as many as --class and --prompts say",
            rich_help_panel=common.SAMPLING,
        ),
    ] = None,
    *,
    conditions: conditioning.ConditionOptions,
    given: scoring.Given = None,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    batch: scoring.Batch = "auto",
    device: common.Device = "auto",
    precision: scoring.Precision = "fp32",
    skip_bad: common.SkipBad = False,
    max_pixels: common.MaxPixels = None,
    cache: Annotated[
        bool,
        typer.Option(help="Cache the features of training and held-out images for the next call."),
    ] = True,
    json: common.Json = False,
) -> None:
    """What share of the fakes are copies of training images, against what held-out images show.

    Shifted, mirrored, brightened and compressed copies count. The nearest pairs are drawn: look at
    them.

    Examples:
        ddpm memorisation runs/cifar10-32
        ddpm memorisation fake/ --train photos/train --held-out photos/test
    """
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.metrics.memorisation.judging import judge
    from ddpm_cli.core.metrics.memorisation.outputs import FILES, write_results, written
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.runtime import devices, distributed, processes, provenance
    from ddpm_cli.core.runtime.results_folder import results_folder

    start_up.end()
    processes.refuse_several("ddpm memorisation")
    allow_pixels(max_pixels)
    reporter = console.reporter()
    at_once = parse_batch(batch)
    settings = ExtractorSettings(weights, features, protocol, at_once, precision)
    run = scoring.run_to_sample(fake, count, seed, conditions, sampling, precision, given)
    training, others = scoring.training_and_held_out(
        fake, train, held_out, reporter, skip_bad=skip_bad
    )
    default = scoring.results_beside(fake, "memorisation")
    chosen = devices.choose_device(device)
    with (
        distributed.process_group(chosen),
        results_folder(out, default, FILES, reporter, overwrite=overwrite) as folder,
    ):
        images = (
            run.open(at_once, chosen, reporter)
            if run
            else scoring.images_of(fake, "FAKE", reporter, skip_bad=skip_bad)
        )
        extractor = settings.load(chosen, reporter)
        report, found = judge(images, training, others, extractor, reporter, cache=cache)
        document = report.document() | {"out": str(folder)}
        document |= {"provenance": provenance.gather(chosen)}
        write_results(folder, found, report, document)
        console.result(f"{report.lines()}\n{written(folder)}", document, json)
