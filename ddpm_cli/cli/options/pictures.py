"""Options of the pictures that `ddpm sample` draws beside images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ddpm_cli.core.generation.arrangement import GridLayout

PICTURES = "Pictures to choose by"  # a panel


@dataclass(frozen=True)
class GridOptions:
    """How grid.png is laid out."""

    grid: Annotated[
        str | None,
        typer.Option(
            metavar="RxC",
            help="Rows x columns of grid.png, such as 8x8, which shows as many of the first "
            "images.",
            show_default="up to 100 images, a class a column where they come in turn",
            rich_help_panel=PICTURES,
        ),
    ] = None
    grid_by: Annotated[
        str | None,
        typer.Option(
            help="class or prompt: a row of grid.png for each, with its name.",
            show_default="images in their order",
            rich_help_panel=PICTURES,
        ),
    ] = None

    @property
    def layout(self) -> GridLayout:
        """The layout that they are. Raises UsageError."""
        from ddpm_cli.core.generation.arrangement import GridLayout

        return GridLayout.parse(self.grid, self.grid_by)
