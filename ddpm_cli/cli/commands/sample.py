"""`ddpm sample`: images from a trained model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, conditioning
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

_KEPT = "the images written stay; the same command without --overwrite completes the folder"


@grouped
@stop_at_once(_KEPT)
def sample(
    run: common.Run = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="How many images.",
            show_default="16, or as many as --class and --prompts say",
        ),
    ] = None,
    *,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    batch: common.Batch = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for 000000.png and up, grid.png and manifest.jsonl. A folder left half "
            "done by the same command is completed.",
            show_default="generated/, generated-2/, … beside the weights",
        ),
    ] = None,
    overwrite: common.Overwrite = False,
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
    from ddpm_cli.core.diffusion.sampling import evaluations
    from ddpm_cli.core.generation import folder, generate
    from ddpm_cli.core.generation.batching import parse_batch
    from ddpm_cli.core.generation.model import load_model
    from ddpm_cli.core.runtime import (
        devices,
        distributed,
        processes,
        provenance,
        run_directory,
        threads,
    )

    start_up.end()
    settings, condition_request = sampling.sampling, conditions.request
    at_once = parse_batch(batch)
    if processes.launch_if_needed(nproc, device, console.reporter(), _KEPT):
        return
    reporter = console.reporter()
    chosen = devices.choose_device(device)
    model = load_model(
        run_directory.find_weights(run), chosen, devices.choose_precision(precision, chosen)
    )
    with distributed.process_group(chosen):
        with distributed.local_rank0_first():
            request = generate.resolve_request(
                model, count, seed, condition_request, settings, reporter
            )
        threads.limit_to_work(generate.call_operations(model, request, at_once))
        reporter.say(
            f"{model.path}: {model.provenance}; "
            f"{settings.sampler}, {request.sampling.steps} steps, eta {settings.eta:g}, "
            f"guidance {settings.guidance:g}"
        )
        if warning := generate.late_start_warning(model, request):
            reporter.say(warning)
        started = time.monotonic()
        directory = out or distributed.broadcast_from_rank0(
            lambda: folder.default_folder(model, request)
        )
        written = folder.write(
            directory, model, request, at_once, reporter, overwrite=overwrite, compiled=compiled
        )
    seconds = time.monotonic() - started
    drawn, nfe = written.images, evaluations(model.denoiser.schedule, request.sampling)
    rate = drawn / max(written.seconds, 1e-9)  # images per second
    document: dict[str, Any] = {
        "out": str(directory),
        "n": request.count,
        "drawn": drawn,
        "nfe": nfe,
        "seconds": round(seconds, 3),
        "images_per_second": round(rate, 3) if drawn else None,
        "calls_per_second": round(rate * nfe, 3) if drawn else None,
        "grid": str(directory / "grid.png"),
        **folder.settings_of(model, request),
        "provenance": provenance.gather(chosen),
    }
    existing = f" ({request.count - drawn} were there)" if drawn < request.count else ""
    images = "1 image" if request.count == 1 else f"{request.count:,} images"
    speed = f" ({rate:,.3g} images/s, {rate * nfe:,.4g} network calls/s)" if drawn else ""
    done = f"{images} in {directory}{existing}, {seconds:.1f} s{speed}"
    console.result(f"{done}\nGrid: {directory / 'grid.png'}", document, json)
