"""Training that is conditioned on an image: end to end, resumed, paired, and its errors."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ddpm_cli
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.data.decoded import DecodedImages, Pairs
from ddpm_cli.core.data.given import with_settings
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.training.batches import Batches
from tests.support import ranks
from tests.support.cli import TINY, Result


def batches(data: dict[str, object], images: DecodedImages) -> Batches:
    settings = {"optimiser": {"batch": 6}, "network": {"size": [8, 8], "augmented": True}}
    config = updated(RunConfig(), settings | {"data": data})
    config = with_settings(config, None)
    if images.pairs is not None:
        config = updated(config, {"network": {"given_channels": 1}})
    denoiser = Denoiser(lambda x, *_: x, schedules.from_config(config.diffusion), "eps")
    return Batches(config, denoiser, images, torch.device("cpu"))


def some_images() -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    return DecodedImages(pixels, np.full(9, -1), np.arange(9))


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_the_given_image_is_made_of_the_image_as_it_was_augmented(augment: float) -> None:
    made = batches({"given": "grey", "augment": augment}, some_images())
    batch = made.draw(12, None)
    made.close()
    red, green, blue = batch.noised.x0.unbind(dim=1)
    assert batch.condition.given is not None
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close(batch.condition.given[:, 0], grey)


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_pairs_are_augmented_as_their_images(augment: float) -> None:
    images = some_images()
    assert isinstance(images.pixels, np.ndarray)
    order = np.array([3, 1, 4, 0, 5, 8, 2, 6, 7])
    green = images.pixels[np.argsort(order), 1:2]  # of image i at place order[i]
    others = DecodedImages(green, np.full(9, -1), np.arange(9))
    paired = DecodedImages(images.pixels, images.labels, images.rows, pairs=Pairs(others, order))
    made = batches({"given_data": "others", "augment": augment}, paired)
    batch = made.draw(0, None)
    made.close()
    assert batch.condition.given is not None and batch.noised.x0.shape == (6, 3, 8, 8)
    assert torch.equal(batch.condition.given[:, 0], batch.noised.x0[:, 1])


def test_masks_and_noise_are_functions_of_seed_and_step() -> None:
    for given in ("mask", "lowres:2"):
        one, other = (batches({"given": given}, some_images()) for _ in range(2))
        first, again, next_one = one.draw(6, None), other.draw(6, None), one.draw(12, None)
        one.close(), other.close()
        given_images = [b.condition.given for b in (first, again, next_one)]
        assert given_images[0] is not None and given_images[1] is not None
        assert torch.equal(given_images[0], given_images[1])
        assert not torch.equal(given_images[0], given_images[2])  # type: ignore[arg-type]
        if given == "lowres:2":
            deviation = first.condition.given_noise
            assert deviation is not None
            assert 0 <= float(deviation.min()) < float(deviation.max()) <= 0.2


def test_ranks_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes draw of a batch is what one draws."""
    for given in ("mask", "lowres:2"):
        shards = []
        for part in (slice(0, 6), slice(0, 3), slice(3, 6)):
            monkeypatch.setattr(distributed, "shard", lambda _, part=part: part)
            made = batches({"given": given}, some_images())
            shards.append(made.draw(6, None).condition.given)
            made.close()
        whole, *parts = (shard for shard in shards if shard is not None)
        torch.testing.assert_close(torch.cat(parts), whole)


def test_a_library_trains_on_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    parts = {name: TINY[name] for name in ("network", "diffusion", "optimiser")}
    settings = parts | {"data": {"given": "grey"}, "budget": {"images": 8}}
    config = ddpm_cli.config("small", preview=0, **settings)
    model = ddpm_cli.train(config, images, out=tmp_path / "run")
    assert model.config.network.given_channels == 1
    assert model.sample(given=images[:2], steps=1).shape == (2, 8, 8, 3)


def test_a_training_resumes_bit_for_bit_and_keeps_its_images(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_tiny("--out", whole, "--given", "lowres:2", "--holdout", 4).code == 0
    one = load_file(whole / "model.safetensors")
    shutil.copytree(whole, parts)
    (parts / "snapshots" / f"{64:012}.pt").unlink()
    resumed = train_tiny("--out", parts)  # which takes --given from the run
    assert resumed.code == 0 and "Resuming" in resumed.err
    again = load_file(parts / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    (parts / "snapshots" / f"{64:012}.pt").unlink()
    assert train_tiny("--out", parts, "--microbatch", 3).code == 0
    for name, tensor in load_file(parts / "model.safetensors").items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-3, atol=1e-5)
    preview = files.decode(next((whole / "samples").glob("*.png")).read_bytes(), "preview")
    assert preview.shape[2] > 3 * preview.shape[1]  # two pairs side by side
    refused = train_tiny("--out", whole, "--given", "grey")
    assert refused.code == 1 and "--given lowres:2 -> grey" in refused.err


def test_pairs_by_name(train_tiny: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    others = tmp_path / "outlines"
    for path in photos.rglob("*.png"):
        inverted = 255 - files.decode(path.read_bytes(), path.name)
        files.write_png(others / path.relative_to(photos), inverted[:1])
    run = tmp_path / "run"
    trained = train_tiny("--given-data", others, "--out", run, "--images", 32)
    assert trained.code == 0, trained.err
    assert load_file(run / "model.safetensors")["inputs.weight"].shape[1] == 4 * (3 + 1)
    (others / "dark" / "3.png").unlink()
    missing = train_tiny("--given-data", others, "--out", tmp_path / "other")
    assert missing.code == 1 and "dark/3.png" in missing.err and "1 of 24" in missing.err


@pytest.mark.parametrize(
    "options, words",
    [
        (("--given", "lowres:2", "--given-data", "x"), "give one"),
        (("--given", "grey", "--channels", 1), "--channels"),
        (("--given", "edges", "--given-noise", 0.1), "--given lowres"),
        (("--given", "lowres:1"), "from 2 to 64"),
    ],
)
def test_what_cannot_be_given(
    train_tiny: Callable[..., Result], options: tuple[object, ...], words: str, photos: Path
) -> None:
    options = tuple(photos if option == "x" else option for option in options)
    result = train_tiny(*options)
    assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1


def test_a_network_without_one_starts_another_with_one(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """Its new inputs have weights of 0: at first the given image changes nothing."""
    assert train_tiny("--out", tmp_path / "plain", "--images", 8).code == 0
    config = tmp_path / "plain" / "config.json"
    assert config.exists()
    result = train_tiny(
        *("--init-from", tmp_path / "plain", "--given", "grey", "--images", 8),
        *("--lr", 1e-30, "--out", tmp_path / "next"),
    )
    assert result.code == 0, result.err
    weight = load_file(tmp_path / "next" / "model.safetensors")["inputs.weight"]
    assert weight.shape[1] == 16 and float(weight[:, 12:].abs().max()) < 1e-20


def test_previews_of_two_processes_with_captions(photos: Path, tiny: Path) -> None:
    """Rank 0 alone draws them, and meets nobody meanwhile."""
    for path in photos.rglob("*.png"):
        path.with_suffix(".txt").write_text(f"a {path.parent.name} square")
    options = ("--data", photos, "--config", tiny, "--given", "grey", "--images", 16)
    command = ("train", *options, "--out", "run", "--preview", 2, "--no-compile")
    ended = ranks.run(2, "", *command)
    assert [process.code for process in ended] == [0, 0], ended[0].err
    assert len(list(Path("run/samples").iterdir())) > 0
