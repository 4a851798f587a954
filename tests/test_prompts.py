"""The judge of examples/prompts.py, on pictures of which it is known what they show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ddpm_cli.core.data.shapes import Shapes

EXAMPLE = Path(__file__).parent.parent / "examples" / "prompts.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prompts_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_real_shapes_are_judged_right(example: ModuleType) -> None:
    source, right = Shapes(300), 0
    rng = np.random.default_rng(0)
    for index in range(len(source)):
        noise = rng.normal(0, 6, (3, 32, 32))  # as drawn pictures are: not quite clean
        picture = np.clip(source.image(index, 3, (32, 32)) + noise, 0, 255).astype(np.uint8)
        shown = source.describe(index)
        right += example.evaluate(picture) == (shown.size, shown.colour, shown.figure, shown.ground)
    assert right >= 297


def test_another_figure_or_colour_is_not_taken_for_the_prompted_one(example: ModuleType) -> None:
    blank = np.full((3, 32, 32), 128, np.uint8)
    source = Shapes(12)
    seen = [example.evaluate(source.image(index, 3, (32, 32))) for index in range(12)]
    assert len({one.figure for one in seen}) == 6  # the figures come in turn
    assert example.evaluate(blank).figure in source.classes  # never fails, whatever is drawn


def test_training_never_sees_what_is_prompted(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "PICTURES", 600)
    example.write_folder(tmp_path)
    told = {line.partition(",")[2] for line in (tmp_path / "captions.csv").read_text().splitlines()}
    prompts = example.prompts()
    assert (len(prompts), len(set(prompts))) == (100, 100)
    assert not told & set(prompts)
    words = {word for caption in told for word in caption.split()}
    assert {word for prompt in prompts for word in prompt.split()} <= words
