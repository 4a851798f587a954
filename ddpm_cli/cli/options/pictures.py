"""Options of the pictures that `ddpm sample` draws beside images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli.options.arguments import TRAINED_ON
from ddpm_cli.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddpm_cli.core.generation.pictures.arrangement import GridLayout
    from ddpm_cli.core.generation.pictures.axes import Axis, Cell
    from ddpm_cli.core.generation.pictures.contact_sheet import ContactSheet
    from ddpm_cli.core.runtime.reporting import Reporter

PICTURES = "Pictures to choose by"  # a panel
_OTHER_FILES = (".npz", ".zip", ".jpg", ".jpeg", ".webp", ".gif")  # than a sheet


@dataclass(frozen=True)
class PictureOptions:
    """How grid.png is laid out, and what a contact sheet compares and scores."""

    grid: Annotated[
        str | None,
        typer.Option(
            metavar="RxC",
            help="Rows x columns of grid.png, or of each cell of a sheet, such as 8x8: as many of "
            "the first images.",
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

    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of the run: model, best, best-fid5k, a snapshot's number, or a file. "
            "With several values here, or to --guidance, --steps, --sampler or --eta, such as "
            "1,2,4, ddpm sample draws a contact sheet: the same noise by each of them, sheet.png, "
            "of one such option or two.",
            show_default="model",
            rich_help_panel=PICTURES,
        ),
    ] = None
    score: Annotated[
        str | None,
        typer.Option(
            help="FID below each cell of a sheet, of -n images against these: what ddpm fid takes "
            "as REAL. Without a value, the data set by name that the run was trained on.",
            show_default="no scores",
            rich_help_panel=PICTURES,
        ),
    ] = None
    score_weights: Annotated[
        Path | None,
        typer.Option(
            help="A copy of the feature network's weights for that.",
            show_default="the published ones, downloaded once",
            rich_help_panel=PICTURES,
        ),
    ] = None
    score_features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The feature network of the scores: inception, dinov2-l (FD-DINOv2), or a "
            "classifier of ddpm train-classifier, whose scores are labelled local.",
            show_default="inception",
            rich_help_panel=PICTURES,
        ),
    ] = None

    @property
    def layout(self) -> GridLayout:
        """The layout that they are. Raises UsageError."""
        from ddpm_cli.core.generation.pictures.arrangement import GridLayout

        return GridLayout.parse(self.grid, self.grid_by)

    @property
    def several(self) -> dict[str, tuple[str, ...]]:
        """The weights to compare, where there are several."""
        names = self._weights
        return {"weights": names} if len(names) > 1 else {}

    @property
    def one_weights(self) -> str | None:
        """The weights, where there are not several; None: the newest."""
        return self._weights[0] if len(self._weights) == 1 else None

    @property
    def _weights(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in (self.weights or "model").split(","))
        if not all(names):
            raise UsageError(f"--weights {self.weights} has an empty name")
        return names if self.weights is not None else ()

    @property
    def default_count(self) -> int:
        """Images of a cell, unless -n says how many."""
        from ddpm_cli.core.generation.pictures import axes

        size = self.layout.size
        shown = axes.SHOWN if size is None else size[0] * size[1]
        return shown if self.score is None else axes.SCORED

    def check(self, out: Path | None, *, sheet: bool, files: bool) -> None:
        """Raise UsageError for what has no meaning with a sheet, or without one.

        files: whether there are options of the files that a sheet does not write.
        """
        several = "several values of --guidance, --steps, --sampler, --eta or --weights"
        scoring = (self.score, self.score_weights, self.score_features)
        if not sheet and scoring != (None, None, None):
            raise UsageError(f"--score is for a contact sheet, of {several}; or use ddpm fid")
        if self.score is None and scoring != (None, None, None):
            raise UsageError("--score-weights and --score-features need --score")
        if sheet and files:
            raise UsageError(f"{several} draw a picture, without --format, --shard and --more")
        if sheet and out is not None and out.suffix.lower() in _OTHER_FILES:
            raise UsageError(f"--out {out}: a sheet is a .png; give that, or a folder for it")
        if sheet and self.grid_by is not None:
            raise UsageError(f"--grid-by is of grid.png, and {several} draw a sheet")

    def sheet(
        self, axes: tuple[Axis, ...], cells: Sequence[Cell], batch: int | None, reporter: Reporter
    ) -> ContactSheet:
        """The sheet of these cells, with what scores them. Raises UsageError or DdpmError."""
        from ddpm_cli.core.generation.pictures.contact_sheet import (
            ContactSheet,
            Scorer,
            training_data,
        )
        from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
        from ddpm_cli.core.metrics.requested import check_metric

        model, scorer = cells[0].model, None
        if self.score is not None:
            name = training_data(model) if self.score == TRAINED_ON else self.score
            settings = ExtractorSettings(
                self.score_weights, self.score_features, batch=batch, prefix="--score-"
            )
            check_metric("fid", settings.network)
            scorer = Scorer.load(name, settings, model.device, reporter)
        size = self.layout.size
        return ContactSheet.of(axes, cells, size, scorer)


def drawn(
    sheet: ContactSheet, out: Path | None, batch: int | None, reporter: Reporter, *, overwrite: bool
) -> tuple[str, dict[str, Any]]:
    """Draw a sheet into its files: the result in words, and as a JSON document."""
    from ddpm_cli.core.metrics.scores.score import digits
    from ddpm_cli.core.runtime import provenance

    path, document = sheet.write(out, batch, reporter, overwrite=overwrite)
    document["provenance"] = provenance.gather(sheet.cells[0].model.device)
    best = document["best"]
    lines = [f"{len(sheet.cells)} settings in {path}, {document['seconds']:.1f} s"]
    if best is not None:
        titles = ", ".join(axis.title(best["values"][axis.name]) for axis in sheet.axes)
        lines.append(f"Best: {titles}: {document['score']['label']} {digits(best['fid'])}")
    return "\n".join(lines), document
