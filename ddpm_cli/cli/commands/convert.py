"""`ddpm convert`: weights of diffusers and of OpenAI to ours, and ours to diffusers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped

_FILES = "What the files do not say"


@dataclass(frozen=True)
class FileOptions:
    """What the user says about weights where their files do not."""

    size: Annotated[
        str | None,
        typer.Option(
            help="Size of the pictures in pixels, 64 or 64x128 (height x width).",
            rich_help_panel=_FILES,
            show_default="a config's sample_size",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            help="How noise grew in training, as ddpm train names it: linear, cosine, ….",
            rich_help_panel=_FILES,
            show_default="the scheduler's",
        ),
    ] = None
    timesteps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Timesteps T of the training.",
            rich_help_panel=_FILES,
            show_default="the scheduler's",
        ),
    ] = None
    parameterisation: Annotated[
        str | None,
        typer.Option(
            help="What the network's output means: eps, x0 or v.",
            rich_help_panel=_FILES,
            show_default="the scheduler's, else eps",
        ),
    ] = None
    rescale_timesteps: Annotated[
        bool | None,
        typer.Option(
            help="OpenAI's: the network was told t x 1000 / T, not t.",
            rich_help_panel=_FILES,
            show_default="must be said where T is not 1000",
        ),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="OpenAI's: heads of every attention.", rich_help_panel=_FILES),
    ] = None
    head_width: Annotated[
        int | None,
        typer.Option(min=1, help="… or channels of every head.", rich_help_panel=_FILES),
    ] = None
    attention_order: Annotated[
        str | None,
        typer.Option(
            help="OpenAI's: legacy, or new for models trained with --use_new_attention_order.",
            rich_help_panel=_FILES,
            show_default="legacy",
        ),
    ] = None
    null_class: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The class that meant no class in training, by its number: --guidance needs one.",
            rich_help_panel=_FILES,
            show_default="none",
        ),
    ] = None


@grouped
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of diffusers (a DDPMPipeline's or DDIMPipeline's, or a UNet2DModel's), "
            "or a .pt of improved- or guided-diffusion; with --to, a run or weights file of ddpm."
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
    said: FileOptions,
    json: common.Json = False,
) -> None:
    """Bring in other people's weights, or hand out your own; nothing is retrained.

    What was converted is computed both ways on random pictures and kept only where both agree.
    No code in the files is run: pickles of anything but tensors are refused.
    """
    from ddpm_cli.core.conversion.exporting import export
    from ddpm_cli.core.conversion.importing import ImportOptions
    from ddpm_cli.core.conversion.importing import convert as bring_in
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.runtime.run_directory import find_weights

    told = ImportOptions(**asdict(said) | {"size": common.parse_size(said.size)})
    if to is None:
        done = bring_in(source, out, told)
        following = f"\nNext: ddpm sample {out}"
    elif to == "diffusers":
        if told != ImportOptions():
            raise UsageError(f"with --to, the options under {_FILES!r} have no meaning")
        done = export(find_weights(source), out)
        following = ""
    else:
        raise UsageError(f"--to {to!r} is unknown; choose diffusers")
    console.result(_told(done) + following, done, json)


def _told(done: dict[str, Any]) -> str:
    return (
        f"{done['out']}: {done['parameters']:,} parameters, {done['schedule']} schedule of "
        f"{done['timesteps']} timesteps, {done['parameterisation']}; computed both ways, outputs "
        f"differ by at most {done['largest_difference']:.1e} of the largest"
    )
