"""A classifier's file: its weights and, in the metadata, the config that rebuilds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ddpm_cli.core.checkpoints import tensors
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig

_KEY = "ddpm-classifier"  # of the metadata


class LoadedClassifier(NamedTuple):
    """A classifier read from its file."""

    network: Classifier  # in evaluation mode, on the CPU
    config: ClassifierConfig


def save(path: Path, network: Classifier, config: ClassifierConfig) -> None:
    """Write a classifier and its config, atomically."""
    tensors.write(path, network.state_dict(), _KEY, tensors.as_text(to_dict(config)))


def load(path: Path, option: str = "--features") -> LoadedClassifier:
    """Read a classifier. Raises DdpmError, which names the option, for any other file."""
    if path.is_dir():
        raise DdpmError(
            f"{option} {path} is a run or another folder, not a classifier; "
            "ddpm train-classifier makes one"
        )
    if not path.is_file():
        raise DdpmError(f"{option} {path}: no such file; ddpm train-classifier makes one")
    file = tensors.read(path)
    if not is_classifier(file.metadata):
        raise DdpmError(
            f"{option} {path} holds no classifier of ddpm train-classifier; "
            f"FID Inception weights go to {option.replace('features', 'weights')}"
        )
    config = read_config(path, file.metadata)
    network = Classifier(config)
    tensors.fill(network, file.tensors, path)
    return LoadedClassifier(network.eval(), config)


def is_classifier(metadata: Mapping[str, str]) -> bool:
    """Whether this is the metadata of a classifier's file."""
    return _KEY in metadata


def read_config(path: Path, metadata: Mapping[str, str]) -> ClassifierConfig:
    """The config in a classifier's metadata. Raises DdpmError where it is damaged."""
    document = tensors.document(path, metadata[_KEY])
    return from_dict(ClassifierConfig, document, f"the config in {path}")
