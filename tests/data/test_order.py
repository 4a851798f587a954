"""The order of training images: each once an epoch, classes balanced, exact after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ddpm_cli.core.config.run import DataConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.order import BalancedOrder, BlockOrder, Order, SampleOrder, order_of
from tests.support.cli import Result
from tests.support.training import decoded_images, first_images

BLOCKS = [np.arange(start, stop) for start, stop in ((0, 7), (7, 9), (9, 30), (30, 31), (31, 44))]
LABELS = np.array([0] * 30 + [1] * 8 + [4] * 3)


def orders(seed: int) -> list[Order]:
    return [SampleOrder(44, seed), BlockOrder(BLOCKS, seed), BalancedOrder(LABELS, seed)]


@pytest.mark.parametrize("kind", range(3))
def test_any_part_of_an_order_is_that_of_the_whole(kind: int) -> None:
    whole = orders(3)[kind].indices(0, 200)
    for start, count in ((150, 50), (0, 1), (43, 2), (40, 100), (199, 1)):
        part = orders(3)[kind].indices(start, count)
        assert part.tolist() == whole[start : start + count].tolist()
    assert orders(4)[kind].indices(0, 44).tolist() != whole[:44].tolist()
    assert whole[:44].tolist() != whole[44:88].tolist()


def test_blocks_are_visited_once_an_epoch_a_few_at_a_time() -> None:
    epochs = BlockOrder(BLOCKS, 0).indices(0, 3 * 44).reshape(3, 44)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(44))] * 3
    block_of = np.repeat(np.arange(5), [len(block) for block in BLOCKS])
    for epoch in epochs:
        last = block_of[epoch[-1]]  # the fifth block, beside the window of the first four
        size = len(BLOCKS[last])
        assert set(block_of[epoch[-size:]]) == {last}
        assert set(block_of[epoch[:-size]]) == set(range(5)) - {last}
        runs = 1 + np.count_nonzero(np.diff(block_of[epoch[:-size]]))
        assert runs > 6  # the four are mixed
    assert len({tuple(block_of[epoch]) for epoch in epochs}) == 3


def test_blocks_of_a_part_of_the_images() -> None:
    """Held-out images are in none of them; a block of held-out images alone is none."""
    images = first_images(decoded_images(16), 16)
    blocks = (range(4), range(4, 8), range(8, 16))
    training = np.array([0, 3, 8, 9, 10, 15])
    images = type(images)(images.pixels, images.labels, training, blocks=blocks)
    order = order_of(DataConfig(shuffle="blocks"), 0, images)
    assert sorted(order.indices(0, 6)) == list(range(6))
    assert sorted(order.indices(6, 6)) == list(range(6))


def test_classes_are_drawn_equally_often_and_their_images_too() -> None:
    rounds = -(-len(LABELS) // 3)
    drawn = BalancedOrder(LABELS, 0).indices(0, 3 * rounds)
    in_rounds = LABELS[drawn].reshape(rounds, 3)
    assert {tuple(sorted(row)) for row in in_rounds.tolist()} == {(0, 1, 4)}
    assert len({tuple(row) for row in in_rounds.tolist()}) > 3  # their order is random
    times = Counter(drawn.tolist())
    for label in (0, 1, 4):
        of_class = [times[image] for image in np.flatnonzero(label == LABELS)]
        assert max(of_class) - min(of_class) <= 1
        assert sum(of_class) == rounds


def test_a_stream_trains_bit_for_bit_as_the_cache(
    train_tiny: Callable[..., Result], photos: Path
) -> None:
    common = ("--holdout", 4, "--images", 40, "--seed", 5)
    for name in ("disk", "ram", "none"):
        assert train_tiny("--out", name, "--cache", name, *common).code == 0
    expected = load_file("disk/model.safetensors")
    for name in ("ram", "none"):
        found = load_file(f"{name}/model.safetensors")
        assert all(found[key].equal(expected[key]) for key in expected), name


def test_a_stream_of_blocks_resumes_exactly(
    train_tiny: Callable[..., Result], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that was recorded holds, whatever --cache says of the second part."""
    prepare = FileSource.__init__

    def with_blocks(self: FileSource, *arguments: object) -> None:
        prepare(self, *arguments)  # type: ignore[arg-type]
        self.blocks = (range(5), range(5, 12), range(12, 13), range(13, 20), range(20, 24))

    monkeypatch.setattr(FileSource, "__init__", with_blocks)
    assert train_tiny("--out", "whole", "--cache", "none", "--images", 40).code == 0
    assert train_tiny("--out", "parts", "--cache", "none", "--images", 16).code == 0
    assert '"shuffle": "blocks"' in Path("parts/config.json").read_text()
    assert train_tiny("--out", "parts", "--images", 40).code == 0
    whole, parts = (load_file(f"{name}/model.safetensors") for name in ("whole", "parts"))
    assert all(whole[key].equal(parts[key]) for key in whole)
    assert train_tiny("--out", "images", "--images", 40).code == 0
    images = load_file("images/model.safetensors")
    assert not all(whole[key].equal(images[key]) for key in whole)


def test_an_unreadable_image_of_a_stream(train_tiny: Callable[..., Result], photos: Path) -> None:
    """It is named; with --skip-bad the next one is shown, with its own class."""
    (photos / "dark" / "11.png").write_bytes(b"broken")
    result = train_tiny("--out", "run", "--cache", "none")
    assert result.code == 1
    assert "dark/11.png" in result.err
    assert "--skip-bad" in result.err
    result = train_tiny("--out", "run", "--cache", "none", "--skip-bad")
    assert result.code == 0
    assert result.err.count("the next image is shown instead: dark/11.png") == 1


def test_what_is_shown_instead_is_of_the_same_part(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpm_cli.core.data import loader, sources
    from ddpm_cli.core.data.transform import Transform
    from ddpm_cli.core.runtime.reporting import SILENT

    source = sources.open_source(str(photos))
    for index in (4, 23):
        (photos / source.files.names[index]).write_bytes(b"broken")  # type: ignore[attr-defined]
    options = {"skip_bad": True, "cache": "none"}
    images = loader.prepare(source, Transform(3, (8, 8)), SILENT, **options)  # type: ignore[arg-type]
    part = type(images)(images.pixels, images.labels, np.array([2, 4, 12, 23]))
    pixels, labels = part.take(np.array([0, 1, 2, 3]))
    assert [pixels[1].equal(pixels[2]), pixels[3].equal(pixels[0])] == [True, True]
    assert labels.tolist() == [0, 1, 1, 0]  # 4 is shown as 12, and 23 as the first again
    assert part.take(np.array([3]))[1].tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shuffle", "blocks"), "photos has no blocks that are read as a whole"),
        (("--shuffle", "blocks", "--balance"), "--balance draws from all classes"),
        (("--cache", "disc"), "did you mean disk?"),
    ],
)
def test_an_order_that_the_images_do_not_have_is_refused(
    train_tiny: Callable[..., Result], options: tuple[str, ...], message: str
) -> None:
    result = train_tiny("--dry-run", *options)
    assert (result.code, message in result.err) == (2, True), result.err


def test_balance_needs_classes(train_tiny: Callable[..., Result], photos: Path) -> None:
    for image in list(photos.glob("*/*.png")):
        image.rename(photos / f"{image.parent.name}-{image.name}")
    result = train_tiny("--dry-run", "--balance")
    assert (result.code, "--balance draws classes equally often, but" in result.err) == (2, True)


def test_a_source_that_is_read_in_order_is_not_streamed(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpm_cli.core.data.readers.tree import Tree

    monkeypatch.setattr(Tree, "sequential", True)
    result = train_tiny("--dry-run", "--cache", "none")
    assert (result.code, "that are read as a whole" in result.err) == (1, True)
    assert train_tiny("--dry-run").code == 0


def test_the_next_images_are_taken_while_a_step_runs(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of a step's time that waits for images is in the metrics and the summary."""
    import threading

    from ddpm_cli.core.data.decoded import DecodedImages
    from ddpm_cli.core.runtime.run_directory import RunDirectory
    from ddpm_cli.core.training import appearance

    take, threads = DecodedImages.pixels_of, set()

    def recorded(self: DecodedImages, indices: np.ndarray) -> object:
        threads.add(threading.current_thread().name.partition("_")[0])
        return take(self, indices)

    monkeypatch.setattr(DecodedImages, "pixels_of", recorded)
    monkeypatch.setattr(appearance, "write_statistics", lambda *_: None)  # which takes them before
    result = train_tiny("--out", "run", "--log-every", 8, "--json")
    assert threads == {"prefetch"}
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
    rows = RunDirectory(Path("run")).rows()
    assert all(0 <= row["data_wait"] <= 1 for row in rows)
    assert 0 <= result.json()["data_wait"] <= 1


def test_an_error_while_images_are_taken_ahead_is_raised_by_the_step_that_needs_them(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by no other: the last step takes one batch too many."""
    decode, budget = files.decode, 24

    def fails_later(data: bytes, name: str, transform: object) -> object:
        if calls:
            raise files.UnreadableError(f"{name}: gone")
        return decode(data, name, transform)  # type: ignore[arg-type]

    from ddpm_cli.core.training import prefetch

    calls: list[int] = []
    get = prefetch.Prefetch.get

    def get_and_break(self: prefetch.Prefetch[object], seen: int) -> object:
        if seen == budget - 8:  # all that is taken after this one fails
            loaded = self._next[1].result() if self._next else None
            calls.append(seen)
            assert loaded is not None
        return get(self, seen)

    monkeypatch.setattr(files, "decode", fails_later)
    monkeypatch.setattr(prefetch.Prefetch, "get", get_and_break)
    result = train_tiny("--out", "run", "--cache", "none", "--images", budget)
    assert result.code == 0, result.err
    result = train_tiny("--out", "run", "--cache", "none", "--images", budget + 8)
    assert (result.code, ": gone" in result.err) == (1, True)
