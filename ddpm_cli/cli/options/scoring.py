"""Options of scores: of `fid` and `inception-score`, and of the scores during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.common import SamplingOptions
from ddpm_cli.cli.options.conditioning import ConditionOptions
from ddpm_cli.cli.options.groups import names_given

if TYPE_CHECKING:
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.metrics.inputs.images import ImageSet
    from ddpm_cli.core.runtime.reporting import Reporter

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
        help="A copy of the network's weights, .pth, .bin or .safetensors.",
        rich_help_panel=FEATURES,
        show_default="the published ones, downloaded once",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="How images are resized and scaled. Of inception: pytorch-fid (most recent papers), "
        "torch-fidelity (TensorFlow 1's resize) or clean-fid; of dinov2-l: dgm-eval (PIL), edm2 "
        "or torch-fidelity; of clip-l336: cmmd. Only equal protocols compare.",
        show_default="the network's first",
        rich_help_panel=FEATURES,
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="The network whose features are compared: inception (FID), dinov2-l (FD-DINOv2), "
        "clip-l336 (CMMD), or a classifier of ddpm train-classifier, whose scores are labelled "
        "local.",
        show_default="inception",
        rich_help_panel=FEATURES,
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        help="Images through a network at a time, or auto: on a GPU 256, and of a run to sample "
        "from what its memory allows; elsewhere 16, and 64 of a local network. Changes speed and "
        "memory only.",
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
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    how = sampled_runs([spec], count, seed, conditions, sampling, precision, given)
    return replace(how, run=Path(spec)) if is_run_or_weights(spec) else None


def sampled_runs(
    specs: Sequence[str],
    count: int | None,
    seed: int,
    conditions: ConditionOptions,
    sampling: SamplingOptions,
    precision: str,
    given: str | None = None,
) -> RunImages:
    """How those inputs are sampled that are runs, one in place of another.

    Raises UsageError for options of sampling where there is no run.
    """
    from ddpm_cli.core.errors import UsageError, listed
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    asked = (count, conditions, seed, sampling, given)
    nothing = (None, ConditionOptions(), 0, SamplingOptions(), None)
    if asked != nothing and not any(map(is_run_or_weights, specs)):
        alone = {"-n": count, "--seed": seed or None, "--given": given}
        options = {option for option, value in alone.items() if value is not None}
        options |= names_given(conditions) | names_given(sampling)
        none = "is none" if len(specs) == 1 else "are none"
        fewer = "; of other inputs all images are scored: for n of them give n files"
        fewer = "" if count is None else fewer
        raise UsageError(
            f"{listed(sorted(options))} {'is' if len(options) == 1 else 'are'} for sampling from "
            f"a run; {listed(specs)} {none}{fewer}"
        )
    request, settings = conditions.request, sampling.nested()
    return RunImages(Path(), count, seed, request, settings, precision, given)


def images_of(spec: str, name: str, reporter: Reporter, *, skip_bad: bool) -> ImageSet:
    """The images of an input. Raises UsageError, by its name, for statistics."""
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.metrics.inputs.opening import open_images
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    if is_run_or_weights(spec):
        raise UsageError(f"{name} {spec} is a run; only FAKE can be one")
    return open_images(spec, name, skip_bad, reporter)


def training_and_held_out(
    fake: str, train: str | None, held_out: str | None, reporter: Reporter, *, skip_bad: bool
) -> tuple[ImageSet, ImageSet]:
    """The images of --train and --held-out, by default those of the run that FAKE is.

    Raises UsageError where FAKE is no run and one of them is missing.
    """
    from ddpm_cli.core.errors import UsageError
    from ddpm_cli.core.generation.trained_images import images_of_run
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    missing = [
        option for option, value in (("--train", train), ("--held-out", held_out)) if not value
    ]
    if missing and not is_run_or_weights(fake):
        words = {
            "--train": "--train, the images that the model was trained on",
            "--held-out": "--held-out, images of the same kind that it was not trained on",
        }
        wanted = ", and ".join(words[option] for option in missing)
        raise UsageError(f"{fake} is no run, so give {wanted}")
    found = (
        images_of_run(
            Path(fake), reporter, training=not train, held_out=not held_out, skip_bad=skip_bad
        )
        if missing
        else (None, None)
    )
    training = images_of(train, "--train", reporter, skip_bad=skip_bad) if train else found[0]
    others = (
        images_of(held_out, "--held-out", reporter, skip_bad=skip_bad) if held_out else found[1]
    )
    assert training is not None and others is not None, "each is given or of the run"
    return training, others


def results_beside(fake: str, name: str) -> Path:
    """The default folder for results: in the run that FAKE is, or here, with its name."""
    from ddpm_cli.core.config import paths
    from ddpm_cli.core.runtime.run_directory import (
        find_weights,
        is_run_or_weights,
        run_of,
        run_of_snapshot,
    )

    path = paths.expanded(fake)
    if is_run_or_weights(fake):
        run = run_of_snapshot(path) or run_of(find_weights(path))  # or a folder of snapshots
        return run.path / name
    return Path(f"{name}-{path.stem if path.is_file() else path.resolve().name}")
