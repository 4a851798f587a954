"""`ddpm sweep`: the settings of sampling with the best score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console, tables
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options import sweep as options
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.quantities import duration

if TYPE_CHECKING:
    from ddpm_cli.core.sweep.forecast import Cost
    from ddpm_cli.core.sweep.results import Results

_KEPT = "the settings that were scored are kept; the same command goes on with the others"


@grouped
@stop_at_once(_KEPT)
def sweep(
    run: common.Run = None,
    *,
    swept: options.SweptOptions,
    real: Annotated[
        str | None,
        typer.Option(
            metavar="REAL",
            help="The real images, as of ddpm fid.",
            show_default="what the run was trained on",
            rich_help_panel=scoring.FEATURES,
        ),
    ] = None,
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
            help="Write the best setting into the run as its default (sampling.json), from which "
            "ddpm sample and the others then start."
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
    lowest score tie, and the cheapest of them is the best.

    Examples:
        ddpm sweep --guidance 1:3 --steps 10,25,50
        ddpm sweep runs/photos-64 --sampler ddim,heun,dpmpp-2m --steps 10,20 --dry-run
        ddpm sweep --sigma-rel 0.03:0.2 --features dinov2-l -n 5000
    """
    from ddpm_cli.core.config import paths
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.runtime import devices, provenance
    from ddpm_cli.core.runtime.run_directory import newest_run
    from ddpm_cli.core.sweep.points import NAME, PointsFile
    from ddpm_cli.core.sweep.results import Results
    from ddpm_cli.core.sweep.scoring import Scorer
    from ddpm_cli.core.sweep.subject import Subject, real_images
    from ddpm_cli.core.sweep.sweep import Sweep

    start_up.end()
    axes, at_once, reporter = swept.axes(), parse_batch(batch), console.reporter()
    settings = ExtractorSettings(weights, features, protocol, at_once, precision)
    chosen, run = devices.choose_device(device), run or newest_run()
    request, held = conditions.request, sampling.nested()
    images = RunImages(run, count, seed, request, held, precision, given)
    rebuilds = any(axis.name == "sigma_rel" for axis in axes)
    subject = Subject.load(images, chosen, reporter, own_weights=rebuilds)
    told = subject.default.told(held | {axis.name: None for axis in axes}, weights=not rebuilds)
    for notice in filter(None, (subject.model.about, told)):
        reporter.say(notice)
    compared = real_images(real, run, reporter)
    scorer = Scorer.load(compared, settings, score, chosen, reporter)
    folder = subject.run.sweeps if out is None else paths.expanded(out)
    search = Sweep(
        axes, swept.refine, subject, scorer, PointsFile(folder / NAME), at_once, reporter
    )
    cost = search.cost()
    if dry_run:
        console.result(cost.told(), {"out": str(folder), **cost.document()}, json)
        return
    reporter.say(cost.told())
    search.run(cost)
    results = Results(search)
    picture = results.draw(folder)
    written = results.write_default(run) if default else None
    document = {
        "out": str(folder),
        "picture": None if picture is None else str(picture),
        "default": None if written is None else str(written),
        "forecast": cost.document(),
        **results.document(),
        "provenance": provenance.gather(chosen),
    }
    console.result(_told(results, cost, picture, written), document, json)


def _told(results: Results, cost: Cost, picture: Path | None, written: Path | None) -> str:
    """The table, best first, and what was found."""
    from ddpm_cli.core.metrics.scores.score import digits

    search, ties, best = results.sweep, results.ties, results.chosen
    ranked = results.ranked
    titles = {"sigma_rel": "SIGMA REL"}
    columns = [
        Column(
            titles.get(axis.name, axis.name.upper()),
            [_shown(point.values[axis.name]) for point in ranked],
            right=not isinstance(axis.values[0], str),
        )
        for axis in search.axes
    ]
    marks = ["best" if p == best else "tie" if p in ties else "" for p in ranked]
    columns += [
        Column(search.scorer.label, [digits(point.value) for point in ranked], right=True),
        Column("+/-", [digits(p.std) if p.std else "" for p in ranked], right=True),
        Column("CALLS", [str(point.nfe) for point in ranked], right=True),
        Column("SECONDS", [f"{point.seconds:.1f}" for point in ranked], right=True, needed=1),
        Column("", marks),
    ]
    lines = [tables.table(columns), "", f"Best: {results.told()}"]
    if cost.calls:
        off = search.seconds / cost.seconds - 1
        lines.append(
            f"Cost: {search.calls:,} network calls, {duration(search.seconds)}, where "
            f"{cost.calls:,} and {duration(cost.seconds)} were forecast ({off:+.0%})"
        )
    if picture is not None:
        lines.append(f"Picture: {picture}")
    if written is not None:
        lines.append(f"Default: {written}, from which ddpm sample and the others now start")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
