"""The record of a sampled image, as another program may have made it, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.conditioning.requests import ConditionRequest, plan_conditions
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation.outputs import record

IT = {"seed": 3, "weights_sha256": "ab", **Sampling().with_default_steps(100).document()}


def png(**changed: Any) -> Path:
    """A PNG with the record of an image, in which some values are others."""
    path = Path("it.png")
    text = {record.TEXT: json.dumps(IT | changed)}
    files.write_png(path, np.zeros((3, 4, 4), np.uint8), text)
    return path


def wanted(path: Path, **settings: Any) -> record.Wanted:
    return record.again(path, None, ConditionRequest(), settings)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": "x"}, "seed should be of type int, not 'x'"),
        ({"seed": -1}, "seed should be 0 or more"),
        ({"seed": True}, "seed should be of type int"),
        ({"weights_sha256": 5}, "weights_sha256 should be of type str"),
        ({"steps": "many"}, "steps should be of type int"),
        ({"steps": -5}, "--steps"),
        ({"eta": [1]}, "eta should be of type float"),
        ({"guidance": float("nan")}, "--guidance"),
        ({"sampler": 7}, "sampler should be of type str"),
        ({"sampler": "mine"}, "--sampler 'mine' is unknown"),
        ({"guidance_interval": [1]}, "guidance_interval should hold 2 values"),
        ({"timesteps": {"a": 1}}, "timesteps should be a list"),
        ({"given": 5}, "given should be of type str"),
        ({"cascade": []}, "cascade should be of type str"),
        ({"prompt": 5}, "prompt should be of type str"),
        ({"strength": "0.5"}, "strength should be of type float"),
    ],
)
def test_a_record_of_other_types_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DdpmError) as raised:
        wanted(png(**changed))
    assert words in str(raised.value)


def test_the_settings_of_an_image_but_for_what_is_given() -> None:
    made = Sampling(timesteps=(90, 20), guidance=3.0, guidance_interval=(0.5, np.inf))
    again = wanted(png(**made.with_default_steps(100).document()))
    assert (again.seed, again.sampling) == (3, made)
    assert wanted(png(), sampler="heun").sampling == Sampling(50, sampler="heun")
    assert wanted(png(sampler="ddpm", eta=1.0, guidance=2), sampler="ddim").sampling == Sampling(
        50, guidance=2.0
    )


def test_a_class_with_a_colon_in_its_name_is_one_image_of_it() -> None:
    conditions = wanted(png(**{"class": "a:8"})).conditions
    config = updated(RunConfig(), {"network": {"classes": ["a:8", "a"]}})
    plan = plan_conditions(config, conditions, "it")
    assert (plan.labels, plan.count) == ((0,), 1)
    with pytest.raises(DdpmError, match="'a:8' is not a class"):
        plan_conditions(updated(config, {"network": {"classes": ["a", "b"]}}), conditions, "it")
