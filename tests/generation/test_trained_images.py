"""Which images a run was trained on, and which of their kind it was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import trained_images
from ddpm_cli.core.runtime.reporting import SILENT


@pytest.mark.parametrize(
    ("source", "opened"),
    [("cifar10", "cifar10:test"), ("mnist:train", "mnist:test"), ("cifar10:test", ""), ("a", "")],
)
def test_of_a_data_set_by_name_the_test_split_is_held_out(
    source: str, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def open_source(name: str, *_: Any, **__: Any) -> Shapes:
        asked.append(name)
        return Shapes(10)

    config = RunConfig()
    config = replace(config, data=replace(config.data, source=source))
    monkeypatch.setattr(trained_images, "find_weights", lambda path: path)
    monkeypatch.setattr(trained_images.weights, "describe", lambda _: config)
    monkeypatch.setattr(trained_images, "open_source", open_source)
    call = lambda: trained_images.images_of_run(  # noqa: E731
        Path("run"), SILENT, training=True, held_out=True
    )
    if not opened:
        with pytest.raises(UsageError, match="was trained on all images of"):
            call()
        assert not asked  # refused before anything is read
        return
    found = call()
    assert asked == [source, opened]
    assert found.held_out is not None and found.held_out.label == opened
