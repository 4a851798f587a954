"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.core.errors import UsageError

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, the rest on stderr.")
]
Device = Annotated[str, typer.Option(help="auto (a CUDA GPU if there is one), cpu, cuda or mps.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the network's arithmetic: auto (bf16 where the GPU has it), fp32 or bf16."
    ),
]
Nproc = Annotated[
    int, typer.Option(min=1, help="Processes on this machine: GPUs, or shares of the CPU's cores.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out instead of stopping.")
]
Run = Annotated[
    Path | None,
    typer.Argument(help="A run directory or a weights file. Default: the newest run under runs/."),
]
Steps = Annotated[int, typer.Option(help="Denoising steps, 1 to the model's number of timesteps.")]
Eta = Annotated[
    float | None,
    typer.Option(
        help="Fresh noise in each step: 0 is DDIM (the default), 1 is DDPM's ancestral sampling."
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        help="Classifier-free guidance x0_null + g (x0_class - x0_null): 1 is the plain class "
        "model, 0 ignores the class, more is stronger. (The paper's w is g - 1.)"
    ),
]
Sampler = Annotated[str, typer.Option(help="ddim, or ddpm: the same as --eta 1.")]
Spacing = Annotated[
    str,
    typer.Option(
        help="Which timesteps the steps visit: trailing (from the very last), leading or linspace."
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        help="Draw this class, by name or number; repeat for several in turn.",
        show_default="all",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Image i depends on seed + i alone.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier call left at --out.")
]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file if it is there.")
]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read "64" or "64x128" (height x width) as (height, width)."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UsageError(
            f"--size {text!r} should be pixels such as 64, or height x width such as 64x128"
        )
    return int(sides[0]), int(sides[-1])


def resolve_eta(sampler: str, eta: float | None) -> float:
    """The eta that a sampler's name and `--eta` ask for together."""
    if sampler == "ddim":
        return 0.0 if eta is None else eta
    if sampler != "ddpm":
        raise UsageError(f"--sampler {sampler!r} is unknown; choose ddim or ddpm")
    if eta not in (None, 1.0):
        raise UsageError(
            f"--sampler ddpm is --eta 1 and cannot take --eta {eta:g}; use --sampler ddim"
        )
    return 1.0
