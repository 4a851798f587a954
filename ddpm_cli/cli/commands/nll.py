"""`ddpm nll`: likelihood of images under a model, in bits per dimension."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import NO_SCORE, stop_at_once


@grouped
@stop_at_once(NO_SCORE)
def nll(
    run: common.Run = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"{IMAGE_FILES.capitalize()}, shapes, or a data set's name (cifar10:test).",
            show_default="those it was trained on",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", min=1, help="How many of them, chosen by --seed; at most all.")
    ] = 128,
    variance: Annotated[
        str | None,
        typer.Option(
            help="Variance of the model's steps: fixed-small, fixed-large or learned.",
            show_default="learned if it is, else fixed-large",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images chosen and the noise.")] = 0,
    batch: common.Batch = "auto",
    skip_bad: common.SkipBad = False,
    max_pixels: common.MaxPixels = None,
    nproc: common.Nproc = 1,
    device: common.Device = "auto",
    precision: common.Precision = "fp32",
    json: common.Json = False,
) -> None:
    """Bits per dimension of images under a model, by the variational bound; fewer is better.

    Every image takes one evaluation of the network for each of the model's timesteps.

    Examples:
        ddpm nll --data photos/
        ddpm nll runs/cifar10-32 --data cifar10:test -n 1000
    """
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.generation.nll import choose_variance, measure, open_images
    from ddpm_cli.core.runtime import devices, distributed, processes, provenance, run_directory

    start_up.end()
    at_once = parse_batch(batch)
    if processes.launch_if_needed(nproc, device, console.reporter(), NO_SCORE):
        return
    allow_pixels(max_pixels)
    reporter = console.reporter()
    chosen = devices.choose_device(device)
    model = load_model(
        run_directory.find_weights(run), chosen, devices.choose_precision(precision, chosen)
    )
    kind = choose_variance(model, variance)
    with distributed.process_group(chosen):
        images = open_images(model, data, count, seed, reporter, skip_bad=skip_bad)
        reporter.say(
            f"{model.path}: {model.provenance}; {min(count, len(images))} of "
            f"{len(images):,} images, {len(model.denoiser.schedule)} evaluations each"
        )
        result = measure(model, images, count, seed, at_once, kind, reporter)
    document = result.document()
    spread = "" if result.standard_error is None else f" ± {result.standard_error:.4f}"
    text = (
        f"{result.total:.4f} bits/dim{spread} = {result.prior:.4g} prior "
        f"+ {document['kl']:.4f} KL + {document['decoder']:.4f} decoder "
        f"({result.count} images, {kind} variance)"
    )
    about = {
        "variance": kind,
        "timesteps": len(result.terms),
        "data": data or model.config.data.source,
        "weights": str(model.path),
        "weights_sha256": model.sha256,
        "seed": seed,
        "precision": devices.precision_name(model.precision),
        "provenance": provenance.gather(chosen),
    }
    console.result(text, document | about, json)
