"""Options of scores: of `fid` and `inception-score`, and of the scores during training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ddpm_cli.core.metrics.extraction import ExtractorSettings

_PANEL = "Scores"

Weights = Annotated[
    Path | None,
    typer.Option(
        help="FID Inception weights, .pth or .safetensors.",
        show_default="the published ones, downloaded once",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="How images are resized and scaled: pytorch-fid (most recent papers), "
        "torch-fidelity (TensorFlow 1's resize) or clean-fid. Only equal protocols compare.",
        show_default="pytorch-fid",
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A classifier of ddpm train-classifier instead of the Inception network. Its scores "
        "are labelled local: they are not FID."
    ),
]
Batch = Annotated[
    int, typer.Option(min=1, help="Images through the network at a time; changes speed only.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the networks' arithmetic: fp32, or bf16, which is faster and compares only with "
        "itself."
    ),
]


@dataclass(frozen=True)
class InTraining:
    """Requested scores during training."""

    every: int  # training images between scores
    count: int  # images sampled for a score
    network: ExtractorSettings


@dataclass(frozen=True)
class InTrainingOptions:
    """Options of the scores during training."""

    fid_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images between scores: FID of sampled images against the training's, in "
            "scores.jsonl; the best weights are kept. Its cost is printed beforehand.",
            rich_help_panel=_PANEL,
            show_default="never",
        ),
    ] = None
    fid_n: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Images sampled for a score.",
            rich_help_panel=_PANEL,
            show_default="5000",
        ),
    ] = None
    fid_weights: Annotated[
        Path | None,
        typer.Option(
            help="FID Inception weights.",
            rich_help_panel=_PANEL,
            show_default="the published ones, downloaded once",
        ),
    ] = None
    fid_features: Annotated[
        Path | None,
        typer.Option(
            help="A classifier of ddpm train-classifier instead: scores are labelled local.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    @property
    def requested(self) -> InTraining | None:
        """The requested scores. Raises UsageError for the other options without --fid-every."""
        from ddpm_cli.core.errors import UsageError

        if self.fid_every is not None:
            from ddpm_cli.core.metrics.extraction import ExtractorSettings

            network = ExtractorSettings(self.fid_weights, self.fid_features)
            return InTraining(self.fid_every, self.fid_n or 5000, network)
        if (self.fid_n, self.fid_weights, self.fid_features) != (None, None, None):
            raise UsageError("--fid-n, --fid-weights and --fid-features need --fid-every")
        return None
