"""Presets: the training settings of their papers."""

from __future__ import annotations

import pytest

from ddpm_cli.core.config.presets import PRESETS, merged
from ddpm_cli.core.config.run import RunConfig


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("cifar10", 1.0),  # Ho et al.'s code
        ("celeba-64", 1.0),  # DDIM's code
        ("iddpm-cifar10", None),
        ("edm-cifar10", None),
        ("adm-64", None),
    ],
)
def test_gradients_are_clipped_where_the_papers_code_does(name: str, clip: float | None) -> None:
    assert merged(RunConfig(), PRESETS[name].settings).optimiser.clip == clip
