"""`ddpm sample`: pictures from a trained model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console, options, processes
from ddpm_cli.cli.grouped import grouped


@grouped
def sample(
    run: options.Run = None,
    count: Annotated[int, typer.Option("-n", help="How many pictures.")] = 16,
    classes: options.Classes = None,
    *,
    sampling: options.SamplingOptions,
    seed: options.Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at a time by a process.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for 000000.png and up, grid.png and manifest.jsonl. A folder left half "
            "done by the same command is completed.",
            show_default="generated/, generated-2/, … beside the weights",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    nproc: options.Nproc = 1,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    json: options.Json = False,
) -> None:
    """Draw pictures from a trained model."""
    from ddpm_cli.core.diffusion.sampling import evaluations
    from ddpm_cli.core.generation import drawing, folder
    from ddpm_cli.core.runtime import devices, distributed, rundir

    how = sampling.how
    if processes.launched(nproc, device):
        return
    reporter = console.reporter()
    chosen = devices.choose_device(device)
    model = drawing.load_model(
        rundir.find_weights(run), chosen, devices.choose_precision(precision, chosen)
    )
    request = drawing.make_request(model, count, seed, classes, how)
    reporter.say(
        f"{model.path}: {model.past}; "
        f"{how.sampler}, {request.how.steps} steps, eta {how.eta:g}, guidance {how.guidance:g}"
    )
    if late := drawing.starts_late(model, request):
        reporter.say(late)
    started = time.monotonic()
    with distributed.joined(chosen):
        place = out or distributed.told_by_first(lambda: folder.default_folder(model, request))
        drawn = folder.write(place, model, request, batch, reporter, overwrite=overwrite)
    seconds = time.monotonic() - started
    document: dict[str, Any] = {
        "out": str(place),
        "n": count,
        "drawn": drawn,
        "nfe": evaluations(model.denoiser.schedule, how),
        "seconds": round(seconds, 3),
        "grid": str(place / "grid.png"),
        **folder.settings_of(model, request),
    }
    there = f" ({count - drawn} were there)" if drawn < count else ""
    text = f"{count} pictures in {place}{there}, {seconds:.1f} s\nGrid: {place / 'grid.png'}"
    console.result(text, document, json)
