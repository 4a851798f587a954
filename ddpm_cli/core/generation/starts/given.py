"""The images that a model is given when it samples, for models that are conditioned on an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning import images as given_images
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.given import GivenParts, GivenRecipe
from ddpm_cli.core.data.input_images import InputImages, PathOrArrays, pixels_sha256
from ddpm_cli.core.data.masks import open_with_masks
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion.editing import Edit
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.seeds import ImageNoise

Pixels = Callable[[Sequence[int]], Tensor]
"""The indices of sampled images -> the images that they are given, (B, C', h, w) uint8."""

_CUT = 128  # the darkest grey level of a mask that is drawn anew
_WANTED = {
    "lowres": "a low-resolution image",
    "grey": "a grey image",
    "blur": "a blurred image",
    "mask": "an image and a --mask, white where it is to be drawn anew",
    "edges": "a drawing of edges, white on black",
}


@dataclass(frozen=True)
class Given:
    """The images that sampled images are conditioned on: sampled image i on number i, in turn."""

    model: Model
    pixels: Pixels
    originals: bool = False  # of which the given ones are made, as in training
    deviation: float = 0.0  # of noise in low-resolution images
    names: tuple[str, ...] = ()  # in turn
    count: int | None = None
    masks: Pixels | None = None  # (B, 1, H, W) uint8: 255 where pixels are cut out
    record: dict[str, Any] = field(default_factory=dict)  # what tells them from others

    def name(self, index: int) -> str | None:
        """The name of the image that sampled image `index` is given; None without names."""
        return self.names[index % len(self.names)] if self.names else None

    def hashes(self, index: int) -> dict[str, str]:
        """SHA-256 of the image that sampled image `index` is given, and of its mask.

        Nothing where they have no names: of a cascade's images its weights are recorded.
        """
        if not self.names:
            return {}
        found = {"given_sha256": pixels_sha256(self.pixels([index]).numpy())}
        if self.masks is not None:
            found["mask_sha256"] = pixels_sha256(self.masks([index]).numpy())
        return found

    def known(self, indices: Sequence[int], image_seeds: Sequence[int]) -> Edit | None:
        """Of a model that fills masks: the pixels outside them, which stay exactly as they are."""
        if not self._recipe.cuts:
            return None
        images, parts = self._read(indices, image_seeds)
        return None if parts.masks is None else Edit(images, mask=parts.masks)

    def add(
        self, condition: Condition, indices: Sequence[int], image_seeds: Sequence[int]
    ) -> Condition:
        """The condition of sampled images of these indices and seeds, with the images given."""
        recipe, device = self._recipe, self.model.device
        images, parts = self._read(indices, image_seeds)
        if recipe.degradation is not None and self.originals:
            images = given_images.degraded(images, recipe.degradation, parts.masks)
        elif parts.masks is not None:
            images = given_images.masked(images, parts.masks)
        deviation = noise = None
        if recipe.noisy is not None:
            deviation = torch.full((len(images),), self.deviation, device=device)
        if self.deviation:
            channels, height, width = images.shape[1:]
            shape = (channels, height, width)
            noise = ImageNoise(image_seeds, shape, device, "given noise")()
        given = given_images.as_input(images, recipe.size, deviation, noise)
        return condition._replace(given=given, given_noise=deviation)

    @property
    def _recipe(self) -> GivenRecipe:
        return recipe_of(self.model)

    def _read(
        self, indices: Sequence[int], image_seeds: Sequence[int]
    ) -> tuple[Tensor, GivenParts]:
        """The images (B, C', h, w) in [-1, 1] and their masks, on the model's device."""
        device = self.model.device
        images = to_unit(self.pixels(indices).to(device))
        if self.masks is not None:
            return images, GivenParts((self.masks(indices).to(device) >= _CUT).float())
        if not self.originals:
            return images, GivenParts()
        return images, self._recipe.draw_each(image_seeds).to(device)


@dataclass(frozen=True)
class GivenRequest:
    """Images to condition on, as a user names them."""

    images: PathOrArrays | None = None
    masks: PathOrArrays | None = None
    degrade: bool = False  # the images are originals, of which the given ones are made
    deviation: float | None = None  # of noise in them; None: none
    name: str | None = None  # of the one to use; None: all

    def resolve(self, model: Model, reporter: Reporter) -> Given | None:
        """The images for a model; None without any. Raises DdpmError or UsageError."""
        if self.images is None:
            if self.degrade or self.masks is not None or self.deviation is not None:
                raise UsageError(
                    "--degrade, --mask and --given-noise are of images: give --given, or for a "
                    "--mask --init"
                )
            return None
        images, masks = open_with_masks(self.images, self.masks, "--given", self.name, reporter)
        self._check(model)
        transform, deviation = self._transform(model), self.deviation or 0.0
        record: dict[str, Any] = {
            "given": images.path,
            "given_sha256": images.digest(transform.channels, reporter),
            "degrade": self.degrade,
            "given_noise": deviation,
        }
        if masks is not None:
            masks.check(images, around=False, least=_CUT)
            record["mask_sha256"] = masks.images.digest(1, reporter)
        return Given(
            model,
            _decoded(images, transform),
            self.degrade,
            deviation,
            images.names,
            len(images),
            None if masks is None else _decoded(masks.images, _of_masks(model), masks.pairs),
            record,
        )

    def _check(self, model: Model) -> None:
        """Raise DdpmError or UsageError for what has no meaning for a model, or is lacking."""
        recipe = recipe_of(model)
        check_deviation(model, self.deviation)
        if recipe.degradation is None and self.degrade:
            raise UsageError(
                f"--degrade: {model.path} was trained on pairs of images, which are not made"
            )
        if (self.masks is not None) != (recipe.cuts and not self.degrade):
            raise UsageError(_about_masks(model, of_mask=recipe.cuts))

    def _transform(self, model: Model) -> Transform:
        """The form of the images: that of the model's own where the given ones are made of them."""
        recipe, whole = recipe_of(model), Transform.of(model.config)
        if self.degrade or recipe.cuts:
            return whole
        degradation = recipe.degradation
        size = recipe.size if degradation is None else degradation.size(recipe.size)
        return replace(whole, channels=model.config.network.given_channels, size=size)


def _of_masks(model: Model) -> Transform:
    return replace(Transform.of(model.config), channels=1)


def _decoded(images: InputImages, transform: Transform, pairs: Sequence[int] = ()) -> Pixels:
    """Images in turn, decoded when they are asked for."""
    order = pairs or range(len(images))

    def pixels(indices: Sequence[int]) -> Tensor:
        chosen = [order[index % len(order)] for index in indices]
        return torch.from_numpy(np.stack([images.decode(row, transform) for row in chosen]))

    return pixels


def of_data(model: Model, images: DecodedImages, rows: NDArray[np.int64]) -> Given | None:
    """Given images made of a data set's of these rows, or paired with them; None where none are."""
    if not model.config.network.given_channels:
        return None
    places = np.searchsorted(images.rows, rows)

    def pixels(indices: Sequence[int]) -> Tensor:
        chosen = places[np.asarray(indices) % len(places)]
        pairs = images.pairs_of(chosen)
        return images.pixels_of(chosen) if pairs is None else pairs

    record = {"given_sha256": images.key}
    return Given(model, pixels, model.config.data.degradation is not None, record=record)


def shown(model: Model, condition: Condition) -> NDArray[np.uint8]:
    """The images that a model is given, (B, C, H, W), to be looked at beside its own."""
    channels, given = model.config.network.channels, condition.given
    assert given is not None
    images = to_uint8(given[:, :channels]).cpu().numpy()
    if images.shape[1] == channels:
        return images
    return images[:, :1].repeat(channels, axis=1)


def check_given(model: Model, given: Given | None) -> None:
    """Raise DdpmError where a model needs an image that is not given, or the reverse."""
    if given is not None:
        check_conditional(model)
    elif model.config.network.given_channels:
        raise DdpmError(f"{model.path} is conditioned on an image: give --given {wanted(model)}")


def check_none_needed(model: Model, command: str) -> None:
    """Raise DdpmError for a model conditioned on an image, which the command does not give."""
    if model.config.network.given_channels:
        raise DdpmError(
            f"{model.path} is conditioned on an image, and {command} gives it none: ddpm sample "
            "and ddpm gif do, by --given"
        )


def recipe_of(model: Model) -> GivenRecipe:
    """How the images that a model is given are made. Raises DdpmError where it is given none."""
    recipe = GivenRecipe.of(model.config)
    if recipe is None:
        raise DdpmError(
            f"{model.path} was trained without --given, so it cannot be given an image; --init "
            "begins at an image with any model"
        )
    return recipe


def check_conditional(model: Model) -> None:
    """Raise DdpmError for a model that is not conditioned on an image."""
    recipe_of(model)


def check_deviation(model: Model, deviation: float | None) -> None:
    """Raise UsageError for noise that a model does not know."""
    most = model.config.data.given_level
    if deviation is not None and not 0 <= deviation <= most:
        raise UsageError(
            f"--given-noise {deviation:g} is not between 0 and the {most:g} of {model.path}'s "
            "training"
        )


def wanted(model: Model) -> str:
    """What a model needs: "an image of …"."""
    data = model.config.data
    degradation = data.degradation
    if degradation is None:
        return f"an image such as those of {data.given_data} (--given-data)"
    height, width = degradation.size(model.config.network.size)
    text = f"IMAGE, {_WANTED[degradation.kind]} (it was trained with --given {data.given}"
    return text + (f": {height}x{width})" if degradation.kind == "lowres" else ")")


def _about_masks(model: Model, *, of_mask: bool) -> str:
    if of_mask:
        return (
            f"{model.path} fills what is cut out of an image: give --mask, white where it is to be "
            "drawn anew, or --degrade for random boxes"
        )
    return f"--mask has no meaning for {model.path}, which was not trained with --given mask"
