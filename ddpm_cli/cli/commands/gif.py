"""`ddpm gif`: images emerging from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning
from ddpm_cli.cli.options.groups import grouped
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
        float, typer.Option(min=0.1, help="Length of the animation, in seconds.")
    ] = 4.0,
    hold: Annotated[float, typer.Option(min=0.0, help="Seconds to hold the last frame.")] = 2.0,
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
    from ddpm_cli.core.generation import animation, folder, generate
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.runtime import devices, run_directory

    settings, reporter = sampling.sampling, console.reporter()
    chosen = devices.choose_device(device)
    model = load_model(
        run_directory.find_weights(run), chosen, devices.choose_precision("fp32", chosen)
    )
    request = generate.resolve_request(model, count, seed, conditions.request, settings, reporter)
    path = out or run_directory.unused_name(model.folder / "denoising.gif")
    animation.check(path, show, overwrite=overwrite)
    frames = animation.denoising(model, request, show, every, reporter)
    animation.write(path, frames, seconds, hold)
    document = {"out": str(path), "frames": len(frames), **folder.settings_of(model, request)}
    console.result(f"{len(frames)} frames in {path}", document, json)
