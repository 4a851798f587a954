"""What `fid` and `inception-score` share: their options, and the network that they name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli import console

if TYPE_CHECKING:
    import torch

    from ddpm_cli.core.judging import Plan
    from ddpm_cli.core.metrics.extraction import Extractor
    from ddpm_cli.core.runtime.reporting import Reporter

Weights = Annotated[
    Path | None,
    typer.Option(
        help="FID Inception weights, .pth or .safetensors.",
        show_default="the published ones, downloaded once",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="How pictures are resized and scaled: pytorch-fid (most papers of late), "
        "torch-fidelity (TensorFlow 1's resize) or clean-fid. Only equal protocols compare.",
        show_default="pytorch-fid",
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A classifier of ddpm train-classifier in the Inception network's place. Its scores "
        "are labelled local: they are not FID."
    ),
]
Batch = Annotated[
    int, typer.Option(min=1, help="Images through the network at a time; changes speed only.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the network's arithmetic: fp32, or bf16, which is faster and compares only with "
        "itself."
    ),
]


def extractor(
    weights: Path | None,
    features: Path | None,
    protocol: str | None,
    device: torch.device,
    batch: int,
    precision: str,
    reporter: Reporter,
) -> Extractor:
    """Load the network that the options name. Raises UsageError where they contradict."""
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.metrics import extraction, protocols
    from ddpm_cli.core.runtime.devices import choose_precision

    arithmetic = choose_precision("fp32" if precision == "auto" else precision, device)
    if features is None:
        how = protocols.protocol(protocol or protocols.PYTORCH_FID.name)
        return extraction.load_extractor(weights, how, device, batch, reporter, arithmetic)
    if weights is not None or protocol is not None:
        given = "--weights" if weights is not None else "--protocol"
        raise UsageError(f"{given} is for the Inception network and has no meaning with --features")
    return extraction.load_local_extractor(features, device, batch, arithmetic)


def plan(
    every: int | None, count: int, weights: Path | None, features: Path | None, device: str
) -> Plan | None:
    """How a training is judged, or None. What is wrong with it is found before anything runs."""
    from ddpm_cli.core.errors import UsageError

    if every is None:
        if weights is not None or features is not None:
            raise UsageError("--fid-weights and --fid-features need --fid-every")
        return None
    from ddpm_cli.core.judging import Plan
    from ddpm_cli.core.runtime.devices import choose_device

    chosen, reporter = choose_device(device), console.reporter()
    return Plan(every, count, extractor(weights, features, None, chosen, 64, "fp32", reporter))


def launched(nproc: int, device: str) -> bool:
    """Start this same command as several processes, if they are asked for and not there yet."""
    from ddpm_cli.core.runtime import devices, distributed, launch

    if nproc == 1 or distributed.under_launcher():
        return False
    devices.check_processes(nproc, device)
    code = launch.launch(nproc, sys.argv[1:])
    if code:
        raise typer.Exit(code)
    return True
