"""Options of scores: of `fid` and `inception-score`, and of the scores during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.common import SamplingOptions
from ddpm_cli.cli.options.conditioning import ConditionOptions

if TYPE_CHECKING:
    from ddpm_cli.core.generation.run_images import RunImages

FEATURES = "Features"  # a panel

Count = Annotated[
    int | None,
    typer.Option(
        "-n",
        min=2,
        help="Images to sample from a run.",
        show_default="5000, or as many as --class and --prompts say",
        rich_help_panel=common.SAMPLING,
    ),
]
Given = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Whole images, such as cifar10:test, of which a run trained with --given is given "
        "what it was trained on.",
        show_default="the images of its training",
        rich_help_panel=common.CONDITIONS,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="FID Inception weights, .pth or .safetensors.",
        rich_help_panel=FEATURES,
        show_default="the published ones, downloaded once",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="How images are resized and scaled: pytorch-fid (most recent papers), "
        "torch-fidelity (TensorFlow 1's resize) or clean-fid. Only equal protocols compare.",
        show_default="pytorch-fid",
        rich_help_panel=FEATURES,
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A classifier of ddpm train-classifier instead of the Inception network. Its scores "
        "are labelled local: they are not FID.",
        rich_help_panel=FEATURES,
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        help="Images through a network at a time, or auto: on a GPU 256, and of a run to sample "
        "from what its memory allows; 64 elsewhere. Changes speed and memory only.",
        rich_help_panel=common.MACHINE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Arithmetic of the networks: fp32, or bf16, which is faster and compares only with "
        "itself.",
        rich_help_panel=common.MACHINE,
    ),
]


def run_to_sample(
    spec: str,
    count: int | None,
    seed: int,
    conditions: ConditionOptions,
    sampling: SamplingOptions,
    precision: str,
    given: str | None = None,
) -> RunImages | None:
    """The images of a run to score where `spec` names one; None for any other input.

    Raises UsageError for options of sampling where there is no run.
    """
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    if is_run_or_weights(spec):
        request = conditions.request
        return RunImages(Path(spec), count, seed, request, sampling.sampling, precision, given)
    asked = (count, conditions, seed, sampling, given)
    if asked != (None, ConditionOptions(), 0, SamplingOptions(), None):
        raise UsageError(f"-n, --steps and the like are for sampling from a run; {spec} is none")
    return None
