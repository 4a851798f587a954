"""What is left of images by each degradation, against other libraries' and written-out formulas."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ddpm_cli.core.conditioning import images as given
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.given import KINDS, Degradation
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.given import GivenRecipe, with_settings
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.models.unet import UNet


def pictures(*shape: int) -> torch.Tensor:
    """Smooth random uint8 images."""
    random = np.random.default_rng(0).uniform(0, 255, shape)
    smooth = ndimage.gaussian_filter(random, (0, 0, 1, 1))
    return torch.from_numpy(smooth.astype(np.uint8))


def left_of(images: torch.Tensor, text: str) -> torch.Tensor:
    return given.degraded(to_unit(images), Degradation.parse(text))


@pytest.mark.parametrize("size, factor", [((32, 32), 4), ((20, 28), 2), ((9, 10), 3)])
def test_low_resolution_is_pillows_bicubic(size: tuple[int, int], factor: int) -> None:
    images = pictures(3, 3, *size)
    found = to_uint8(left_of(images, f"lowres:{factor}"))
    height, width = (round(side / factor) for side in size)
    for image, ours in zip(images.numpy(), found.numpy(), strict=True):
        pillow = Image.fromarray(image.transpose(1, 2, 0)).resize((width, height), 3)
        theirs = np.asarray(pillow).transpose(2, 0, 1)
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_enlarging_is_pillows_bicubic() -> None:
    small = pictures(1, 1, 8, 8)
    ours = to_uint8(given.as_input(to_unit(small), (32, 32)))[0, 0].numpy()
    theirs = np.asarray(Image.fromarray(small[0, 0].numpy()).resize((32, 32), 3))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_grey_is_pillows_luminance() -> None:
    images = pictures(2, 3, 12, 12)
    for image, ours in zip(images.numpy(), to_uint8(left_of(images, "grey")).numpy(), strict=True):
        theirs = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
        assert np.abs(ours[0].astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("deviation", [0.7, 2.0])
def test_blur_is_scipys_gaussian(deviation: float) -> None:
    images = pictures(2, 3, 20, 24)
    unit = to_unit(images).numpy()
    theirs = ndimage.gaussian_filter(unit, (0, 0, deviation, deviation), mode="nearest")
    np.testing.assert_allclose(left_of(images, f"blur:{deviation}").numpy(), theirs, atol=1e-5)


def test_edges_are_scipys_sobel_of_the_luminance() -> None:
    images = pictures(2, 3, 16, 16)
    red, green, blue = to_unit(images).double().numpy().transpose(1, 0, 2, 3)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    slopes = [
        [ndimage.sobel(image, axis, mode="nearest") / 8 for image in luminance] for axis in (0, 1)
    ]
    theirs = 2 * np.minimum(np.hypot(*slopes), 1) - 1
    np.testing.assert_allclose(left_of(images, "edges")[:, 0].numpy(), theirs, atol=1e-5)


def boxes_by_hand(draws: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    mask = np.zeros((height, width), np.float32)
    for number, (h, w, top, left, there) in enumerate(draws):
        if number and there >= 0.5:
            continue
        tall, wide = 0.15 + 0.55 * h, 0.15 + 0.55 * w
        for row in range(height):
            for column in range(width):
                y, x = (row + 0.5) / height, (column + 0.5) / width
                inside = 0 <= y - top * (1 - tall) < tall and 0 <= x - left * (1 - wide) < wide
                mask[row, column] = max(mask[row, column], inside)
    return mask


def test_masks_are_boxes_and_hide_what_is_within() -> None:
    draws = given.box_draws(6, torch.Generator().manual_seed(0))
    masks = given.box_masks(draws.double(), (10, 14))
    for mask, numbers in zip(masks, draws.double().numpy(), strict=True):
        np.testing.assert_array_equal(mask[0].numpy(), boxes_by_hand(numbers, 10, 14))
        assert 0 < mask.mean() < 1
    images = to_unit(pictures(6, 3, 10, 14))
    left = given.degraded(images, Degradation("mask"), masks)
    assert left.shape == (6, 4, 10, 14)
    assert torch.equal(left[:, 3:], masks)
    hidden = masks.bool().expand(-1, 3, -1, -1)
    assert not left[:, :3][hidden].any()
    assert torch.equal(left[:, :3][~hidden], images[~hidden])


def test_noise_of_a_known_deviation_is_added_before_enlarging() -> None:
    small, noise = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    found = given.as_input(small, (8, 8), torch.tensor([0.1, 0.0]), noise)
    torch.testing.assert_close(found[0], torch.full((1, 8, 8), 0.1))
    assert not found[1].any()


@pytest.mark.parametrize("text", ["lowres", "lowres:1", "lowres:2.5", "blur:x", "grey:2", "sepia"])
def test_unknown_degradations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--given"):
        Degradation.parse(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_takes_as_many_channels_as_are_left(kind: str) -> None:
    text = kind + {"lowres": ":2", "blur": ":1"}.get(kind, "")
    settings = {"width": 8, "multipliers": [1], "blocks": ["res"], "size": [8, 8], "patch": 2}
    config = updated(RunConfig(), {"data": {"given": text}, "network": settings})
    config = with_settings(config, None)
    how = GivenRecipe.of(config)
    assert how is not None
    x0, parts = to_unit(pictures(2, 3, 8, 8)), how.draw(2, torch.Generator().manual_seed(0))
    noise = None if how.noisy is None else torch.zeros(2, 3, *how.noisy)
    kept, condition = how.condition(x0, Condition(), parts, noise)
    assert torch.equal(kept, x0)
    network = UNet(config.network).eval()
    assert network(x0, torch.zeros(2), condition).shape == x0.shape
    with pytest.raises(ValueError, match="given an image"):
        network(x0, torch.zeros(2))


def test_a_given_image_is_never_dropped() -> None:
    image = torch.randn(2, 1, 4, 4)
    both = Condition(torch.tensor([0, 1]), given=image).with_null()
    assert both.labels is not None and both.given is not None
    assert both.labels.tolist() == [0, 1, -1, -1]
    assert torch.equal(both.given, torch.cat([image, image]))
