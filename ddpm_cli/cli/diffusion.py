"""Options of `ddpm train` that say what is learned: noise process, network's output, loss."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm_cli.core import config

_PANEL = "Diffusion"
_PRESET = "the preset's"


def _choices(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


Schedule = Annotated[
    str | None,
    typer.Option(
        help=f"How noise grows: {_choices(config.SCHEDULES)}. linear is scaled by 1000 / T, "
        "linear-fixed is not. edm and flow have no timesteps, and bring their parameterisation and "
        "noise levels along.",
        rich_help_panel=_PANEL,
        show_default=_PRESET,
    ),
]
Timesteps = Annotated[
    int | None,
    typer.Option(
        help="Timesteps T; for edm and flow, noise levels that sampling chooses from.",
        rich_help_panel=_PANEL,
        show_default=_PRESET,
    ),
]
BetaMin = Annotated[
    float | None,
    typer.Option(
        help=f"The first timestep's variance, for {_choices(config.BETA_RANGED)}.",
        rich_help_panel=_PANEL,
        show_default="0.0001",
    ),
]
BetaMax = Annotated[
    float | None,
    typer.Option(help="The last timestep's.", rich_help_panel=_PANEL, show_default="0.02"),
]
Parameterisation = Annotated[
    str | None,
    typer.Option(
        help=f"What the network's output means: {_choices(config.PARAMETERISATIONS)}.",
        rich_help_panel=_PANEL,
        show_default=_PRESET,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help=f"{_choices(config.LOSSES)}: of the network's output, but vlb: the variational bound "
        "itself, in bits/dim.",
        rich_help_panel=_PANEL,
        show_default="l2",
    ),
]
Weighting = Annotated[
    str | None,
    typer.Option(
        help=f"What the loss counts for at each noise level: {_choices(tuple(config.WEIGHTINGS))}.",
        rich_help_panel=_PANEL,
        show_default="plain",
    ),
]
WeightingGamma = Annotated[
    float | None,
    typer.Option(
        help="min-snr's largest SNR, p2's exponent, vlb's largest weight.",
        rich_help_panel=_PANEL,
        show_default="5, 1, 50",
    ),
]
NoiseLevels = Annotated[
    str | None,
    typer.Option(
        help="Which noise levels are trained: uniform (timesteps, or flow's t), log-normal or "
        "logit-normal (edm and flow only), or importance: timesteps of large losses more often.",
        rich_help_panel=_PANEL,
        show_default="uniform; log-normal for edm",
    ),
]
NoiseMean = Annotated[
    float | None,
    typer.Option(
        help="Mean of ln sigma, for the normal ones.",
        rich_help_panel=_PANEL,
        show_default="-1.2 log-normal, 0 logit-normal",
    ),
]
NoiseStd = Annotated[
    float | None,
    typer.Option(help="Its deviation.", rich_help_panel=_PANEL, show_default="1.2 and 1"),
]
LearnedVariance = Annotated[
    bool | None,
    typer.Option(
        "--learned-variance/--fixed-variance",
        help="Learn how much noise sampling adds, too: better likelihoods, and few-step ddpm.",
        rich_help_panel=_PANEL,
        show_default="fixed",
    ),
]
VlbWeight = Annotated[
    float | None,
    typer.Option(
        help="Weight of the variational bound (bits/dim) that trains a learned variance.",
        rich_help_panel=_PANEL,
        show_default="0.001",
    ),
]
