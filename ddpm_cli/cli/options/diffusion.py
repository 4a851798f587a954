"""Options of `ddpm train` that say what is learned: noise process, network's output, loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ddpm_cli.cli.options.groups import given
from ddpm_cli.core.config import run

_PANEL = "Diffusion"
_PRESET = "the preset's"


def _choices(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


BetaMin = Annotated[
    float | None,
    typer.Option(
        help=f"The first timestep's variance, for {_choices(run.BETA_RANGED)}.",
        rich_help_panel=_PANEL,
        show_default="0.0001",
    ),
]
BetaMax = Annotated[
    float | None,
    typer.Option(help="The last timestep's.", rich_help_panel=_PANEL, show_default="0.02"),
]


@dataclass(frozen=True)
class DiffusionOptions:
    """What is learned."""

    schedule: Annotated[
        str | None,
        typer.Option(
            help=f"How noise grows: {_choices(run.SCHEDULES)}. linear is scaled by 1000 / T, "
            "linear-fixed is not. edm and flow have no timesteps, and bring their "
            "parameterisation and noise levels along.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    timesteps: Annotated[
        int | None,
        typer.Option(
            help="Timesteps T; for edm and flow, noise levels that sampling chooses from.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    beta_min: BetaMin = None
    beta_max: BetaMax = None
    parameterisation: Annotated[
        str | None,
        typer.Option(
            help=f"What the network's output means: {_choices(run.PARAMETERISATIONS)}.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"{_choices(run.LOSSES)}: of the network's output, but vlb: the variational "
            "bound itself, in bits/dim.",
            rich_help_panel=_PANEL,
            show_default="l2",
        ),
    ] = None
    weighting: Annotated[
        str | None,
        typer.Option(
            help="What the loss counts for at each noise level: "
            f"{_choices(tuple(run.WEIGHTINGS))}.",
            rich_help_panel=_PANEL,
            show_default="plain",
        ),
    ] = None
    weighting_gamma: Annotated[
        float | None,
        typer.Option(
            help="min-snr's largest SNR, p2's exponent, vlb's largest weight.",
            rich_help_panel=_PANEL,
            show_default="5, 1, 50",
        ),
    ] = None
    noise_levels: Annotated[
        str | None,
        typer.Option(
            help="Which noise levels are trained: uniform (timesteps, or flow's t), log-normal "
            "or logit-normal (edm and flow only), or importance: timesteps of large losses more "
            "often.",
            rich_help_panel=_PANEL,
            show_default="uniform; log-normal for edm",
        ),
    ] = None
    noise_mean: Annotated[
        float | None,
        typer.Option(
            help="Mean of ln sigma, for the normal ones.",
            rich_help_panel=_PANEL,
            show_default="-1.2 log-normal, 0 logit-normal",
        ),
    ] = None
    noise_std: Annotated[
        float | None,
        typer.Option(help="Its deviation.", rich_help_panel=_PANEL, show_default="1.2 and 1"),
    ] = None
    learned_variance: Annotated[
        bool | None,
        typer.Option(
            "--learned-variance/--fixed-variance",
            help="Learn how much noise sampling adds, too: better likelihoods, and few-step ddpm.",
            rich_help_panel=_PANEL,
            show_default="fixed",
        ),
    ] = None
    vlb_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the variational bound (bits/dim) that trains a learned variance.",
            rich_help_panel=_PANEL,
            show_default="0.001",
        ),
    ] = None

    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of RunConfig's parts that were given."""
        return {
            "network": given(learned_variance=self.learned_variance),
            "diffusion": given(
                schedule=self.schedule,
                timesteps=self.timesteps,
                beta_min=self.beta_min,
                beta_max=self.beta_max,
                parameterisation=self.parameterisation,
            ),
            "objective": given(
                loss=self.loss,
                weighting=self.weighting,
                weighting_gamma=self.weighting_gamma,
                vlb_weight=self.vlb_weight,
                noise_levels=self.noise_levels,
                noise_mean=self.noise_mean,
                noise_std=self.noise_std,
            ),
        }
