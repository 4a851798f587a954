"""What the caches hold is computed again by a version that computes it differently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.data import files, loader, sources
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.reporting import Silent

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))


def test_another_decoder_decodes_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = files.decode
    monkeypatch.setattr(files, "decode", lambda *a: 255 - decode(*a))  # of an earlier version
    earlier = loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())
    monkeypatch.setattr(files, "decode", decode)
    same = loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())
    assert np.array_equal(same.pixels, earlier.pixels)  # from the cache
    monkeypatch.setattr(files, "DECODER_VERSION", 1000, raising=False)
    now = loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())
    assert np.array_equal(now.pixels, 255 - earlier.pixels)
    assert now.key != earlier.key


@pytest.mark.parametrize("real", ["folder", "data set"])
def test_another_decoder_extracts_features_again(
    ddpm: Run, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, real: str
) -> None:
    from ddpm_cli.core.data.shapes import Shapes

    monkeypatch.setattr(Shapes.__init__, "__defaults__", (8,))
    given = ("fid", photos if real == "folder" else "shapes", photos, "--features", trained)
    found = int(real == "folder")  # FAKE, which is REAL
    assert ddpm(*given).err.count("is in the cache") == found
    assert ddpm(*given).err.count("is in the cache") == 2
    monkeypatch.setattr(files, "DECODER_VERSION", 1000, raising=False)
    assert ddpm(*given).err.count("is in the cache") == found


def test_another_layout_of_hidden_states_encodes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def write(*arguments: Any) -> None:
        encoded.append(len(arguments[1]))
        for path, array in zip(arguments[4:], (np.zeros((2, 4), np.float16), [1, 2]), strict=True):
            with path.open("wb") as file:
                np.save(file, array)

    monkeypatch.setattr(tokens, "_write_hidden_states", write)

    def tokenise() -> None:
        config = TextConfig("encoder", width=4, fingerprint="of its weights")
        tokens.tokenise(config, ["one", "other"], torch.device("cpu"), Silent())

    tokenise()
    tokenise()
    assert encoded == [2]
    monkeypatch.setattr(tokens, "_LAYOUT", 1000, raising=False)
    tokenise()
    assert encoded == [2, 2]


def test_arrays_that_differ_in_one_pixel_do_not_share_features() -> None:
    images = np.zeros((200, 8, 8, 3), np.uint8)
    first = loader.prepare(ArraySource(images), Transform(3, (8, 8)), Silent())
    images[1, 4, 4, 1] = 1  # not among the images that the fingerprint samples
    second = loader.prepare(ArraySource(images), Transform(3, (8, 8)), Silent())
    assert first.key != second.key
