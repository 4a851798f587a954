"""Which conditions a training learns: classes, attributes, captions; and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.training.preparation import captioning, labelling
from ddpm_cli.core.training.preparation.saved_settings import SavedSettings


def to_learn(
    request: TrainingRequest,
    saved: SavedSettings,
    config: RunConfig,
    source: Source,
    options: dict[str, Any],
    *,
    learn_conditions: bool,
) -> tuple[dict[str, dict[str, Any]], Captions | None]:
    """The settings that follow from the data's classes and captions; and those captions.

    learn_conditions: whether classes, or captions beside the images, are learned by default.
    """
    network = options.get("network", {})
    templates = _templates(request, saved, config, source)
    learned = _learned(request, saved, source, templates)
    requested = request.captions
    if requested is None and templates:
        requested = True
    elif requested is None:
        requested = False if learned.captions is None and not learn_conditions else learned.captions
    captions = captioning.captions_to_learn(source, requested, templates)
    starts_from = saved.init_from if saved.run is None else None
    if captions is None and starts_from is not None and config.network.text is not None:
        raise UsageError(
            f"--init-from {starts_from}: those weights read captions, and none are learned; "
            "give --captions, or --caption to make some of class names"
        )
    conditional = _learns_classes(request, saved, source, learned)
    if conditional is None:
        conditional = learn_conditions and captions is None and bool(source.classes)
    return {
        "network": {
            **labelling.network_settings(source, learned=conditional),
            **captioning.network_settings(config.network, network, captions),
        },
        "data": {
            "attributes": list(attributes(request, saved)),
            **labelling.data_settings(source, captions, learned=conditional),
            **captioning.data_settings(captions, templates),
        },
    }, captions


def _templates(
    request: TrainingRequest, saved: SavedSettings, config: RunConfig, source: Source
) -> Sequence[str]:
    """The templates of captions made of class names. Raises UsageError with --no-captions."""
    given: Sequence[str] | None = request.settings.get("data", {}).get("templates")
    if request.captions is False and given:
        raise UsageError("--caption makes captions, and --no-captions learns none")
    if given is not None:
        return given
    of_other_images = saved.overruled_images(request) is not None
    return () if of_other_images and not source.classes else config.data.templates


def _learns_classes(
    request: TrainingRequest, saved: SavedSettings, source: Source, learned: _Learned
) -> bool | None:
    """Whether classes are to be learned; None leaves it to the data. Raises UsageError for none."""
    conditional = learned.classes if request.conditional is None else request.conditional
    if "attributes" in request.settings.get("data", {}):
        conditional = True
    if conditional and not source.classes:
        said = "--conditional" if request.conditional else f"{saved.where} has network.classes"
        why = source.why_no_classes or f"{source.name} has no class folders"
        raise UsageError(f"{said}, but {why}; --unconditional learns none")
    return conditional


class _Learned(NamedTuple):
    """Whether classes, and captions, are learned; None leaves it to the data and the preset."""

    classes: bool | None
    captions: bool | None


def _learned(
    request: TrainingRequest, saved: SavedSettings, source: Source, templates: Sequence[str]
) -> _Learned:
    """What the saved settings say; of other images those conditions that these have."""
    names, fingerprint = saved.get("network", "classes"), saved.get("data", "captions")
    classes = None if names is None else bool(names)
    captions = recorded = None if fingerprint is None else bool(fingerprint)
    if saved.overruled_images(request) is not None:
        classes = classes and bool(source.classes)
        captions = captions and bool(templates or source.captioned)
    chosen = captions if request.captions is None else request.captions
    if not classes and chosen != recorded:
        classes = None  # there were none because captions were learned, or the reverse
    return _Learned(classes, captions)


def attributes(request: TrainingRequest, saved: SavedSettings) -> Sequence[str]:
    """The attributes to learn: those requested, or the saved ones of the same images."""
    requested: Sequence[str] | None = request.settings.get("data", {}).get("attributes")
    if requested is not None and request.conditional is False:
        raise UsageError("--attributes are classes to learn, and --unconditional learns none")
    of_other_images = saved.overruled_images(request) is not None
    return requested or (() if of_other_images else saved.get("data", "attributes") or ())
