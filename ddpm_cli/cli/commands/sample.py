"""`ddpm sample`: images from a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, pictures
from ddpm_cli.cli.options.given import GivenOptions
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.options.initial import InitialOptions
from ddpm_cli.cli.options.output import OutputOptions
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.reporting import Warned

if TYPE_CHECKING:
    from ddpm_cli.core.generation.default_sampling import DefaultSampling
    from ddpm_cli.core.generation.model import Model
    from ddpm_cli.core.generation.outputs.output import Output, Shard, Written
    from ddpm_cli.core.generation.outputs.record import Wanted
    from ddpm_cli.core.generation.pictures.axes import Axis, Cell

_KEPT = "the images written stay; the same command without --overwrite draws the others"
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
            "prompt, sampler and weights, but for what is given. Where it was made from an image, "
            "give --init or --given again.",
            rich_help_panel=common.SAMPLING,
        ),
    ] = None,
    output: OutputOptions,
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
    """Sample images from a trained model.

    Examples:
        ddpm sample -n 36 --guidance 2
        ddpm sample runs/photos-64 --class cat:8 --class dog:8
        ddpm sample -n 5000 --out fake/
        ddpm sample --guidance 1,2,4 --steps 10,50
        ddpm sample runs/photos-64 --guide early --guidance 1.7
    """
    from ddpm_cli.core.generation import default_sampling, generate
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.default_sampling import DefaultSampling
    from ddpm_cli.core.generation.pictures.axes import axes_of, combinations
    from ddpm_cli.core.runtime import devices, distributed, processes, threads

    start_up.end()
    if like is not None:
        default = DefaultSampling()
    elif picture.weights is not None:
        default = default_sampling.of_weights(run, picture.one_weights)
    else:
        default = default_sampling.of_run(run)
    images = _Images(count, conditions, given, initial, sampling, seed, like, picture, default)
    axes = axes_of(picture.several | sampling.several())
    cells = [(values, images.wanted(values)) for values in combinations(axes)]
    at_once, layout, suffix = parse_batch(batch), picture.layout, "" if axes else output.suffix
    layout.check_format(suffix)
    picture.check(output.out, sheet=bool(axes), files=output.of_files)
    output.check(count)
    if axes and compiled is not None:
        raise UsageError("a contact sheet compiles nothing: leave --compile out")
    if processes.launch_if_needed(nproc, device, console.reporter(), _KEPT, _RESTARTS):
        return
    chosen = devices.choose_device(device)
    models = images.load(run, cells, chosen, devices.choose_precision(precision, chosen))
    with distributed.process_group(chosen):
        with distributed.local_rank0_first():
            drawn = [images.cell(values, wanted, models) for values, wanted in cells]
        model, request = drawn[0].model, drawn[0].request
        about = [model.about] if axes else generate.notices(model, request)
        for notice in filter(None, (images.told, *cells[0][1].notices(model, request), *about)):
            console.reporter().say(notice)
        threads.limit_to_work(generate.call_operations(model, request, at_once))
        if axes:
            told = _draw_sheet(axes, drawn, picture, output, at_once)
        else:
            told = _draw_images(drawn[0], picture, output, suffix, at_once, compiled)
    console.result(*told, json)


@dataclass(frozen=True)
class _Images:
    """What is asked for, of which several values make the cells of a sheet."""

    count: int | None
    conditions: conditioning.ConditionOptions
    given: GivenOptions
    initial: InitialOptions
    sampling: common.SheetOptions
    seed: int | None
    like: Path | None
    picture: pictures.PictureOptions
    default: DefaultSampling

    @property
    def told(self) -> str | None:
        """What is the run's default, in a line."""
        return self.default.told(self.sampling.nested(), self.sampling.several())

    def wanted(self, values: Mapping[str, Any]) -> Wanted:
        """What to sample, by the values of a cell; without a sheet there are none."""
        from ddpm_cli.core.generation.outputs import record

        settings = self.sampling.nested() | {k: v for k, v in values.items() if k != "weights"}
        conditions, begin = self.conditions.request, self.initial.request
        if self.like is None:
            default = self.default.varying(self.sampling.several())
            sampling = default.with_options(settings)
            return record.Wanted(self.seed or 0, conditions, sampling, initial=begin)
        return record.again(self.like, self.seed, conditions, settings, begin)

    def load(
        self, run: Path | None, cells: Sequence[tuple[Mapping[str, Any], Wanted]], *machine: Any
    ) -> dict[str | None, Model]:
        """The models by the names of their weights. machine: device and precision."""
        from ddpm_cli.core.generation.model import load_model

        run = run or cells[0][1].weights
        names = dict.fromkeys(self._weights(values) for values, _ in cells)
        found = {name: self.default.find_weights(run, name) for name in names}
        guide = cells[0][1].sampling.guide
        models = {name: load_model(path, *machine) for name, path in found.items()}
        return {name: self.default.guided(model, guide) for name, model in models.items()}

    def cell(
        self, values: Mapping[str, Any], wanted: Wanted, models: Mapping[str | None, Model]
    ) -> Cell:
        """The model and the request of these values."""
        from ddpm_cli.core.generation import generate
        from ddpm_cli.core.generation.pictures.axes import Cell

        model, reporter = models[self._weights(values)], console.reporter()
        what = wanted.seed, wanted.conditions, wanted.sampling, reporter
        count = wanted.count if self.count is None else self.count
        given = self.given.resolve(
            model, count, *what, mask=self.initial.mask_of_given, recorded=wanted.given
        )
        default = self.picture.default_count if values else generate.DEFAULT_COUNT
        noise = self.initial.start(model.config.network)
        begin = wanted.initial
        request = generate.resolve_request(model, count, *what, default, given, begin, noise)
        return Cell(dict(values), model, request)

    def _weights(self, values: Mapping[str, Any]) -> str | None:
        name: str | None = values.get("weights", self.picture.one_weights)
        return name


def _draw_sheet(
    axes: tuple[Axis, ...],
    cells: Sequence[Cell],
    picture: pictures.PictureOptions,
    output: OutputOptions,
    batch: int | None,
) -> tuple[str, dict[str, Any]]:
    """Draw a contact sheet: the result in words, and as a JSON document."""
    with stop_at_once():
        sheet = picture.sheet(axes, cells, batch, console.reporter())
        return pictures.drawn(
            sheet, output.out, batch, console.reporter(), overwrite=output.overwrite
        )


def _draw_images(
    cell: Cell,
    picture: pictures.PictureOptions,
    output: OutputOptions,
    suffix: str,
    batch: int | None,
    compiled: bool | None,
) -> tuple[str, dict[str, Any]]:
    """Write the images, and say what is odd: the result in words, and as a JSON document."""
    from ddpm_cli.core.generation.outputs.output import at, destination, write
    from ddpm_cli.core.runtime import distributed

    model, request = cell.model, cell.request
    path, number = distributed.broadcast_from_rank0(
        lambda: destination(output.out, suffix, output.more, model, request, console.reporter())
    )
    place = at(path, model, replace(request, count=number), picture.layout)
    written = write(
        place,
        batch,
        console.reporter(),
        shard=output.one_of_shards,
        overwrite=output.overwrite,
        compiled=compiled,
    )
    for finding in written.findings:
        console.reporter().say(Warned(finding.text))
    return _told(place, output.one_of_shards, written)


def _told(place: Output, shard: Shard, written: Written) -> tuple[str, dict[str, Any]]:
    """The result in words, and as a JSON document."""
    from ddpm_cli.core.diffusion.sampling import evaluations
    from ddpm_cli.core.generation.outputs.record import settings_of
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
    wanted = len(shard.indices(request.count))
    images = "1 image" if wanted == 1 else f"{wanted:,} images"
    if shard.of > 1:
        images += f" of shard {shard.number} of {shard.of}"
    existing = f" ({wanted - drawn:,} were there)" if drawn < wanted else ""
    speed = f" ({rate:,.3g} images/s, {rate * nfe:,.4g} network calls/s)" if drawn else ""
    lines = [f"{images} in {place.path}{existing}, {written.seconds:.1f} s{speed}"]
    if written.missing:
        lines.append(f"{written.missing:,} of {request.count:,} are still missing: other shards")
    elif place.grid is not None:
        lines.append(f"Grid: {place.grid}")
    return "\n".join(lines), document
