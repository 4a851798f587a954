"""What a run or a file of weights is: its network, noise process, data, training and origin.

Nothing is unpickled, and no weights are read: of a safetensors file its header, of a snapshot its
numbers, while its tensors stay on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import classifier, post_hoc, snapshots, tensors, weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.conversion.diffusers_folder import is_diffusers
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.classifier import ClassifierConfig
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runs import foreign, summary
from ddpm_cli.core.runs.anatomy import Anatomy, anatomy
from ddpm_cli.core.runs.summary import RunSummary
from ddpm_cli.core.runtime import content
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, run_of_snapshot

RUN, WEIGHTS, SNAPSHOT, CLASSIFIER = "run", "weights", "snapshot", "classifier"


@dataclass(frozen=True)
class Stored:
    """The tensors of a file, by its header."""

    count: int
    parameters: int
    dtypes: tuple[str, ...]
    bytes: int  # of the file


@dataclass(frozen=True)
class Inspection:
    """What is known of a run or a file."""

    path: Path
    kind: str  # run, weights, snapshot, classifier, or another program's: see `foreign`
    what: str  # in words
    config: RunConfig | None = None
    network: Anatomy | None = None
    images: int | None = None  # seen in training
    stored: Stored | None = None
    summary: RunSummary | None = None  # of a run, or of the run that a snapshot is in
    starts: tuple[dict[str, Any], ...] = ()  # the provenance of each start
    progress: Mapping[str, Any] = field(default_factory=dict)  # of a snapshot
    classifier: ClassifierConfig | None = None
    mismatches: tuple[str, ...] = ()  # of the tensors and the network that the config describes
    next: str = ""  # what can be done with it, as a command
    sigma_rel: float | None = None  # of an average with a power profile
    averages: int = 0  # such ones that a run has stored

    @property
    def is_ours(self) -> bool:
        """Whether its config is of a training of ddpm, or of converted weights."""
        return self.kind in (RUN, WEIGHTS, SNAPSHOT)


def inspect(path: Path | None) -> Inspection:
    """Look at a run, a weights file, a snapshot, a classifier, or another program's weights.

    None: the newest run. Raises DdpmError, which says what a file is, for anything else.
    """
    if path is None:
        path = find_weights(None).parent
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        find_weights(path)  # raises, with the runs that there are
    if not path.is_file():
        raise DdpmError(f"{path} is no regular file")
    if content.first_bytes(path).startswith(content.ZIP) or _is_legacy(path):
        return _of_pytorch(path)
    return _of_safetensors(path)


def _is_legacy(path: Path) -> bool:
    """Whether it is a pickle, as PyTorch wrote before it wrote zip archives."""
    return content.first_bytes(path).startswith(b"\x80") and path.suffix != ".safetensors"


def _of_folder(folder: Path) -> Inspection:
    if is_diffusers(folder):
        return _foreign(folder, foreign.of_diffusers(folder))
    run = run_of_snapshot(folder)
    if run is not None and (existing := snapshots.listed(folder)):
        return _of_pytorch(existing[-1])
    if not summary.is_run(folder):
        find_weights(folder)  # raises, and says what the folder is
    return _of_run(RunDirectory(folder))


def _of_run(run: RunDirectory) -> Inspection:
    found = summary.read(run.path)
    config = found.config or run.read_config()  # raises what is wrong with it
    stored, mismatches = None, tuple[str, ...]()
    if run.weights.is_file():
        held = tensors.header(run.weights)
        stored, mismatches = _stored(run.weights, held.tensors), _mismatches(config, held.tensors)
    sample = _sample(run.path, config, swept=run.sampling.is_file())
    return Inspection(
        run.path,
        RUN,
        f"a run of ddpm train, {found.state}",
        config,
        anatomy(config.network),
        found.images,
        stored,
        found,
        tuple(summary.starts(run.path)),
        mismatches=mismatches,
        averages=len(post_hoc.stored(run)),
        next=sample if stored else f"ddpm train --out {quote(str(run.path))}",
    )


def _sample(path: Path, config: RunConfig, *, swept: bool = False) -> str:
    guided = config.guidable and not swept  # else a sweep said how
    return f"ddpm sample {quote(str(path))}{' --guidance 2' * guided}"


def _of_safetensors(path: Path) -> Inspection:
    held = tensors.header(path)  # raises, and says what the file is
    stored = _stored(path, held.tensors)
    if classifier.is_classifier(held.metadata):
        config = classifier.read_config(path, held.metadata)
        what = "a classifier of ddpm train-classifier, whose features scores are made of"
        after = f"ddpm fid REAL FAKE --features {quote(str(path))}"
        return Inspection(path, CLASSIFIER, what, stored=stored, classifier=config, next=after)
    if not weights.is_ours(held.metadata):
        return _foreign(path, foreign.of_tensors(path, held.tensors), stored)
    described = weights.read_description(path, held.metadata)
    converted = described.config.origin is not None and not described.images
    return Inspection(
        path,
        WEIGHTS,
        "weights converted from another library" if converted else "averaged weights of a run",
        described.config,
        anatomy(described.config.network),
        described.images,
        stored,
        mismatches=_mismatches(described.config, held.tensors),
        next=_sample(path, described.config),
        sigma_rel=described.sigma_rel,
    )


def _of_pytorch(path: Path) -> Inspection:
    """A snapshot, or a state dict of another program, whose tensors stay on the disk."""
    held = tensors.read_pytorch(path, memory_mapped=content.first_bytes(path)[:2] == b"PK")
    if not snapshots.is_snapshot(held):
        flat = foreign.state_dict(path, held)
        return _foreign(path, foreign.of_tensors(path, flat), _stored(path, flat))
    config = weights.describe(path)
    run, progress = run_of_snapshot(path), held.get("progress", {})
    average = tensors.with_current_names(held["average"])
    return Inspection(
        path,
        SNAPSHOT,
        "a snapshot: weights, their average, the optimiser and the progress of a training",
        config,
        anatomy(config.network),
        progress.get("images"),
        _stored(path, average),
        None if run is None else summary.read(run.path),
        () if run is None else tuple(summary.starts(run.path)),
        progress={name: value for name, value in progress.items() if _is_plain(value)},
        mismatches=_mismatches(config, average),
        next=_sample(path, config),
    )


def _foreign(path: Path, found: foreign.Foreign, stored: Stored | None = None) -> Inspection:
    config = None if found.network is None else RunConfig(network=found.network)
    network = None if found.network is None else anatomy(found.network)
    return Inspection(path, found.kind, found.what, config, network, stored=stored, next=found.next)


def _stored(path: Path, held: Mapping[str, Tensor]) -> Stored:
    dtypes = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in held.values())
    parameters = sum(tensor.numel() for tensor in held.values())
    return Stored(len(held), parameters, tuple(dtypes), path.stat().st_size)


def _mismatches(config: RunConfig, held: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Tensors that the network of the config does not have, or has in other shapes."""
    with torch.device("meta"):
        expected = build(config.network).state_dict()
    named = tensors.with_current_names(held)
    return tuple(tensors.mismatches(named, expected))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)
