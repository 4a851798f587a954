"""`ddpm convert`: weights of diffusers and of OpenAI to ours, and ours to diffusers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.fields import parse_size
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

_PANEL = "Settings that the files lack"


@dataclass(frozen=True)
class SourceOptions:
    """Settings that the weights' files do not contain."""

    size: Annotated[
        str | None,
        typer.Option(
            help="Size of the images in pixels, 64 or 64x128 (height x width).",
            rich_help_panel=_PANEL,
            show_default="a config's sample_size",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Noise schedule of the training, by its name in ddpm train: linear, cosine, ….",
            rich_help_panel=_PANEL,
            show_default="the scheduler's",
        ),
    ] = None
    timesteps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Timesteps T of the training.",
            rich_help_panel=_PANEL,
            show_default="the scheduler's",
        ),
    ] = None
    parameterisation: Annotated[
        str | None,
        typer.Option(
            help="What the network predicts: eps, x0 or v.",
            rich_help_panel=_PANEL,
            show_default="the scheduler's, else eps",
        ),
    ] = None
    rescale_timesteps: Annotated[
        bool | None,
        typer.Option(
            help="OpenAI's: the network's input was t x 1000 / T, not t.",
            rich_help_panel=_PANEL,
            show_default="required where T is not 1000",
        ),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(
            min=1, help="OpenAI's: attention heads of every block.", rich_help_panel=_PANEL
        ),
    ] = None
    head_width: Annotated[
        int | None,
        typer.Option(min=1, help="… or channels of every head.", rich_help_panel=_PANEL),
    ] = None
    attention_order: Annotated[
        str | None,
        typer.Option(
            help="OpenAI's: legacy, or new (trained with use_new_attention_order).",
            rich_help_panel=_PANEL,
            show_default="legacy",
        ),
    ] = None
    null_class: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of the null class of the training, which --guidance needs.",
            rich_help_panel=_PANEL,
            show_default="none",
        ),
    ] = None


@grouped
@stop_at_once()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of diffusers (a DDPMPipeline's or DDIMPipeline's, or a UNet2DModel's), "
            "or a .pt of improved- or guided-diffusion; with --to, a run, weights file or "
            "snapshot of ddpm."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The weights file to write (.safetensors); with --to, the folder."),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="diffusers: write a DDPMPipeline's folder.", show_default="weights of ddpm"
        ),
    ] = None,
    *,
    settings: SourceOptions,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Import weights of diffusers or OpenAI, or export weights to diffusers; without training.

    Both networks are run on random images, and the result is kept only where the outputs agree.
    No code in the files is run: pickles of anything but tensors are refused.

    Examples:
        ddpm convert ddpm-cifar10-32/ --out ddpm-cifar10.safetensors
        ddpm convert runs/photos-64 --to diffusers --out pipeline/
    """
    import torch

    from ddpm_cli.core.conversion.exporting import export
    from ddpm_cli.core.conversion.importing import ImportOptions
    from ddpm_cli.core.conversion.importing import convert as import_weights
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.runtime import provenance
    from ddpm_cli.core.runtime.run_directory import find_weights

    start_up.end()
    options = ImportOptions(
        **asdict(settings) | {"size": settings.size and parse_size(settings.size)}
    )
    if to is None:
        document = import_weights(source, out, options, console.reporter(), overwrite=overwrite)
        next_step = f"\nNext: ddpm sample {quote(str(out))}"
    elif to == "diffusers":
        if options != ImportOptions():
            raise UsageError(f"with --to, the options under {_PANEL!r} have no meaning")
        document = export(find_weights(source), out, overwrite=overwrite)
        next_step = ""
    else:
        raise UsageError(f"--to {to!r} is unknown; the only format is diffusers")
    document["provenance"] = provenance.gather(torch.device("cpu"))
    console.result(_summary(document) + next_step, document, json)


def _summary(document: dict[str, Any]) -> str:
    return (
        f"{document['out']}: {document['parameters']:,} parameters, {document['schedule']} "
        f"schedule of {document['timesteps']} timesteps, {document['parameterisation']}; outputs "
        f"of both networks differ by at most {document['largest_difference']:.1e} of the largest"
    )
