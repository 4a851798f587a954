"""The preset of a training that names none: by its images and its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ddpm_cli.core.config.presets import merged, preset
from ddpm_cli.core.config.run import RunConfig

_SMALL, _MEDIUM = 32, 64  # pixels: the longest sides that the presets are made for
_EPOCHS = 500  # of a training on a GPU, at most, ...
_SHORTEST = 1_000_000  # ... unless these are fewer images than it needs to learn anything
_FEW = 5_000  # images, of which networks for a GPU would make copies, as advice.py says
_AGAINST_COPIES = {"data": {"augment": 0.12}, "network": {"dropout": 0.2}}


class Choice(NamedTuple):
    """A preset, why it was chosen, in words, and settings over it."""

    preset: str
    because: str
    settings: dict[str, dict[str, Any]]

    def config(self) -> RunConfig:
        """The preset's config with the settings over it."""
        return merged(merged(RunConfig(), preset(self.preset).settings), self.settings)


@dataclass(frozen=True)
class ImageSet:
    """What a choice depends on, of the images to train on."""

    count: int
    size: tuple[int, int]  # height and width, in pixels
    channels: int
    built_in: bool = False  # the shapes, which are drawn by code

    @property
    def side(self) -> int:
        """The longer side in pixels."""
        return max(self.size)

    @property
    def in_words(self) -> str:
        """As "32x32 colour images"."""
        kind = "grey" if self.channels == 1 else "colour"
        return f"{self.size[0]}x{self.size[1]} {kind} images"


def choose(images: ImageSet, device: str) -> Choice:
    """The preset for these images on a device of that type ("cpu", "cuda" or "mps").

    On a CPU the images seen are few, whatever there are; on a GPU the network is large and sees
    them often, so that their number matters.
    """
    name = _name(images, device)
    if name == "shapes":
        return Choice(name, "for the built-in shapes", {})
    because = f"for {images.in_words} on a {'CPU' if device == 'cpu' else 'GPU'}"
    settings: dict[str, dict[str, Any]] = {}
    config = merged(RunConfig(), preset(name).settings)
    if images.side > _MEDIUM:
        patch = config.network.patch * (2 if images.side <= 2 * _MEDIUM else 4)
        settings["network"] = {"patch": patch}
        because += f", folded {patch}x{patch}"
    if name in ("cifar10-fast", "photos-64"):
        seen = max(_SHORTEST, _EPOCHS * images.count)
        settings["budget"] = {"images": min(seen, config.budget.images or seen)}
        if images.count < _FEW:
            for part, against in _AGAINST_COPIES.items():
                settings[part] = settings.get(part, {}) | against
            because += f", with augmentation and more dropout as they are only {images.count:,}"
    return Choice(name, because, settings)


def choices(images: ImageSet, device: str) -> tuple[Choice, ...]:
    """Those that a run on these images may have begun with: on this device first, or another."""
    return (choose(images, device), choose(images, "cpu"), choose(images, "cuda"))


def _name(images: ImageSet, device: str) -> str:
    if images.built_in:
        return "shapes"
    if images.side <= _SMALL and images.channels == 1:
        return "mnist"
    if images.side <= _SMALL:
        return "small" if device == "cpu" else "cifar10-fast"
    return "small-64" if device == "cpu" else "photos-64"
