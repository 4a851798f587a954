"""`ddpm fid`: how far one set of pictures is from another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, processes
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options.groups import grouped

SIDES = (
    "folder (searched at any depth), .zip, image .npz (arr_0), statistics .npz (mu, sigma) or "
    "data set (cifar10:train)"
)


@grouped
def fid(
    real: Annotated[str, typer.Argument(help=f"The real pictures: {SIDES}.")],
    fake: Annotated[
        str, typer.Argument(help="The pictures to judge: any of the same, or a run to draw from.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Scores to compute from the one pass: any of fid,kid,prdc,is (prdc: precision, "
            "recall, density, coverage; is: the fakes' Inception Score).",
            show_default="fid,kid,prdc",
        ),
    ] = None,
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Also FID of real against other real pictures, as many."),
    ] = False,
    spread: Annotated[
        bool, typer.Option(help="FID's standard error, from 10 resamples of the fakes.")
    ] = True,
    weights: scoring.Weights = None,
    protocol: scoring.Protocol = None,
    features: scoring.Features = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=2,
            help="Pictures to draw where FAKE is a run.",
            show_default="5000, or as many as --class and --prompts say",
        ),
    ] = None,
    *,
    shown: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    seed: common.Seed = 0,
    batch: scoring.Batch = 64,
    nproc: common.Nproc = 1,
    device: common.Device = "auto",
    precision: scoring.Precision = "fp32",
    skip_bad: common.SkipBad = False,
    cache: Annotated[
        bool, typer.Option(help="Keep the real side's features for the next call.")
    ] = True,
    save_real: Annotated[
        Path | None,
        typer.Option(
            help="Write the real side's statistics to this .npz, to be REAL next time.",
            show_default="not written",
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    json: common.Json = False,
) -> None:
    """Frechet Inception distance and its kin between two sets of pictures.

    FID and KID: smaller is closer. Precision falls when fakes look like no real picture, recall
    when they miss some kinds of real pictures.
    """
    from ddpm_cli.core.errors import DdpmError, UsageError
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.metrics.evaluate import RequestedMetrics, evaluate
    from ddpm_cli.core.metrics.inputs import open_input
    from ddpm_cli.core.metrics.statistics import Statistics
    from ddpm_cli.core.runtime import devices, distributed
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    reporter, how = console.reporter(), sampling.sampling
    if save_real is not None and save_real.suffix != ".npz":
        raise UsageError(f"--save-real {save_real} should end in .npz")
    if save_real is not None and save_real.exists() and not overwrite:
        raise DdpmError(f"{save_real} exists; choose another --save-real, or add --overwrite")
    network = scoring.ExtractorOptions(weights, features, protocol, batch, precision)
    if is_run_or_weights(real):
        raise UsageError(f"REAL {real} is a run; only FAKE can be one")
    drawing = is_run_or_weights(fake)
    unsaid = (None, conditioning.ConditionOptions(), 0, common.SamplingOptions())
    if not drawing and (count, shown, seed, sampling) != unsaid:
        raise UsageError(f"-n, --steps and the like are for drawing from a run; {fake} is none")
    one = open_input(real, skip_bad)
    other = None if drawing else open_input(fake, skip_bad)
    known = isinstance(one, Statistics) and isinstance(other, Statistics)
    if known and network != scoring.ExtractorOptions(batch=batch):
        raise UsageError(
            "both sides are statistics, so no network runs: --weights, --features, --protocol and "
            "--precision have no meaning"
        )
    if processes.launch_if_needed(nproc, device):
        return
    chosen = devices.choose_device(device)
    if other is None:
        request = RunImages(Path(fake), count, seed, shown.request, how)
        other = request.open(batch, chosen, reporter)
    wanted = RequestedMetrics.parse(metrics, one, other, spread=spread, floor=floor, cache=cache)
    with distributed.process_group(chosen):
        extractor = None if known else network.load(chosen, reporter)
        report, statistics = evaluate(one, other, extractor, wanted, reporter)
    console.result(report.lines(), report.document(), json)
    if save_real is not None and statistics is not None:
        statistics.write(save_real)
        reporter.say(f"the real side's statistics are in {save_real}")
