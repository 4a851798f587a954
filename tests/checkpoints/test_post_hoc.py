"""Averages rebuilt from stored ones, against those tracked in the same tiny training."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import post_hoc, profiles, tensors, weights
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.run_directory import RunDirectory

BATCH, IMAGES = 10, 16_000
Trajectory = Callable[[int], Tensor]


def train(path: Path, theta: Trajectory, every: int) -> dict[float, Tensor]:
    """Store averages of a trajectory of weights, as a training does; and track others beside."""
    run = RunDirectory(path)
    averages = {length: theta(0) for length in (*post_hoc.TRACKED, 0.03, 0.15, 0.2)}
    for images in range(BATCH, IMAGES + BATCH, BATCH):
        for length, average in averages.items():
            average.lerp_(theta(images), 1 - profiles.decay(Profile(images, length), BATCH))
        for length in post_hoc.TRACKED if images % every == 0 else ():
            file = post_hoc.path_of(run, Profile(images, length))
            weights.save(file, {"w": averages[length].float()}, RunConfig(), images, None, length)
    return averages


def random_walk() -> Trajectory:
    steps = torch.randn(IMAGES // BATCH + 1, 50, generator=torch.Generator().manual_seed(0))
    walk = steps.double().cumsum(0)
    return lambda images: walk[images // BATCH].clone()


def constant(images: int) -> Tensor:
    return torch.tensor([3.0, -2e-3, 1e4], dtype=torch.float64)


def linear(images: int) -> Tensor:
    return torch.tensor([images / IMAGES, 1 - images / IMAGES], dtype=torch.float64)


def differences(run: Path, exact: dict[float, Tensor], lengths: Sequence[float]) -> list[float]:
    return [
        float((post_hoc.rebuilt(RunDirectory(run), length).tensors["w"] - exact[length]).norm())
        for length in lengths
    ]


def test_rebuilt_averages_approach_the_tracked_ones(tmp_path: Path) -> None:
    """The error falls with the number of stored ones: by 2 and more where that doubles."""
    theta, lengths, found = random_walk(), (0.03, 0.15, 0.2), []
    for count in (8, 16, 32):
        exact = train(tmp_path / str(count), theta, IMAGES // count)
        found.append(differences(tmp_path / str(count), exact, lengths))
    for by_count in zip(*found, strict=True):
        assert all(fewer > 1.5 * more for fewer, more in pairwise(by_count))
    distance = float((exact[0.15] - exact[0.2]).norm())  # what there is to be found
    assert max(found[-1][1:]) < 0.01 * distance


def test_weights_that_do_not_change_are_rebuilt_exactly(tmp_path: Path) -> None:
    exact = train(tmp_path, constant, IMAGES // 2)
    for length in (0.03, 0.15, 0.2):
        found = post_hoc.rebuilt(RunDirectory(tmp_path), length).tensors["w"]
        torch.testing.assert_close(found.double(), exact[length], rtol=1e-6, atol=0)


def test_a_line_has_its_mean_under_the_profile(tmp_path: Path) -> None:
    """theta = images / IMAGES has the average (gamma + 1) / (gamma + 2), to a step of 1/1600."""
    train(tmp_path, linear, IMAGES // 16)
    gamma = profiles.gamma(0.15)
    found = post_hoc.rebuilt(RunDirectory(tmp_path), 0.15).tensors["w"]
    mean = (gamma + 1) / (gamma + 2)
    assert found.tolist() == pytest.approx([mean, 1 - mean], abs=1e-3)


def test_a_stored_average_is_read_as_it_is(tmp_path: Path) -> None:
    exact, run = train(tmp_path, random_walk(), 2000), RunDirectory(tmp_path)
    found = post_hoc.rebuilt(run, 0.1)
    assert found.files == 1
    torch.testing.assert_close(found.tensors["w"], exact[0.1].float())
    assert post_hoc.rebuilt(run, 0.1, images=8000).profile == Profile(8000, 0.1)


def test_what_cannot_be_rebuilt(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(DdpmError, match="trained with --ema-every"):
        post_hoc.rebuilt(run, 0.1)
    train(tmp_path, constant, IMAGES)
    with pytest.raises(DdpmError, match=r"the 2 averages .* differ by \d+%"):
        post_hoc.rebuilt(run, 0.25)
    for images in (5, IMAGES + 1):
        with pytest.raises(DdpmError, match=f"none after {images:,}"):
            post_hoc.rebuilt(run, 0.1, images)


def test_several_lengths_are_made_of_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, random_walk(), IMAGES // 4)
    run, lengths, opened, read = RunDirectory(tmp_path), (0.07, 0.1, 0.15), [], tensors.read
    each = [post_hoc.rebuilt(run, length) for length in lengths]

    def counted(path: Path) -> tensors.TensorFile:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(tensors, "read", counted)
    for one, other in zip(post_hoc.all_rebuilt(run, lengths), each, strict=True):
        assert one[1:] == other[1:] and torch.equal(one.tensors["w"], other.tensors["w"])
    assert len(opened) == 8 == len(set(opened))


def test_files_with_former_names_of_parameters(tmp_path: Path) -> None:
    train(tmp_path, random_walk(), IMAGES // 2)
    run = RunDirectory(tmp_path)
    for path, (images, length) in post_hoc.stored(run):
        names = ("conditioning.w", "embedding.w") if images == IMAGES else ("embedding.w",) * 2
        weights.save(path, {names[length > 0.05]: torch.ones(2)}, RunConfig(), images, None, length)
    found = post_hoc.rebuilt(run, 0.15)
    assert found.tensors["embedding.w"].tolist() == pytest.approx([1, 1])
    path, former = tmp_path / "it.safetensors", {"conditioning.w": found.tensors["embedding.w"]}
    weights.save(path, former, RunConfig(), IMAGES, None, 0.15)
    assert post_hoc.holds(path, found)


def test_the_files_of_other_networks_are_named(tmp_path: Path) -> None:
    train(tmp_path, constant, IMAGES // 2)
    path = post_hoc.path_of(RunDirectory(tmp_path), Profile(IMAGES, 0.05))
    weights.save(path, {"w": torch.zeros(4)}, RunConfig(), IMAGES, None, 0.05)
    with pytest.raises(DdpmError, match=path.name):
        post_hoc.rebuilt(RunDirectory(tmp_path), 0.15)
