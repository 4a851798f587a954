"""`ddpm gif`: films of images emerging from noise, and of what else a model does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning, film
from ddpm_cli.cli.options.given import GivenOptions
from ddpm_cli.cli.options.groups import grouped, names_given
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

if TYPE_CHECKING:
    from ddpm_cli.core.diffusion.settings import Sampling
    from ddpm_cli.core.generation.generate import GenerationRequest
    from ddpm_cli.core.generation.model import Model
    from ddpm_cli.core.generation.pictures.animation import Film
    from ddpm_cli.core.runtime.reporting import Reporter

_LEVELS = {"--steps", "--spacing", "--timesteps", "--sigmas", "--sections", "--final-sigma"}
_MEANINGFUL = {  # with these films, of the options that only some films have
    "forward": {"-n", "--grid", "--seed", "--sampler", "--device", *_LEVELS},
    "training": set[str](),
}
_MEANINGLESS = {
    "interpolate": {"--show", "--every", "--seed"},
    "morph": {"--show", "--every", "--class"},
}
_FEW = 4  # images by default, of films there and back and of strips


class _Plan(NamedTuple):
    """A film that has not been drawn yet."""

    folder: Path  # where it is written by default
    settings: dict[str, Any]  # that determine it, for the document
    draw: Callable[[int], Film]  # by the number of states wanted; it may have more


@grouped
@stop_at_once()
def gif(
    run: common.Run = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images in the grid.",
            show_default="16, or as many as --grid, --class and --prompts say; 4 there and back, "
            "and in a strip; of --forward the first of its images, as many",
        ),
    ] = None,
    *,
    grid: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="The grid of images, such as 4x4."),
    ] = None,
    shown: film.ShownOptions,
    length: film.LengthOptions,
    conditions: conditioning.ConditionOptions,
    given: GivenOptions,
    sampling: common.SamplingOptions,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help=common.SEED, show_default="0", rich_help_panel=common.SAMPLING),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The film: .gif, .webp, .mp4 or .png.",
            show_default="denoising.gif, denoising-2.gif, … beside the weights",
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Show images emerging from noise, as a film, or what else a model does.

    Frames lie at equal parts of what changes in the picture, not in time.

    Examples:
        ddpm gif --guidance 2
        ddpm gif --strip -n 4
        ddpm gif --interpolate 1 2 --format webp
    """
    from ddpm_cli.core.generation import default_sampling, generate
    from ddpm_cli.core.generation.default_sampling import DefaultSampling
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.generation.pictures import animation
    from ddpm_cli.core.generation.pictures.arrangement import GridLayout
    from ddpm_cli.core.runtime import devices, files, provenance

    start_up.end()
    values = {"-n": count, "--grid": grid, "--show": shown.show, "--every": length.every}
    values |= {"--seed": seed, "--device": None if device == "auto" else device}
    used = {name for name, value in values.items() if value is not None}
    used |= {*names_given(conditions), *names_given(given), *names_given(sampling)}
    _refuse_unused(shown, used, length.of_films())
    samples = not shown.training and shown.forward is None
    default = default_sampling.of_run(run) if samples else DefaultSampling()
    settings = default.with_options(sampling.nested())
    frames, seconds, hold = length.resolve(shown)
    animation.check(length.file(out, Path(), shown), shown.show or "xt")
    size, weights = GridLayout.parse(grid, None).size, default.find_weights(run)
    chosen, reporter = devices.choose_device(device), console.reporter()
    if (told := default.told(sampling.nested())) is not None:
        reporter.say(told)
    if shown.training:
        plan = _training(weights)
    else:
        model = load_model(weights, chosen, devices.choose_precision("fp32", chosen))
        model = default.guided(model, settings.guide)
        first = shown.interpolate[0] if shown.interpolate else seed or 0
        if shown.forward is not None:
            most = _count(count, size) or (_FEW if shown.strip else generate.DEFAULT_COUNT)
            plan = _forward(model, shown.forward, most, settings, first, reporter)
        else:
            count = _count(count, size)
            wanted = conditions.request
            if shown.morph is not None:
                wanted = replace(wanted, classes=shown.morph)
            what = first, wanted, settings, reporter
            few = _FEW if shown.strip or shown.is_transition else generate.DEFAULT_COUNT
            images = given.resolve(model, count, *what, mask=None)
            request = generate.resolve_request(model, count, *what, few, images)
            if (odd := generate.guide_warning(model, request.sampling)) is not None:
                reporter.say(odd)
            if shown.strip:
                length.check_strip(generate.steps_of(model, request))
            plan = _sampled(model, request, shown, length.every or 1, reporter)
    name = length.file(out, plan.folder, shown)
    with files.new_file(name, overwrite=overwrite, numbered=out is None) as path:
        made = plan.draw(frames)
        available = len(made)
        made = made if length.every else made.evenly(frames)
        if shown.strip:
            made.strip(path)
            number = len(made)
        else:
            number = made.write(path, size and size[1], seconds, hold)
    for notice in length.notices(shown, available, seconds):
        reporter.say(notice)
    document = {
        "out": str(path),
        "shows": shown.kind,
        "frames": number,
        "seconds": None if shown.strip else round(seconds + made.pauses * hold, 2),
        **plan.settings,
        "provenance": provenance.gather(chosen),
    }
    if shown.strip:
        told = f"{number} states of each image in {path}"
    elif shown.is_transition:
        told = f"{number} frames in {path}: {seconds:.4g} s, and {hold:.4g} s at each end"
    else:
        told = f"{number} frames in {path}: {seconds:.4g} s, then the last for {hold:.4g} s"
    console.result(told, document, json)


def _refuse_unused(shown: film.ShownOptions, used: Collection[str], of_films: list[str]) -> None:
    """Raise UsageError for an option that the film has no use for."""
    kind = shown.kind
    if kind in _MEANINGFUL:
        unused = sorted(set(used) - _MEANINGFUL[kind])
    else:
        unused = sorted(_MEANINGLESS.get(kind, set()) & set(used))
    if unused:
        raise UsageError(f"{unused[0]} has no meaning with --{kind}")
    if shown.strip and (of_films or "--grid" in used):
        raise UsageError(f"{[*of_films, '--grid'][0]} has no meaning with --strip, one picture")


def _count(count: int | None, size: tuple[int, int] | None) -> int | None:
    """How many images: -n, or as many as the grid of (rows, columns) has."""
    if size is None:
        return count
    if count is not None and count > prod(size):
        raise UsageError(f"-n {count} is more than --grid {size[0]}x{size[1]} has")
    return prod(size) if count is None else count


def _training(weights: Path) -> _Plan:
    from ddpm_cli.core.generation.pictures import animation
    from ddpm_cli.core.runtime.run_directory import run_of

    run = run_of(weights)
    return _Plan(run.path, {"run": str(run.path)}, lambda _: animation.training(run))


def _forward(
    model: Model, image: Path, most: int, sampling: Sampling, seed: int, reporter: Reporter
) -> _Plan:
    """The first images of a file or folder, `most` of them."""
    from ddpm_cli.core.data.input_images import InputImages
    from ddpm_cli.core.generation.pictures import animation

    images = InputImages.open(image, "--forward", reporter)
    sampling = sampling.with_default_steps(len(model.denoiser.schedule))
    count = min(most, len(images))
    if count < len(images):
        reporter.say(f"the first {count} of {len(images):,} images are shown; -n says how many")
    settings = {"forward": str(image), "n": count, "weights": str(model.path), "seed": seed}
    return _Plan(
        model.folder,
        {**settings, **sampling.document()},
        lambda _: animation.forward(model, images, count, sampling, seed),
    )


def _sampled(
    model: Model,
    request: GenerationRequest,
    shown: film.ShownOptions,
    every: int,
    reporter: Reporter,
) -> _Plan:
    from ddpm_cli.core.generation import generate
    from ddpm_cli.core.generation.outputs.record import settings_of
    from ddpm_cli.core.generation.pictures import animation
    from ddpm_cli.core.generation.pictures.transitions import Transition, between_classes
    from ddpm_cli.core.runtime import threads

    threads.limit_to_work(generate.call_operations(model, request, request.count))
    settings = settings_of(model, request)
    if not shown.is_transition:
        show = shown.show or "xt"
        return _Plan(
            model.folder,
            settings,
            lambda _: animation.denoising(model, request, show, every, reporter),
        )
    if shown.interpolate is not None:
        between = Transition(model, request, replace(request, seed=shown.interpolate[1]))
        settings["interpolate"] = list(shown.interpolate)
    else:
        between = between_classes(model, request)
        settings["morph"] = settings.pop("classes")
    return _Plan(
        model.folder,
        settings,
        lambda frames: between.film(frames if shown.strip else frames // 2 + 1, reporter),
    )
