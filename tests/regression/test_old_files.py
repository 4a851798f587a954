"""Weights files with former parameter names are read as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from ddpm_cli.core.checkpoints import weights
from tests.regression import outcomes
from tests.support.cli import Result

# A tiny model of classes and captions, trained with augmentation, with the former parameter names.
OLD = Path(__file__).parent / "files" / "first-spelling.safetensors"
PIXELS = [  # of `ddpm sample -n 4 --steps 4 --class star --prompt "a small red star on blue"`
    "1bdbb7f066aeb1c9ed560077f2e92910",
    "a9b56aa73416a1db5ae1c869117f5786",
    "fb4214a907d0bff6805f7a18b156258e",
    "07676948692a91fc9304266571cd6aa2",
]


def test_weights_with_former_parameter_names(ddpm: Callable[..., Result]) -> None:
    with safe_open(OLD, framework="pt") as file:
        assert any(".condition." in name for name in file.keys())  # noqa: SIM118
        assert "time" in json.loads(file.metadata()["ddpm"])["config"]["network"]
    assert weights.load(OLD).config.network.embedding_dim == 8
    prompt = ("--class", "star", "--prompt", "a small red star on blue", "--guidance", 2)
    result = ddpm("sample", OLD, "-n", 4, "--steps", 4, *prompt, "--out", "out", "--device", "cpu")
    assert result.code == 0, result.err
    if outcomes.where_bits_agree() != outcomes.recorded_where():
        pytest.skip("pixels are compared where they were recorded")
    assert [outcomes.pixels(path) for path in sorted(Path("out").glob("0*.png"))] == PIXELS
