"""`ddpm gif`: images emerging from noise."""

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
def gif(
    run: common.Run = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images in the grid.",
            show_default="16, or as many as --class and --prompts say",
        ),
    ] = None,
    *,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    show: Annotated[
        str,
        typer.Option(
            help="xt: the noisy state; x0: what the model sees in it; both: side by side."
        ),
    ] = "xt",
    every: Annotated[int, typer.Option(min=1, help="Show every k-th step.")] = 1,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=300,
            help="Length of the animation, in seconds; has at most 50 frames per second.",
        ),
    ] = 4.0,
    hold: Annotated[
        float, typer.Option(min=0.0, max=300, help="Seconds to hold the last frame after that.")
    ] = 2.0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The GIF.", show_default="denoising.gif, denoising-2.gif, … beside the weights"
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Show images emerging from noise, as a GIF."""
    from ddpm_cli.core.data.files import FRAMES_PER_SECOND
    from ddpm_cli.core.generation import animation, generate, record
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.runtime import devices, files, provenance, run_directory, threads

    start_up.end()
    settings, reporter = sampling.sampling, console.reporter()
    chosen = devices.choose_device(device)
    model = load_model(
        run_directory.find_weights(run), chosen, devices.choose_precision("fp32", chosen)
    )
    request = generate.resolve_request(model, count, seed, conditions.request, settings, reporter)
    threads.limit_to_work(generate.call_operations(model, request, request.count))
    wanted = out or model.folder / "denoising.gif"
    animation.check(wanted, show)
    with files.new_file(wanted, overwrite=overwrite, numbered=out is None) as path:
        frames = animation.denoising(model, request, show, every, reporter)
        shown = animation.write(path, frames, seconds, hold)
    if shown < len(frames):
        reporter.say(
            f"{len(frames)} frames are more than viewers can show in {seconds:g} s: {shown} of "
            f"them are in the GIF; --seconds {len(frames) / FRAMES_PER_SECOND:g} has space for all"
        )
    document = {
        "out": str(path),
        "frames": shown,
        "seconds": round(seconds + hold, 2),
        **record.settings_of(model, request),
        "provenance": provenance.gather(chosen),
    }
    length = f"{seconds:.4g} s, then the last for {hold:.4g} s"
    console.result(f"{shown} frames in {path}: {length}", document, json)
