"""Presets: the training settings of their papers."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize(
    ("settings", "weighting"),
    [
        ({"optimiser": {"lr": 1e-4}}, ("learned", 1.0)),
        ({"diffusion": {"parameterisation": "x0"}}, ("learned", 1.0)),
        ({"network": {"learned_variance": True}}, ("plain", 1.0)),
        ({"network": {"learned_variance": True}, "objective": {"weighting": "p2"}}, ("p2", 1.0)),
        ({"diffusion": {"parameterisation": "eps"}}, ("learned", 1.0)),
        ({"diffusion": {"schedule": "edm"}}, ("learned", 1.0)),
        ({"objective": {"loss": "l1"}}, ("learned", 1.0)),
        ({"objective": {"loss": "vlb"}}, ("plain", 1.0)),
        ({"objective": {"weighting": "min-snr"}}, ("min-snr", 1.0)),
        (
            {"diffusion": {"parameterisation": "v"}, "objective": {"weighting": "p2"}},
            ("p2", 1.0),
        ),
    ],
)
def test_a_learned_weighting_is_of_every_loss_of_one_term(
    settings: dict[str, Any], weighting: tuple[str, float]
) -> None:
    objective = merged(merged(RunConfig(), PRESETS["mnist"].settings), settings).objective
    assert (objective.weighting, objective.weighting_k) == weighting


@pytest.mark.parametrize(
    ("settings", "weighting"),
    [
        ({"optimiser": {"lr": 1e-4}}, ("p2", 0.3)),
        ({"diffusion": {"parameterisation": "eps"}}, ("plain", 1.0)),
        ({"diffusion": {"schedule": "edm"}}, ("plain", 1.0)),
        ({"objective": {"loss": "l1"}}, ("plain", 1.0)),
        ({"network": {"learned_variance": True}}, ("p2", 0.3)),
    ],
)
def test_a_weighting_of_one_parameterisation_and_loss_goes_with_another(
    settings: dict[str, Any], weighting: tuple[str, float]
) -> None:
    config = merged(RunConfig(), PRESETS["mnist"].settings)
    config = merged(config, {"objective": {"weighting": "p2", "weighting_k": 0.3}})
    objective = merged(config, settings).objective
    assert (objective.weighting, objective.weighting_k) == weighting
