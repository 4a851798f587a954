"""`ddpm fid`: how far one set of pictures is from another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, options
from ddpm_cli.core.errors import DdpmError

SIDES = "folder (searched at any depth), .zip, image .npz (arr_0) or statistics .npz (mu, sigma)"


def fid(
    real: Annotated[Path, typer.Argument(help=f"The real pictures: {SIDES}.")],
    fake: Annotated[Path, typer.Argument(help="The pictures to judge: any of the same.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="FID Inception weights, .pth or .safetensors.",
            show_default="the published ones, downloaded once",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="How pictures are resized and scaled: pytorch-fid (most papers of late) or "
            "torch-fidelity (TensorFlow 1's resize). Only equal protocols compare."
        ),
    ] = "pytorch-fid",
    batch: Annotated[
        int, typer.Option(min=1, help="Images through the network at a time; changes speed only.")
    ] = 64,
    device: options.Device = "auto",
    skip_bad: options.SkipBad = False,
    save_real: Annotated[
        Path | None,
        typer.Option(
            help="Write the real side's statistics to this .npz, to be REAL next time.",
            show_default="not written",
        ),
    ] = None,
    overwrite: options.OverwriteFile = False,
    json: options.Json = False,
) -> None:
    """Frechet Inception distance between two sets of pictures; smaller is closer."""
    from ddpm_cli.core.metrics.evaluate import judge_fid
    from ddpm_cli.core.metrics.extraction import load_extractor
    from ddpm_cli.core.metrics.pictures import open_side
    from ddpm_cli.core.metrics.protocols import protocol as named
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime.devices import choose_device

    reporter = console.reporter()
    if save_real is not None and save_real.exists() and not overwrite:
        raise DdpmError(f"{save_real} exists; choose another --save-real, or add --overwrite")
    how = named(protocol)
    sides = [open_side(path, skip_bad) for path in (real, fake)]
    extractor = None
    if not all(isinstance(side, Statistics) for side in sides):
        extractor = load_extractor(weights, how, choose_device(device), batch, reporter)
    result, statistics = judge_fid(sides[0], sides[1], extractor, reporter)
    console.result(result.line(), result.document(), json)
    if save_real is not None:
        statistics.write(save_real)
        reporter.say(f"the real side's statistics are in {save_real}")
