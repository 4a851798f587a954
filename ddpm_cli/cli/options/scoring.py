"""Options of scores: of `fid` and `inception-score`, and of the scores during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass

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
        help="Arithmetic of the networks: fp32, or bf16, which is faster and compares only with "
        "itself."
    ),
]
