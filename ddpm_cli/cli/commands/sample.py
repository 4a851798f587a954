"""`ddpm sample`: images from a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, pictures
from ddpm_cli.cli.options.given import GivenOptions
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.options.initial import InitialOptions
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

if TYPE_CHECKING:
    from ddpm_cli.core.generation.output import Output, Part, Written

_KEPT = "the images written stay; the same command without --overwrite draws the others"
_OUTPUT = "Output"  # a panel of the help
_RESTARTS = 3  # of all processes, when one of several dies


@grouped
@stop_at_once(_KEPT)
def sample(
    run: common.Run = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images.",
            show_default="16, or as many as --class, --prompts, --given and --init say; in each "
            "cell of a sheet 4, or 1,000 with --score",
        ),
    ] = None,
    *,
    conditions: conditioning.ConditionOptions,
    given: GivenOptions,
    initial: InitialOptions,
    sampling: common.SheetOptions,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=common.SEED,
            show_default="0, or that of --like",
            rich_help_panel=common.SAMPLING,
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Draw the image of this PNG again, which ddpm sample wrote: with its seed, class, "
            "prompt, sampler and weights, but for what is given.",
            rich_help_panel=common.SAMPLING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for 000000.png and up, grid.png and manifest.jsonl, or a file NAME.npz or "
            "NAME.zip. What the same command left half done is completed.",
            show_default="generated/, generated-2/, … beside the weights",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="png: a folder; npz: arrays arr_0 (uint8, N x H x W x C) and arr_1 (labels), as "
            "evaluators read them; zip: PNGs and dataset.json, as EDM's data sets.",
            show_default="by the suffix of --out, else png",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    more: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Add so many images to those that are there, in place of -n: the same files as of "
            "one call.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Sample the K-th of N parts alone, K from 1, into the same --out as the others: "
            "for jobs of an array, which may run at once.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: common.Overwrite = False,
    picture: pictures.PictureOptions,
    batch: common.Batch = "auto",
    nproc: common.Nproc = 1,
    device: common.Device = "auto",
    precision: common.Precision = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the network with torch.compile, which takes a minute or two: then steps "
            "are faster, on GPUs above all. Images are the same up to rounding.",
            show_default="on a CUDA GPU, where sampling takes 10 minutes more than a first batch",
            rich_help_panel=common.MACHINE,
        ),
    ] = None,
    json: common.Json = False,
) -> None:
    """Sample images from a trained model."""
    from ddpm_cli.core.generation import generate, output, record
    from ddpm_cli.core.generation.axes import Cell, axes_of, combinations
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.runtime import devices, distributed, processes, run_directory, threads

    def wanted_by(values: Mapping[str, Any]) -> record.Wanted:
        """What to sample, by the values of a cell of a sheet; without a sheet by none."""
        settings = sampling.nested() | {k: v for k, v in values.items() if k != "weights"}
        if like is None:
            return record.Wanted(seed or 0, conditions.request, common.sampling_of(settings))
        return record.again(like, seed, conditions.request, settings, begin)

    def cell_by(values: Mapping[str, Any], wanted: record.Wanted) -> Cell:
        """The model and the request of these values."""
        model = models[values.get("weights", picture.one_weights)]
        what = wanted.seed, wanted.conditions, wanted.sampling, reporter
        how_many = wanted.count if count is None else count
        images = given.resolve(
            model, how_many, *what, mask=initial.mask_of_given, recorded=wanted.given
        )
        default = picture.default_count if axes else generate.DEFAULT_COUNT
        noise = initial.start(model.config.network)
        request = generate.resolve_request(model, how_many, *what, default, images, begin, noise)
        return Cell(dict(values), model, request)

    start_up.end()
    begin = initial.request
    axes = axes_of(picture.several | sampling.several())
    every = [(values, wanted_by(values)) for values in combinations(axes)]
    part, at_once = output.Part.parse(shard), parse_batch(batch)
    suffix, layout = output.suffix_of(None if axes else out, kind), picture.layout
    layout.check_format(suffix)
    picture.check(out, sheet=bool(axes), files=bool(suffix) or part.of > 1 or more is not None)
    output.check(out, part, count, more, overwrite=overwrite)
    if processes.launch_if_needed(nproc, device, console.reporter(), _KEPT, _RESTARTS):
        return
    reporter, chosen = console.reporter(), devices.choose_device(device)
    arithmetic, first = devices.choose_precision(precision, chosen), every[0][1]
    models = {
        name: load_model(run_directory.find_weights(run or first.weights, name), chosen, arithmetic)
        for name in dict.fromkeys(values.get("weights", picture.one_weights) for values, _ in every)
    }
    with distributed.process_group(chosen):
        with distributed.local_rank0_first():
            cells = [cell_by(values, wanted) for values, wanted in every]
        model, request = cells[0].model, cells[0].request
        about = [model.about] if axes else generate.notices(model, request)
        for notice in (*first.notices(model), *about):
            reporter.say(notice)
        threads.limit_to_work(generate.call_operations(model, request, at_once))
        if axes:
            sheet = picture.sheet(axes, cells, at_once, reporter)
            console.result(
                *pictures.drawn(sheet, out, at_once, reporter, overwrite=overwrite), json
            )
            return
        path, number = distributed.broadcast_from_rank0(
            lambda: output.destination(out, suffix, more, model, request)
        )
        place = output.at(path, model, replace(request, count=number), layout)
        written = output.write(
            place, at_once, reporter, part=part, overwrite=overwrite, compiled=compiled
        )
    for finding in written.findings:
        reporter.say(finding.text)
    console.result(*_told(place, part, written), json)


def _told(place: Output, part: Part, written: Written) -> tuple[str, dict[str, Any]]:
    """The result in words, and as a JSON document."""
    from ddpm_cli.core.diffusion.sampling import evaluations
    from ddpm_cli.core.generation.record import settings_of
    from ddpm_cli.core.runtime import provenance

    model, request, drawn = place.model, place.request, written.images
    edit = None if request.init is None else request.init.blank
    nfe = evaluations(model.denoiser.schedule, request.sampling, edit)
    rate = drawn / max(written.seconds, 1e-9)  # images per second
    document: dict[str, Any] = {
        "out": str(place.path),
        "n": request.count,
        "drawn": drawn,
        "missing": written.missing,
        "nfe": nfe,
        "seconds": round(written.seconds, 3),
        "images_per_second": round(rate, 3) if drawn else None,
        "calls_per_second": round(rate * nfe, 3) if drawn else None,
        "findings": [finding.document() for finding in written.findings],
        "grid": None if place.grid is None else str(place.grid),
        **settings_of(model, request),
        "provenance": provenance.gather(model.device),
    }
    wanted = len(part.indices(request.count))
    images = "1 image" if wanted == 1 else f"{wanted:,} images"
    if part.of > 1:
        images += f" of part {part.number} of {part.of}"
    existing = f" ({wanted - drawn:,} were there)" if drawn < wanted else ""
    speed = f" ({rate:,.3g} images/s, {rate * nfe:,.4g} network calls/s)" if drawn else ""
    lines = [f"{images} in {place.path}{existing}, {written.seconds:.1f} s{speed}"]
    if written.missing:
        lines.append(f"{written.missing:,} of {request.count:,} are still missing: other parts")
    elif place.grid is not None:
        lines.append(f"Grid: {place.grid}")
    return "\n".join(lines), document
