"""`ddpm sweep`: the settings of sampling with the best score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, sweep_text
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options import sweep as options
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

_KEPT = "settings that were scored, if any, are kept; the same command goes on with the others"


@grouped
@stop_at_once(_KEPT)
def sweep(
    run: common.Run = None,
    *,
    swept: options.SweptOptions,
    real: options.Real = None,
    score: Annotated[
        str,
        typer.Option(
            help="fid (with --features dinov2-l FD-DINOv2), kid, or cmmd with clip-l336.",
            rich_help_panel=scoring.FEATURES,
        ),
    ] = "fid",
    features: scoring.Features = None,
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    count: options.Count = options.COUNT,
    seed: common.Seed = 0,
    conditions: conditioning.ConditionOptions,
    given: scoring.Given = None,
    sampling: options.HeldOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for points.jsonl, where settings of earlier sweeps are found again, and "
            "the picture.",
            show_default="sweeps in the run",
        ),
    ] = None,
    default: Annotated[
        bool,
        typer.Option(
            help="Write the best setting into the run as its default (default-sampling.json), from "
            "which ddpm sample and the others then start; not with --class or a prompt."
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and score nothing.")
    ] = False,
    batch: scoring.Batch = "auto",
    device: common.Device = "auto",
    precision: scoring.Precision = "fp32",
    json: common.Json = False,
) -> None:
    """Find the settings of sampling with the best score, and make them the run's default.

    Every setting is sampled from the same seeds and scored. Those within one standard error of the
    lowest score tie, and the cheapest of those little above it is the best.

    Examples:
        ddpm sweep --guidance 1:3 --steps 10,25,50
        ddpm sweep runs/photos-64 --sampler ddim,heun,dpmpp-2m --steps 10,20 --dry-run
        ddpm sweep --sigma-rel 0.03:0.2 --features dinov2-l -n 5000
    """
    axes, held = swept.axes(), sampling.nested()  # checked before anything is loaded
    from ddpm_cli.core.errors import DdpmError
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.runtime import devices, provenance
    from ddpm_cli.core.runtime.files import new_file
    from ddpm_cli.core.runtime.reporting import Warned
    from ddpm_cli.core.runtime.run_directory import newest_run
    from ddpm_cli.core.sweep.results import Results
    from ddpm_cli.core.sweep.sweep import SweepRequest

    start_up.end()
    at_once, reporter = parse_batch(batch), console.reporter()
    settings = ExtractorSettings(weights, features, protocol, at_once, precision)
    chosen = devices.choose_device(device)
    images = RunImages(run or newest_run(), count, seed, conditions.request, held, precision, given)
    asked = SweepRequest(axes, swept.refine, images, real, score, settings, at_once, out)
    search = asked.prepare(chosen, reporter)
    cost, folder = search.cost(), str(search.file.path.parent)
    if dry_run:
        console.result(cost.told(), {"out": folder, **cost.document()}, json)
        return
    reporter.say(cost.told())
    search.run(cost)
    results, failed = Results(search), None
    picture: Path | None = None
    written: Path | str | None = None
    replaced: str | None = None
    try:
        with new_file(results.picture, numbered=True) as path:
            results.draw(path)
            picture = path
        if default:
            replaced = results.replaced
            written = results.why_no_default or results.write_default()
    except DdpmError as error:  # the scores are shown all the same
        failed = error
    for notice in results.noticed:
        reporter.say(Warned(notice))
    document = {
        "out": folder,
        "picture": None if picture is None else str(picture),
        "default": str(written) if isinstance(written, Path) else None,
        "forecast": cost.document(),
        **results.document(),
        "provenance": provenance.gather(chosen),
    }
    console.result(sweep_text.text(results, cost, picture, written, replaced), document, json)
    if failed is not None:
        raise failed
