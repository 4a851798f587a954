"""What settings a training begins with: a run's, a named preset's, or a chosen preset's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ddpm_cli.core.config.preset_choice import Choice, ImageSet
from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.preparation.saved_settings import SavedSettings

Planned = tuple[Choice, RunConfig, Captions | None]
"""A choice, the config that it leads to, and the captions that are learned."""


def base(saved: SavedSettings, choice: Choice) -> tuple[RunConfig, bool]:
    """The config that options replace settings of: that of a run continued, or the choice's.

    And whether classes, or captions beside the images, are learned by default.
    """
    if saved.base is not None:
        return saved.over(saved.base), True
    return saved.over(choice.config()), not preset(choice.preset).unconditional


def image_set(
    request: TrainingRequest, source: Source, saved: SavedSettings | None = None
) -> ImageSet:
    """What a preset is chosen by: the images as options, a --config file or their own size say."""
    size, channels = (saved and saved.get("network", name) for name in ("size", "channels"))
    height, width = request.size or size or source.native_size
    channels = request.channels or channels or source.native_channels
    built_in = isinstance(source, Shapes)
    return ImageSet(len(source), (height, width), channels, built_in=built_in)


def as_begun(
    run: RunDirectory, possible: Sequence[Choice], planned: Callable[[Choice], Planned]
) -> Planned:
    """The plan by which a run began, perhaps on another machine.

    Where none of the possible choices makes that run, the one with the fewest differences.
    """
    recorded = run.read_config()
    plans: list[tuple[int, Planned]] = []
    for choice in possible:
        try:
            plan = planned(choice)
        except UsageError:  # options that do not fit this preset
            continue
        plans.append((len(recorded.differences(plan[1])), plan))
        if not plans[-1][0]:
            break
    if not plans:
        return planned(possible[0])  # raises
    _, (choice, config, captions) = min(plans, key=lambda each: each[0])
    if choice != possible[0]:
        choice = choice._replace(because=f"{choice.because}, with which the run began")
    return choice, config, captions
