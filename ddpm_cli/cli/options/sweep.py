"""Options of `ddpm sweep`: what is varied, and how finely."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import typer

from ddpm_cli.cli.options import common, scoring
from ddpm_cli.cli.options.groups import SettingOptions
from ddpm_cli.core.diffusion.settings import SAMPLERS, Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.sweep.axes import COARSE, SWEPT, Axis, parse

_PANEL = "Swept"


@dataclass(frozen=True)
class SweptOptions:
    """What is varied: values of each, or a range of what is continuous."""

    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Guidance scales: values such as 1,1.5,2, or a range such as 1:3, which is "
            "searched, coarse to fine.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(metavar="VALUES", help="Steps, such as 10,25,50.", rich_help_panel=_PANEL),
    ] = None
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help=f"Samplers, such as ddim,heun: of {', '.join(SAMPLERS)}.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    eta: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Noise added in each step of ddim: values, or a range such as 0:1.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    sigma_rel: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Lengths of the average of the weights, rebuilt as by ddpm ema: values, or a "
            "range such as 0.03:0.2.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    coarse: Annotated[
        int,
        typer.Option(
            min=3, max=100, help="Values of a range that are scored first.", rich_help_panel=_PANEL
        ),
    ] = COARSE
    refine: Annotated[
        int,
        typer.Option(
            min=0,
            max=8,
            help="Values that then narrow each range by golden section, around the best of each "
            "combination of the others.",
            rich_help_panel=_PANEL,
        ),
    ] = 4

    def axes(self) -> tuple[Axis, ...]:
        """What is varied, the dearest to change first. Raises UsageError."""
        given = {name: getattr(self, name) for name in SWEPT}
        axes = tuple(
            parse(name, text, self.coarse) for name, text in given.items() if text is not None
        )
        if not any(len(axis.values) > 1 for axis in axes):
            raise UsageError(
                "a sweep needs an option with several values, such as --guidance 1,1.5,2 or "
                "--guidance 1:3"
            )
        return axes


class HeldOptions(
    SettingOptions,
    of=Sampling,
    only=[field.name for field in dataclasses.fields(Sampling) if field.name not in SWEPT],
):
    """Settings of sampling that all have."""


COUNT = 1000  # images of a setting

Count = Annotated[
    int,
    typer.Option("-n", min=2, help="Images of each setting.", rich_help_panel=common.SAMPLING),
]

Real = Annotated[
    str | None,
    typer.Option(
        metavar="REAL",
        help="The real images, as of ddpm fid.",
        show_default="what the run was trained on",
        rich_help_panel=scoring.FEATURES,
    ),
]
