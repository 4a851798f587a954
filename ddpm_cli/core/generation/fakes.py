"""What `ddpm fid` scores: images as they lie, and runs to sample from when their turn comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import snapshots, tensors, weights
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.generation.run_images import RunImages
from ddpm_cli.core.metrics.evaluate import Fake
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, is_run_or_weights


def named(specs: Sequence[str], reporter: Reporter, *, each_snapshot: bool) -> list[str]:
    """The inputs to score: those named or, of runs named, all weights.

    Raises UsageError for one that is named twice and, with `each_snapshot`, for any that is no run.
    """
    if each_snapshot:
        specs = [str(path) for spec in specs for path in _weights_of(spec, reporter)]
    twice = [spec for spec, times in Counter(specs).items() if times > 1]
    if twice:
        raise UsageError(f"FAKE {listed(twice)} is named more than once")
    return list(specs)


def opened_later(
    specs: Sequence[str],
    sampled: RunImages,
    skip_bad: bool,
    batch: int | None,
    device: torch.device,
) -> list[Fake]:
    """Each as a Fake; runs are sampled as `sampled`, batch images at a time (None: by memory)."""
    fakes = []
    for spec in specs:
        if is_run_or_weights(spec):
            of_run = replace(sampled, run=Path(spec))
            fakes.append(Fake(spec, partial(of_run.open, batch, device)))
        else:
            fakes.append(Fake(spec, partial(open_input, spec, skip_bad)))
    return fakes


def _weights_of(spec: str, reporter: Reporter) -> list[Path]:
    """All weights of a run: of its snapshots, the newest, and the best ones.

    Those of as many images seen are the same, and stand for each other.
    """
    run = RunDirectory(paths.expanded(spec))
    if not (run.config.is_file() and is_run_or_weights(spec)):
        raise UsageError(f"--each-snapshot scores the weights of a run, and {spec} is none")
    found: dict[int, Path] = {int(path.stem): path for path in snapshots.listed(run.snapshots)}
    unreadable = []
    for path in sorted(run.path.glob("*.safetensors"), key=lambda path: path != run.weights):
        try:
            described = weights.read_description(path, tensors.describe(path))
        except DdpmError:  # which is said when it is scored
            unreadable.append(path)
            continue
        if described.sigma_rel is not None:
            continue  # an average of ddpm ema
        images = described.images
        if images in found:
            reporter.say(f"{path} holds the weights of {found[images]}: they are scored once")
        else:
            found[images] = path
    return [*(found[images] for images in sorted(found)), *unreadable]
