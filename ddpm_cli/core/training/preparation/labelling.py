"""The settings that follow from the classes that a training learns."""

from __future__ import annotations

from typing import Any

from ddpm_cli.core.conditioning.class_names import is_number
from ddpm_cli.core.conditioning.labels import Label, label_name, label_of, most_frequent
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import listed
from ddpm_cli.core.training.preparation.captioning import EXAMPLES


def network_settings(source: Source, *, learned: bool) -> dict[str, Any]:
    """The network's settings for the classes of the images."""
    return {
        "classes": list(source.classes) if learned else [],
        "multi_label": learned and source.labels.ndim == 2,
    }


def data_settings(source: Source, captions: Captions | None, *, learned: bool) -> dict[str, Any]:
    """What the config keeps of the labels: their hash, and some to sample without a request.

    Those are the ones of the captions' examples, or the most frequent of multi-label images.
    """
    multi_label, shown = learned and source.labels.ndim == 2, list[Label]()
    if learned and captions is not None:
        shown = [label_of(source.labels[row]) for row in captions.examples(EXAMPLES)[1]]
    elif multi_label:
        shown = most_frequent(source.labels, EXAMPLES)
    names = [label_name(label, source.classes) for label in shown] if multi_label else []
    return {
        "labels": source.label_table if learned else "",
        "example_labels": [] if multi_label else shown,
        "combinations": names,
    }


def labels_in_words(config: RunConfig) -> str | None:
    """Which label each class has, where numbers as names could be taken for labels.

    Of multi-label images that an image has several, and which combination is frequent.
    """
    classes = config.network.classes
    if config.network.multi_label:
        shown = listed(config.data.combinations, 3)
        return f"an image has any number of them, such as {shown}"
    if not any(map(is_number, classes)):
        return None
    if list(classes) == [str(label) for label in range(len(classes))]:
        return f"the label of a class is its name, 0 to {len(classes) - 1}"
    named = [f"{label} is {name}" for label, name in enumerate(classes)]
    return f"label {listed(named, 12)}"
