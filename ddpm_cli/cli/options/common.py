"""Options that several commands share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.core.config.serialisation import is_number
from ddpm_cli.core.diffusion.settings import Sampling, default_spacing
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
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Which noise levels the steps visit: trailing (timesteps evenly apart from the very "
        "last), leading, linspace, quadratic (dense where there is little noise), or karras "
        "(between timesteps; EDM's rho 7, from 80 at most).",
        show_default="trailing; karras where the sampler solves the flow",
    ),
]
Sampler = Annotated[
    str,
    typer.Option(
        help="ddim or ddpm (the same as --eta 1); or, to solve the probability flow, from a noise "
        "level of 80 at most: euler, heun, dpmpp-2m or ipndm."
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
    if len(sides) > 2 or not all(is_number(side) and int(side) > 0 for side in sides):
        raise UsageError(
            f"--size {text!r} should be pixels such as 64, or height x width such as 64x128"
        )
    return int(sides[0]), int(sides[-1])


@dataclass(frozen=True)
class SamplingOptions:
    """How pictures are drawn."""

    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps, 1 to the model's number of timesteps.",
            show_default="50, or all where there are fewer",
        ),
    ] = None
    sampler: Sampler = "ddim"
    eta: Annotated[
        float | None,
        typer.Option(
            help="Fresh noise in each step: 0 is DDIM, 1 is DDPM's ancestral sampling.",
            show_default="0 for ddim, 1 for ddpm",
        ),
    ] = None
    variance: Annotated[
        str,
        typer.Option(
            help="Of that fresh noise: fixed-small (the posterior's), fixed-large (beta's), or "
            "learned, by models that learned one."
        ),
    ] = "fixed-small"
    spacing: Spacing = None
    guidance: Annotated[
        float,
        typer.Option(
            help="Classifier-free guidance x0_null + g (x0_given - x0_null), given a class or a "
            "prompt: 1 is the plain model, 0 ignores what is given, more is stronger. (The paper's "
            "w is g - 1.)"
        ),
    ] = 1.0
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Guide at noise levels LOW < sigma <= HIGH alone, such as 0.3,5.",
            show_default="all",
        ),
    ] = None
    guidance_rescale: Annotated[
        float,
        typer.Option(
            help="Bring the guided x0's contrast back to the plain model's: 0 not, 1 all the way."
        ),
    ] = 0.0
    threshold: Annotated[
        str,
        typer.Option(
            help="Keep x0 within [-1, 1]: static (clip), dynamic (shrink, then clip: for strong "
            "guidance) or none."
        ),
    ] = "static"
    s_churn: Annotated[
        float, typer.Option(help="Stochastic heun: fresh noise, in all; 0 is none.")
    ] = 0.0
    s_min: Annotated[float, typer.Option(help="… added at noise levels from this")] = 0.0
    s_max: Annotated[float, typer.Option(help="… up to this")] = math.inf
    s_noise: Annotated[float, typer.Option(help="… with this deviation.")] = 1.0

    @property
    def sampling(self) -> Sampling:
        """The choices checked against each other, with what the sampler decides filled in."""
        return Sampling(
            steps=self.steps or 0,
            eta=self.eta if self.eta is not None else float(self.sampler == "ddpm"),
            guidance=self.guidance,
            spacing=self.spacing or default_spacing(self.sampler),
            sampler=self.sampler,
            variance=self.variance,
            s_churn=self.s_churn,
            s_min=self.s_min,
            s_max=self.s_max,
            s_noise=self.s_noise,
            threshold=self.threshold,
            guidance_interval=parse_interval(self.guidance_interval),
            guidance_rescale=self.guidance_rescale,
        )


def parse_interval(text: str | None) -> tuple[float, float]:
    """Read "0.3,5" as (0.3, 5.0); nothing is everything."""
    if text is None:
        return 0.0, math.inf
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--guidance-interval {text!r} should be two noise levels, such as 0.3,5"
        ) from None
    return low, high
