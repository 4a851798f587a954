"""What `fid` and `inception-score` share: their options, and the network that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from ddpm_cli.core.metrics.extraction import Extractor
    from ddpm_cli.core.runtime.reporting import Reporter

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
        help="How pictures are resized and scaled: pytorch-fid (most papers of late), "
        "torch-fidelity (TensorFlow 1's resize) or clean-fid. Only equal protocols compare.",
        show_default="pytorch-fid",
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A classifier of ddpm train-classifier in the Inception network's place. Its scores "
        "are labelled local: they are not FID."
    ),
]
Batch = Annotated[
    int, typer.Option(min=1, help="Images through the network at a time; changes speed only.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the network's arithmetic: fp32, or bf16, which is faster and compares only with "
        "itself."
    ),
]


@dataclass(frozen=True)
class ExtractorOptions:
    """The network in whose features pictures are judged, as the options name it."""

    weights: Path | None = None
    features: Path | None = None
    protocol: str | None = None
    batch: int = 64
    precision: str = "fp32"

    def __post_init__(self) -> None:
        from ddpm_cli.core.errors import UsageError
        from ddpm_cli.core.metrics import protocols

        if self.protocol is not None:
            protocols.protocol(self.protocol)
        for option, value in (("--weights", self.weights), ("--protocol", self.protocol)):
            if self.features is not None and value is not None:
                raise UsageError(
                    f"{option} is for the Inception network and has no meaning with --features"
                )
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"--precision {self.precision}: choose fp32 or bf16")

    def load(self, device: torch.device, reporter: Reporter) -> Extractor:
        """Load it in every process; the first one of a machine downloads it, or says what fails."""
        from ddpm_cli.core.metrics import extraction, protocols
        from ddpm_cli.core.runtime import devices, distributed

        precision = devices.choose_precision(self.precision, device)
        with distributed.local_rank0_first():
            if self.features is not None:
                return extraction.load_local_extractor(self.features, device, self.batch, precision)
            how = protocols.protocol(self.protocol or protocols.PYTORCH_FID.name)
            return extraction.load_extractor(
                self.weights, how, device, self.batch, reporter, precision
            )


@dataclass(frozen=True)
class InTraining:
    """How a training is judged, as the options of `train` say."""

    every: int  # images
    count: int  # pictures
    network: ExtractorOptions


@dataclass(frozen=True)
class InTrainingOptions:
    """How a training is judged now and then."""

    fid_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images between scores: FID of drawn pictures against the training's, in "
            "scores.jsonl; the best weights are kept. Its cost is printed beforehand.",
            rich_help_panel="Judging",
            show_default="never",
        ),
    ] = None
    fid_n: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Pictures drawn for a score.",
            rich_help_panel="Judging",
            show_default="5000",
        ),
    ] = None
    fid_weights: Annotated[
        Path | None,
        typer.Option(
            help="FID Inception weights.",
            rich_help_panel="Judging",
            show_default="the published ones, downloaded once",
        ),
    ] = None
    fid_features: Annotated[
        Path | None,
        typer.Option(
            help="A classifier of ddpm train-classifier instead: scores are labelled local.",
            rich_help_panel="Judging",
        ),
    ] = None

    @property
    def wanted(self) -> InTraining | None:
        """What was asked for. Raises UsageError for the others without --fid-every."""
        from ddpm_cli.core.errors import UsageError

        if self.fid_every is not None:
            network = ExtractorOptions(self.fid_weights, self.fid_features)
            return InTraining(self.fid_every, self.fid_n or 5000, network)
        if (self.fid_n, self.fid_weights, self.fid_features) != (None, None, None):
            raise UsageError("--fid-n, --fid-weights and --fid-features need --fid-every")
        return None
