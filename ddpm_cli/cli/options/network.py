"""Options of `ddpm train` that say what the network is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ddpm_cli.cli.options.groups import given
from ddpm_cli.core.config.network import BLOCKS
from ddpm_cli.core.errors import UsageError

_PANEL = "Network"
_PRESET = "the preset's"


@dataclass(frozen=True)
class NetworkOptions:
    """What the network is made of."""

    width: Annotated[
        int | None,
        typer.Option(
            help="Channels of the first level.", rich_help_panel=_PANEL, show_default=_PRESET
        ),
    ] = None
    multipliers: Annotated[
        str | None,
        typer.Option(
            help="Of the width, one a level, as 1,2,2,2; each level halves the sides.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A level's blocks in order, as res,attn,res,attn, of {', '.join(BLOCKS)} "
            "(residual, ConvNeXt, self-attention, attention by class, of linear cost, to the "
            "caption, and ECA); once for all levels, or repeated for each, the finest first.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(help="Heads of attention.", rich_help_panel=_PANEL, show_default=_PRESET),
    ] = None
    head_width: Annotated[
        int | None,
        typer.Option(
            help="Channels of a head, which then decides how many there are.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    attn_patch: Annotated[
        int | None,
        typer.Option(
            help="ScoreInput, in pixels of their level, of the patches that attend to each other.",
            rich_help_panel=_PANEL,
            show_default="1",
        ),
    ] = None
    modulation: Annotated[
        str | None,
        typer.Option(
            help="How noise level and class enter a block: add (DDPM) or scale-shift (improved "
            "DDPM).",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    time: Annotated[str | None, typer.Option(hidden=True)] = None  # former name of --modulation
    embedding_width: Annotated[
        int | None,
        typer.Option(
            help="Width of the noise level embedding.",
            rich_help_panel=_PANEL,
            show_default="4 x --width",
        ),
    ] = None
    time_width: Annotated[int | None, typer.Option(hidden=True)] = None  # of --embedding-width
    class_width: Annotated[
        int | None,
        typer.Option(
            help="Width of a class's embedding.",
            rich_help_panel=_PANEL,
            show_default="--embedding-width",
        ),
    ] = None
    resample: Annotated[
        str | None,
        typer.Option(
            help="How levels halve and double: conv (convolutions), pool (means and repeats), or "
            "res (within residual blocks, as DDPM++ and ADM).",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    patch: Annotated[
        int | None,
        typer.Option(
            help="Pixels are folded into channels in squares of this side: coarser and faster.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option(
            help="Share of activations dropped in training.",
            rich_help_panel=_PANEL,
            show_default=_PRESET,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The settings of NetworkConfig that were given; new blocks bring their way up along."""
        return given(
            width=self.width,
            multipliers=_numbers(self.multipliers),
            blocks=self.blocks,
            up_blocks=[] if self.blocks else None,
            heads=self.heads,
            head_width=self.head_width,
            attn_patch=self.attn_patch,
            modulation=self.modulation or self.time,
            embedding_width=self.time_width
            if self.embedding_width is None
            else self.embedding_width,
            class_width=self.class_width,
            resample=self.resample,
            patch=self.patch,
            dropout=self.dropout,
        )


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--multipliers {text!r} should be as 1,2,2,2") from error
