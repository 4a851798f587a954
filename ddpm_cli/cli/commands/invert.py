"""`ddpm invert`: the noise of images."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

if TYPE_CHECKING:
    from ddpm_cli.core.generation.generate import GenerationRequest
    from ddpm_cli.core.generation.model import Model
    from ddpm_cli.core.generation.starts.inversion import Inversion

_FILES = ("noise.npy", "inversion.png", "inversion.json")
_SHOWN = 8  # errors of single images that are printed


@grouped
@stop_at_once()
def invert(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] IMAGES",
            help="A run directory, weights file or snapshot (default: the newest run under runs/), "
            "and an image, a folder or a .zip of them.",
        ),
    ],
    *,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for noise.npy, inversion.png and inversion.json.",
            show_default="inverted/, inverted-2/, … beside the weights",
        ),
    ] = None,
    overwrite: common.Overwrite = False,
    batch: common.Batch = "auto",
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Find the noise from which a model samples given images.

    DDIM's steps are taken backwards. `ddpm sample --noise noise.npy` then samples from that noise:
    with the same options images that are nearly the given ones, with another class or prompt
    others. Without class and prompt the null condition is used, as by --guidance 0.

    Examples:
        ddpm invert photo.png --steps 100
        ddpm invert runs/photos-64 photos/cats/ --class cat
    """
    from ddpm_cli.core.data import files
    from ddpm_cli.core.data.input_images import InputImages
    from ddpm_cli.core.generation import batching, generate
    from ddpm_cli.core.generation.guides import with_guide
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.generation.starts import inversion, starting_noise
    from ddpm_cli.core.generation.starts.given import check_none_needed
    from ddpm_cli.core.runtime import devices, run_directory
    from ddpm_cli.core.runtime.files import new_file, new_folder, write_json

    start_up.end()
    run, (path,) = common.run_and_rest(places, 1, "an image, a folder or a .zip")
    settings, reporter = sampling.sampling, console.reporter()
    inversion.check_invertible(settings)
    at_once = batching.parse_batch(batch)
    chosen = devices.choose_device(device)
    model = load_model(
        run_directory.find_weights(run), chosen, devices.choose_precision("fp32", chosen)
    )
    check_none_needed(model, "ddpm invert")
    model = with_guide(model, settings.guide)
    settings = inversion.without_condition(model, conditions.request, settings)
    images = InputImages.open(path, "the images", reporter)
    request = generate.resolve_request(
        model, len(images), seed, conditions.request, settings, reporter
    )
    reporter.say(generate.notices(model, request)[0])
    folder = new_folder(model.folder / "inverted") if out is None else out
    with ExitStack() as stack:
        claims = [new_file(folder / name, overwrite=overwrite) for name in _FILES]
        noise, picture, facts = [stack.enter_context(claim) for claim in claims]
        found = inversion.inverted(model, request, images, at_once, reporter)
        starting_noise.write(noise, found.noise)
        files.write_png(picture, found.picture())
        document = _document(found, model, request, folder)
        write_json(facts, document, durable=False)
    again = _again(sampling, conditions, model, request, noise)
    console.result(_told(found, folder, shlex.join(again)), document, json)


def _document(
    found: Inversion, model: Model, request: GenerationRequest, folder: Path
) -> dict[str, Any]:
    """What is recorded of the noise."""
    from ddpm_cli.core.generation.outputs import record
    from ddpm_cli.core.generation.starts import inversion
    from ddpm_cli.core.runtime import provenance

    return {
        "out": str(folder),
        "n": len(found.names),
        "rmse": found.mean_error,
        "psnr": inversion.psnr(found.mean_error),
        "noise_std": float(found.noise.std()),
        "images": [
            {"file": name, "rmse": error, "psnr": inversion.psnr(error)}
            for name, error in zip(found.names, found.errors, strict=True)
        ],
        **record.settings_of(model, request),
        "provenance": provenance.gather(model.device),
    }


def _again(
    sampling: common.SamplingOptions,
    conditions: conditioning.ConditionOptions,
    model: Model,
    request: GenerationRequest,
    noise: Path,
) -> list[str]:
    """The command that samples the images of the noise."""
    again = ["ddpm", "sample", str(model.path), "--noise", str(noise), "-n", str(request.count)]
    settings: dict[str, Any] = {"seed": request.seed, **sampling.nested()}
    settings |= {"steps": request.sampling.steps, "guidance": request.sampling.guidance}
    if model.guide is not None:
        settings["guide"] = str(model.guide.path)
        settings["class_guidance"] = request.sampling.class_guidance
    for name, value in settings.items():
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        again += [f"--{name.replace('_', '-')}", shown]
    for option, values in (("--class", conditions.classes), ("--prompt", conditions.prompt)):
        again += [word for value in values or () for word in (option, value)]
    for option, value in (
        ("--prompts", conditions.prompts),
        ("--text-encoder", conditions.text_encoder),
    ):
        again += [] if value is None else [option, str(value)]
    return again


def _told(found: Inversion, folder: Path, again: str) -> str:
    """The errors of the reconstructions in words, and how to go on."""
    from ddpm_cli.core.generation.starts.inversion import psnr

    lines = [f"{folder / 'noise.npy'}; what is sampled from it differs from the images by RMSE"]
    for name, error in list(zip(found.names, found.errors, strict=True))[:_SHOWN]:
        lines.append(f"  {name}: {error:.2f} of 255 grey levels{_decibels(psnr(error))}")
    if len(found.errors) > 1:
        lines.append(f"  mean of {len(found.errors)}: {found.mean_error:.2f}")
    lines += [f"Picture: {folder / 'inversion.png'}", f"To sample from it: {again}"]
    return "\n".join(lines)


def _decibels(psnr: float | None) -> str:
    return "" if psnr is None else f", PSNR {psnr:.1f} dB"
