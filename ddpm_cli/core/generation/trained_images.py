"""The images that a run was trained on, and others of their kind: held out, or the test split."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import loader, named
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.readers.published import PHOTOGRAPHS
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import TrainingImages
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.runtime.run_directory import find_weights


class TrainedImages(NamedTuple):
    """What a model was trained on, and images like it that it was not trained on."""

    training: ImageSet | None
    held_out: ImageSet | None


def images_of_run(
    run: Path,
    reporter: Reporter,
    *,
    training: bool,
    held_out: bool,
    skip_bad: bool = False,
    option: str = "--train",
) -> TrainedImages:
    """Open a run's training images, its held-out ones, or both, at its size; says which they are.

    Held out are those of --holdout or --holdout-data; without either, of a data set by name, its
    test split. option: what names other training images, for messages.
    Raises UsageError where a run has none, or does not record its data, and DdpmError
    where they cannot be read.
    """
    config = weights.describe(find_weights(run))
    if not config.data.source:
        options = f"{option} and --held-out" if held_out else option
        raise UsageError(f"{run} does not record its training data: give {options}")
    elsewhere = "" if config.data.holdout else _elsewhere(run, config, needed=held_out)
    if not training and elsewhere:
        return TrainedImages(None, _others(elsewhere, config, reporter, skip_bad=skip_bad))
    name, data = config.data.source, config.data
    source = open_source(name, reporter, training=True, attributes=data.attributes)
    if data.fingerprint and source.fingerprint != data.fingerprint:
        reporter.say(
            Warned(
                f"the images of {name} have changed since {run} was trained on them: they may not "
                f"be its training images; {option} names others"
            )
        )
    images = loader.prepare(source, Transform.of(config), reporter, skip_bad=skip_bad)
    inside, apart = images.split(data.holdout, config.optimiser.seed)
    names = _names(source)
    trained = TrainingImages(inside, name, names)
    if training:
        reporter.say(f"{option}: the {len(trained):,} training images of {run} ({name})")
    if not held_out:
        return TrainedImages(trained, None)
    if elsewhere:
        return TrainedImages(trained, _others(elsewhere, config, reporter, skip_bad=skip_bad))
    reporter.say(f"--held-out: the {len(apart):,} images that {run} held out of its training")
    others = TrainingImages(apart, f"{name}, held out", names)
    return TrainedImages(trained if training else None, others)


def _elsewhere(run: Path, config: RunConfig, *, needed: bool) -> str:
    """Images that the run was not trained on, as --data names them. Raises UsageError for none."""
    if config.holdout_data or not needed:
        return config.holdout_data
    name, _, split = config.data.source.partition(":")
    has_test = name in named.DATASETS or (name in PHOTOGRAPHS and PHOTOGRAPHS[name].test)
    if has_test and split in ("", "train"):
        return f"{name}:test"
    raise UsageError(
        f"{run} was trained on all images of {config.data.source}: give --held-out images of the "
        "same kind that it was not trained on, or train with --holdout"
    )


def _others(name: str, config: RunConfig, reporter: Reporter, *, skip_bad: bool) -> TrainingImages:
    source = open_source(name, reporter, attributes=config.data.attributes)
    images = loader.prepare(source, Transform.of(config), reporter, skip_bad=skip_bad)
    reporter.say(f"--held-out: the {len(images):,} images of {name}")
    return TrainingImages(images, name, _names(source))


def _names(source: Source) -> tuple[str, ...]:
    return source.files.names if isinstance(source, FileSource) else ()
