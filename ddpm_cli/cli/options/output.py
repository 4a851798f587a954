"""Options of where `ddpm sample` writes images, and which of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options import completion

if TYPE_CHECKING:
    from ddpm_cli.core.generation.outputs.output import Shard

_PANEL = "Output"


@dataclass(frozen=True)
class OutputOptions:
    """A folder or an archive, and which of them are sampled."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for 000000.png and up, grid.png and manifest.jsonl, or a file NAME.npz or "
            "NAME.zip. What the same command left half done is completed.",
            show_default="generated/, generated-2/, … beside the weights",
            rich_help_panel=_PANEL,
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="png: a folder; npz: arrays arr_0 (uint8, N x H x W x C) and arr_1 (labels), as "
            "evaluators read them; zip: PNGs and dataset.json, as EDM's data sets.",
            show_default="by the suffix of --out, else png",
            autocompletion=completion.among(("png", "npz", "zip")),
            rich_help_panel=_PANEL,
        ),
    ] = None
    more: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Add so many images to those that are there, in place of -n: the same files as of "
            "one call.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Sample the K-th of N shards alone, K from 1, into the same --out as the others: "
            "for jobs of an array, which may run at once.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what an earlier call left at --out.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    @property
    def one_of_shards(self) -> Shard:
        """The shard of the images. Raises UsageError."""
        from ddpm_cli.core.generation.outputs.output import Shard

        return Shard.parse(self.shard)

    @property
    def suffix(self) -> str:
        """The suffix of an archive, "" for a folder. Raises UsageError."""
        from ddpm_cli.core.generation.outputs import output

        return output.suffix_of(self.out, self.format)

    @property
    def of_files(self) -> bool:
        """Whether there are options that only the files of images have."""
        return self.format is not None or self.shard is not None or self.more is not None

    def check(self, count: int | None) -> None:
        """Raise UsageError for options that exclude each other, or -n."""
        from ddpm_cli.core.generation.outputs import output

        output.check(self.out, self.one_of_shards, count, self.more, overwrite=self.overwrite)
