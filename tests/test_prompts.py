"""The evaluation of examples/prompts.py, on images with known contents."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform

EXAMPLE = Path(__file__).parent.parent / "examples" / "prompts.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prompts_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_real_shapes_are_recognised(example: ModuleType) -> None:
    source, correct = Shapes(300), 0
    rng = np.random.default_rng(0)
    for index in range(len(source)):
        noise = rng.normal(0, 6, (3, 32, 32))  # as in generated images
        image = np.clip(source.image(index, Transform(3, (32, 32))) + noise, 0, 255).astype(
            np.uint8
        )
        figure = source.describe(index)
        expected = (figure.size, figure.colour, figure.figure, figure.background)
        correct += example.evaluate(image) == expected
    assert correct >= 297


def test_all_figures_are_distinguished_and_a_blank_image_is_evaluated(example: ModuleType) -> None:
    blank = np.full((3, 32, 32), 128, np.uint8)
    source = Shapes(12)
    contents = [
        example.evaluate(source.image(index, Transform(3, (32, 32)))) for index in range(12)
    ]
    assert len({content.figure for content in contents}) == 6  # the figures are cycled through
    assert example.evaluate(blank).figure in source.classes  # never fails


def test_prompted_captions_are_not_in_the_training_set(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "IMAGES", 600)
    example.write_folder(tmp_path)
    lines = (tmp_path / "captions.csv").read_text().splitlines()
    captions = {line.partition(",")[2] for line in lines}
    prompts = example.prompts()
    assert (len(prompts), len(set(prompts))) == (100, 100)
    assert not captions & set(prompts)
    words = {word for caption in captions for word in caption.split()}
    assert {word for prompt in prompts for word in prompt.split()} <= words
