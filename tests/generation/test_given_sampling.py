"""Sampling of models that are conditioned on an image."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ddpm_cli
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.data.given import with_settings
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation.generate import resolve_request
from ddpm_cli.core.generation.model import load_model
from ddpm_cli.core.generation.pictures.transitions import Transition
from ddpm_cli.core.generation.starts.given import GivenRequest
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.cli import TINY, Result


def model(path: Path, given: str, size: int = 8, **network: object) -> Path:
    """A weights file of a network with random weights, whose outputs are not zero."""
    config = updated(RunConfig(), TINY | {"diffusion": {"timesteps": 20}})
    config = updated(
        config, {"network": {"size": [size, size], **network}, "data": {"given": given}}
    )
    config = with_settings(config, None)
    torch.manual_seed(0)
    unet = UNet(config.network)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights.save(path, unet.state_dict(), config, 1000)
    return path


def pngs(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {
        path.name: files.decode(path.read_bytes(), path.name)
        for path in sorted(folder.glob("*.png"))
        if path.name != "grid.png"
    }


@pytest.fixture
def small_images(tmp_path: Path) -> Path:
    """Three images of 4x4."""
    random = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        pixels = random.integers(0, 256, (3, 4, 4)).astype(np.uint8)
        files.write_png(tmp_path / "small" / f"{name}.png", pixels)
    return tmp_path / "small"


def test_images_in_turn_whatever_the_batch(
    ddpm: Callable[..., Result], tmp_path: Path, small_images: Path
) -> None:
    run, found = model(tmp_path / "m.safetensors", "lowres:2"), []
    common = ("--given", small_images, "--steps", 2, "--given-noise", 0.1)
    for batch, count in ((1, ("-n", 5)), (2, ("-n", 5)), (64, ())):
        out = tmp_path / f"by-{batch}"
        assert ddpm("sample", run, *common, *count, "--batch", batch, "--out", out).code == 0
        found.append(pngs(out))
    assert len(found[0]) == 5 and len(found[2]) == 3  # as many as there are images
    for name, image in found[0].items():
        for others in found[1:]:
            if name in others:
                assert np.abs(image.astype(int) - others[name]).max() <= 1
    lines = (tmp_path / "by-1" / "manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["given"] for entry in entries] == ["a.png", "b.png", "c.png", "a.png", "b.png"]
    written = ["a.png", "b.png", "c.png", "a-2.png", "b-2.png"]
    assert [entry["file"] for entry in entries] == written
    again = ("--like", tmp_path / "by-1" / "b-2.png", "--out", tmp_path / "again")
    assert ddpm("sample", run, *again).code == 2  # the image is needed
    same = ddpm("sample", run, *again, "--given", small_images)
    assert same.code == 0 and "will be another" not in same.err
    assert np.array_equal(pngs(tmp_path / "again")["b.png"], found[0]["b-2.png"])
    (small_images / "b.png").unlink()
    files.write_png(small_images / "b.png", np.zeros((3, 4, 4), np.uint8))
    changed = ddpm("sample", run, *again, "--overwrite", "--given", small_images / "b.png")
    assert changed.code == 0 and "--given has other pixels" in changed.err
    (small_images / "b.png").unlink()
    gone = ddpm("sample", run, "--given", small_images, *again, "--overwrite")
    assert gone.code == 1 and "b.png" in gone.err
    other = ("--given", small_images / "a.png", "--steps", 2, "--out", tmp_path / "by-1")
    refused = ddpm("sample", run, *other)
    assert refused.code == 1 and "samples with other settings" in refused.err


def test_the_image_given_is_what_the_sample_depends_on(tmp_path: Path) -> None:
    loaded = ddpm_cli.load(model(tmp_path / "m.safetensors", "lowres:2"))
    random = np.random.default_rng(1)
    low = random.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    one = loaded.sample(given=low, steps=2)
    assert one.shape == (2, 8, 8, 3)
    assert not np.array_equal(one, loaded.sample(given=low[::-1], steps=2))
    # A photo of another size is resized, one in colour is not needed to be 4x4.
    large = loaded.sample(given=[random.integers(0, 256, (30, 40, 3)).astype(np.uint8)], steps=2)
    assert large.shape == (1, 8, 8, 3)
    x = torch.zeros(2, 3, 8, 8)
    assert not torch.equal(*(loaded.denoise(x, 1.0, given=images) for images in (low, low[::-1])))


def test_whole_images_are_degraded_as_in_training(tmp_path: Path) -> None:
    """Grey is made of colour either way, low resolution by Pillow or by torch."""
    whole = np.random.default_rng(2).integers(100, 150, (2, 8, 8, 3)).astype(np.uint8)
    for given in ("grey", "lowres:2"):
        loaded = ddpm_cli.load(model(tmp_path / f"{given}.safetensors", given))
        as_it_is, made = (
            loaded.sample(given=whole, degrade=made, steps=2).astype(int) for made in (False, True)
        )
        assert np.abs(as_it_is - made).max() <= 2


def test_masks(ddpm: Callable[..., Result], tmp_path: Path) -> None:
    run = model(tmp_path / "m.safetensors", "mask")
    image, mask = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    loaded = ddpm_cli.load(run)
    hidden = image.copy()
    hidden[2:5, 2:5] = 200  # which the model does not see
    found = [loaded.sample(given=given, mask=mask, steps=2) for given in (image, hidden)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], loaded.sample(given=image, mask=255 - mask, steps=2))
    assert (found[0][0][mask == 0] == 90).all() and (found[0][0][mask > 0] != 90).any()
    files.write_png(tmp_path / "image.png", image.transpose(2, 0, 1))
    refused = ddpm("sample", run, "--given", tmp_path / "image.png")
    assert refused.code == 2 and "--mask" in refused.err
    for other, words in (
        (np.zeros((8, 8), np.uint8), "is black everywhere"),
        (np.full((8, 8), 127, np.uint8), "is black everywhere"),
        (np.full((8, 16), 255, np.uint8), "has 16x8 pixels, and its image 000000.png 8x8"),
        (np.full((4, 4), 255, np.uint8), "has 4x4 pixels"),
    ):
        with pytest.raises(DdpmError, match=words):
            loaded.sample(given=image, mask=other, steps=2)
    boxes = ddpm("sample", run, "--given", tmp_path / "image.png", "--degrade", "--steps", 2)
    assert boxes.code == 0


def test_known_pixels_stay_between_two_seeds(tmp_path: Path) -> None:
    loaded = load_model(
        model(tmp_path / "m.safetensors", "mask"), torch.device("cpu"), torch.float32
    )
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    given = GivenRequest(image, mask).resolve(loaded, Silent())
    request = resolve_request(loaded, 1, 0, ConditionRequest(), Sampling(2), Silent(), given=given)
    images = Transition(loaded, request, replace(request, seed=7)).images(np.array([0, 0.5, 1]))
    frames = images[:, 0].transpose(0, 2, 3, 1)
    assert (frames[:, mask == 0] == image[mask == 0]).all()
    assert (frames[0] != frames[1]).any() and (frames[1] != frames[2]).any()


def test_a_cascade_is_the_two_models_one_after_the_other(
    ddpm: Callable[..., Result], tmp_path: Path
) -> None:
    classes = {"classes": ["cat", "dog"]}
    small = model(tmp_path / "small.safetensors", "", 4, **classes)
    big = model(tmp_path / "big.safetensors", "lowres:2", 8, **classes)
    common = ("--steps", 2, "--guidance", 2, "--seed", 7)
    at_once = ddpm("sample", big, "--cascade", small, "-n", 3, *common, "--out", tmp_path / "both")
    assert at_once.code == 0, at_once.err
    assert ddpm("sample", small, "-n", 3, *common, "--out", tmp_path / "first").code == 0
    (tmp_path / "first" / "grid.png").unlink()
    second = ("--given", tmp_path / "first", "--given-noise", 0.1, "--out", tmp_path / "second")
    assert ddpm("sample", big, "-n", 3, *common, *second).code == 0
    both, chained = pngs(tmp_path / "both"), pngs(tmp_path / "second")
    assert len(both) == 3
    for name, image in both.items():
        assert np.abs(image.astype(int) - chained[name]).max() <= 1
    like = ("--like", tmp_path / "both" / "000002.png", "--out", tmp_path / "like")
    assert ddpm("sample", big, *like).code == 0
    assert np.array_equal(pngs(tmp_path / "like")["000000.png"], both["000002.png"])
    changed = model(tmp_path / "changed.safetensors", "", 4, width=16, **classes)
    again = ddpm("sample", big, *like, "--cascade", changed, "--overwrite")
    assert again.code == 0 and "--cascade has other weights" in again.err
    other = model(tmp_path / "other.safetensors", "", 4, classes=["dog", "cat"])
    refused = ddpm("sample", big, "--cascade", other, "-n", 1)
    assert refused.code == 1 and "other classes" in refused.err
    grey = model(tmp_path / "grey.safetensors", "", 4, channels=1, **classes)
    refused = ddpm("sample", big, "--cascade", grey, "-n", 1)
    assert refused.code == 1 and "channels" in refused.err


@pytest.mark.parametrize(
    "given, options, words",
    [
        ("lowres:2", (), "give --given IMAGE, a low-resolution image"),
        ("mask", (), "--mask"),
        ("", ("--given", "IMAGE"), "trained without --given"),
        ("", ("--cascade", "RUN"), "trained without --given"),
        ("grey", ("--given", "nowhere.png"), "no such file"),
        ("grey", ("--given", "IMAGE", "--given-noise", 0.1), "between 0 and the 0"),
        ("lowres:2", ("--given", "IMAGE", "--given-noise", 0.5), "between 0 and the 0.2"),
        ("grey", ("--given", "IMAGE", "--mask", "IMAGE"), "--mask has no meaning"),
        ("grey", ("--degrade",), "give --given"),
        ("grey", ("--given", "IMAGE", "--cascade", "RUN"), "give one"),
    ],
)
def test_what_cannot_be_met_is_said(
    ddpm: Callable[..., Result],
    tmp_path: Path,
    small_images: Path,
    given: str,
    options: tuple[object, ...],
    words: str,
) -> None:
    run = model(tmp_path / "m.safetensors", given)
    named = {"IMAGE": small_images / "a.png", "RUN": run}
    options = tuple(named.get(str(option), option) for option in options)
    result = ddpm("sample", run, "--out", tmp_path / "out", *options)
    assert result.code in (1, 2) and words in result.err and "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [("interpolate", 1, 2), ("invert", "IMAGE")])
def test_commands_that_give_no_image_say_so(
    ddpm: Callable[..., Result], tmp_path: Path, small_images: Path, command: tuple[object, ...]
) -> None:
    name, *arguments = (small_images / "a.png" if word == "IMAGE" else word for word in command)
    run = model(tmp_path / "m.safetensors", "grey")
    refused = ddpm(name, run, *arguments, "--out", tmp_path / "out")
    assert refused.code == 1 and "gives it none" in refused.err


def test_likelihood_is_of_images_whose_given_one_is_known(
    ddpm: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    for given in ("mask", "lowres:2"):
        run = model(tmp_path / f"{given}.safetensors", given)
        results = [
            ddpm("nll", run, "--data", photos, "-n", 3, "--batch", batch, "--json").json()
            for batch in (1, 3)
        ]
        assert results[0]["total"] == pytest.approx(results[1]["total"], rel=1e-5)


def test_scores_take_what_is_given_from_data(
    ddpm: Callable[..., Result],
    train_tiny: Callable[..., Result],
    quick_scores: None,
    trained: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    run, local = tmp_path / "run", ("--features", trained, "--steps", 2, "--json")
    scores = ("--fid-every", 32, "--fid-n", 8, "--fid-features", trained)
    result = train_tiny("--given", "mask", "--out", run, "--images", 32, *scores)
    assert result.code == 0, result.err
    for given in ((), ("--given", photos)):
        fid = ddpm("fid", photos, run, "-n", 12, *local, "--metrics", "fid", *given)
        assert fid.code == 0 and "is given images made of" in fid.err
    refused = ddpm("convert", run, "--to", "diffusers", "--out", tmp_path / "export")
    assert refused.code == 1 and "given" in refused.err
