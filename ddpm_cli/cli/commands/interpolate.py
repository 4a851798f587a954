"""`ddpm interpolate`: images between two seeds, or between two images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def interpolate(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FROM TO",
            help="A run directory, weights file or snapshot (default: the newest run under runs/), "
            "and the two ends: seeds, or image files, whose noise is found as by ddpm invert.",
        ),
    ],
    count: Annotated[int, typer.Option("-n", help="How many images, with both ends.")] = 9,
    *,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for 000000.png and up, and grid.png, which shows them in a row.",
            show_default="interpolated/, interpolated-2/, … beside the weights",
        ),
    ] = None,
    overwrite: common.Overwrite = False,
    batch: common.Batch = "auto",
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Sample images between two seeds, or between two images.

    The noise goes from that of one end to that of the other along a great circle. All images have
    one class or prompt: that of the first seed unless one is given, of two images that of seed 0
    where there is guidance, else none. Needs a sampler that adds no noise; between images ddim or
    euler.

    Examples:
        ddpm interpolate 3 8 -n 9
        ddpm interpolate runs/photos-64 first.png second.png
    """
    from ddpm_cli.core.diffusion.sampling import evaluations
    from ddpm_cli.core.generation import batching, default_sampling, generate
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.generation.outputs import output, record
    from ddpm_cli.core.generation.starts import interpolation
    from ddpm_cli.core.generation.starts.given import check_none_needed
    from ddpm_cli.core.runtime import devices, provenance
    from ddpm_cli.core.runtime.files import new_folder

    start_up.end()
    run, (one, other) = common.run_and_rest(places, 2, "two seeds, or two images")
    reporter, at_once = console.reporter(), batching.parse_batch(batch)
    chosen, default = devices.choose_device(device), default_sampling.of_run(run)
    settings = default.with_options(sampling.nested())
    model = load_model(default.find_weights(run), chosen, devices.choose_precision("fp32", chosen))
    check_none_needed(model, "ddpm interpolate")
    model = default.guided(model, settings.guide)
    found = interpolation.resolve(
        model, (one, other), count, conditions.request, settings, reporter
    )
    about = generate.notices(model, found.request)[0], generate.guide_warning(model, settings)
    for notice in filter(None, (default.told(sampling.nested()), *about)):
        reporter.say(notice)
    folder = new_folder(model.folder / "interpolated") if out is None else out
    place = output.at(folder, model, found.request, found.layout)
    output.write(place, at_once, reporter, overwrite=overwrite)
    document = {
        "out": str(folder),
        "n": count,
        "nfe": evaluations(model.denoiser.schedule, found.request.sampling),
        "grid": None if place.grid is None else str(place.grid),
        **record.settings_of(model, found.request),
        "provenance": provenance.gather(chosen),
    }
    told = f"{count} images in {folder}, from {one} to {other}"
    if place.grid is not None:
        told += f"\nGrid: {place.grid}"
    console.result(told, document, json)
