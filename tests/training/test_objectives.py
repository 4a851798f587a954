"""Schedules, parameterisations, losses and weightings: each trains and resumes, or is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, to_dict, updated
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import resuming
from ddpm_cli.core.training.state import TrainingState
from tests.support import ranks
from tests.support.cli import Result
from tests.support.training import (
    CONFIG,
    CPU,
    decoded_images,
    equal_tensors,
    first_images,
    train_run,
)

FLOW = {"schedule": "flow", "parameterisation": "flow"}
EDM = {"schedule": "edm", "parameterisation": "edm"}
LEARNED = {"learned_variance": True}
FEW = {"schedule": "cosine", "timesteps": 4, "parameterisation": "x0"}

# Names, and changes of the tiny config, which has the cosine schedule and predicts v.
CHOICES: dict[str, dict[str, Any]] = {
    "eps, l1": {"diffusion": {"parameterisation": "eps"}, "objective": {"loss": "l1"}},
    "x0, huber": {"diffusion": {"parameterisation": "x0"}, "objective": {"loss": "huber"}},
    "v, min-snr": {"objective": {"weighting": "min-snr"}},
    "v, as edm": {"objective": {"weighting": "edm"}},
    "v, learned": {"objective": {"weighting": "learned"}},
    "v, hybrid": {"network": LEARNED},
    "x0, vlb": {
        "diffusion": {"parameterisation": "x0"},
        "objective": {"weighting": "vlb"},
    },
    "edm": {"diffusion": EDM, "objective": {"noise_levels": "log-normal"}},
    "edm, quadratic, p2": {
        "diffusion": {"schedule": "quadratic", "parameterisation": "edm"},
        "objective": {"weighting": "p2"},
    },
    "flow": {"diffusion": FLOW},
    "flow, logit-normal": {"diffusion": FLOW, "objective": {"noise_levels": "logit-normal"}},
    "v, muon": {"optimiser": {"method": "muon"}},
    "vlb, fixed": {"objective": {"loss": "vlb"}},
    "importance": {"objective": {"noise_levels": "importance"}, "diffusion": FEW},
    "importance, vlb": {
        "objective": {"noise_levels": "importance", "loss": "vlb"},
        "network": LEARNED,
        "diffusion": FEW,
    },
}


def config(name: str, **more: Any) -> RunConfig:
    run_config = updated(updated(CONFIG, CHOICES[name]), more)
    run_config.check()
    return run_config


def train(folder: Path, config: RunConfig, state: TrainingState) -> list[dict[str, Any]]:
    train_run(folder, config, state, held_out=first_images(decoded_images(seed=1), 8))
    return RunDirectory(folder).rows()


@pytest.mark.parametrize("name", CHOICES)
def test_the_validation_loss_falls_and_a_resumed_run_is_equal(tmp_path: Path, name: str) -> None:
    run_config = config(
        name, budget={"images": 128}, snapshot_every=64, validate_every=8, optimiser={"lr": 2e-2}
    )
    uninterrupted = TrainingState.initial(run_config, CPU.device)
    rows = train(tmp_path / "uninterrupted", run_config, uninterrupted)
    held_out = [row["loss_holdout"] for row in rows if row["loss_holdout"] is not None]
    assert all(math.isfinite(loss) for loss in held_out)
    assert held_out[-1] < 0.97 * held_out[0]  # under the same noise both times
    resumed = TrainingState.initial(run_config, CPU.device)
    resuming.load_snapshot(tmp_path / "uninterrupted" / "snapshots" / "000000000064.pt", resumed)
    assert resumed.progress.images == 64
    train(tmp_path / "resumed", run_config, resumed)
    assert equal_tensors(uninterrupted.network.state_dict(), resumed.network.state_dict())
    assert equal_tensors(uninterrupted.average.state_dict(), resumed.average.state_dict())
    if uninterrupted.history is not None and resumed.history is not None:
        p = uninterrupted.history.probabilities()
        assert torch.equal(p, resumed.history.probabilities())
        assert p.max() > 1.01 / len(p)  # importance sampling is no longer uniform


@pytest.mark.parametrize(
    "objective", ["--timesteps 2 --noise-levels importance", "--optimiser muon"]
)
def test_objectives_are_the_same_on_two_processes(
    tiny: Path, photos: Path, train_tiny: Callable[..., Result], objective: str
) -> None:
    """Two timesteps are seen ten times each within the first three of its eight steps."""
    options = [*objective.split(), "--batch", 9, "--preview", 0]
    one = train_tiny(*options, "--out", "run1", "--json").json()
    command = ["train", "--data", photos, "--config", tiny, *options, "--out", "run2", "--json"]
    both = ranks.run(2, "", *command)
    assert [result.code for result in both] == [0, 0], both[0].err
    two = json.loads(both[0].out)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)  # sums in another order
    alone, together = (load_file(f"run{n}/model.safetensors") for n in (1, 2))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=2e-4, msg=name)


def test_configs_of_earlier_versions_have_the_same_meaning() -> None:
    document = to_dict(CONFIG)
    del document["objective"], document["network"]["learned_variance"]
    for name in ("beta_min", "beta_max", "cosine_offset", "beta_cap"):
        del document["diffusion"][name]
    assert from_dict(RunConfig, document) == CONFIG
    assert CONFIG.differences(config("v, min-snr")) == ["objective.weighting plain -> min-snr"]


def test_options_of_the_diffusion_process_set_the_config(train_tiny: Callable[..., Result]) -> None:
    def config_of(*arguments: object) -> RunConfig:
        result = train_tiny("--out", "run", "--preview", 0, "--images", 8, *arguments)
        assert result.code == 0, result.err
        run_config = RunDirectory(Path("run")).read_config()
        for path in sorted(Path("run").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        return run_config

    betas = ("--beta-min", 0.001, "--beta-max", 0.01)
    first = config_of(
        *("--schedule", "quadratic", *betas, "--timesteps", 50, "--parameterisation", "eps"),
        *("--loss", "huber", "--weighting", "p2", "--weighting-gamma", 0.5),
        *("--learned-variance", "--vlb-weight", 0.01),
    )
    diffusion, objective = first.diffusion, first.objective
    assert (diffusion.schedule, diffusion.timesteps, diffusion.parameterisation) == (
        "quadratic", 50, "eps",
    )  # fmt: skip
    assert (diffusion.beta_min, diffusion.beta_max) == (0.001, 0.01)
    assert (objective.loss, objective.weighting, objective.gamma) == ("huber", "p2", 0.5)
    assert (first.network.learned_variance, objective.vlb_weight) == (True, 0.01)
    edm = config_of("--schedule", "edm", "--noise-mean", -0.4, "--noise-std", 1)
    assert (edm.diffusion.parameterisation, edm.objective.noise_levels) == ("edm", "log-normal")
    assert edm.objective.normal == (-0.4, 1.0)
    flow = config_of("--schedule", "flow", "--noise-levels", "logit-normal")
    assert (flow.diffusion.parameterisation, flow.objective.normal) == ("flow", (0.0, 1.0))
    assert (
        config_of("--schedule", "flow", "--parameterisation", "v").diffusion.parameterisation == "v"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--vlb-weight 0.001", "needs --learned-variance"),
        ("--learned-variance --vlb-weight 0", "--vlb-weight must be more than 0"),
        ("--loss vlb --weighting p2", "takes no --weighting"),
        (
            "--loss vlb --learned-variance --vlb-weight 1",
            "takes no --weighting and no --vlb-weight",
        ),
        ("--schedule flow --loss vlb", "--schedule flow has none"),
        ("--schedule edm --learned-variance", "--schedule edm has none"),
        ("--schedule edm --weighting vlb", "--schedule edm has none"),
        ("--schedule edm --noise-levels importance", "counts timesteps"),
        ("--noise-levels log-normal", "choose --schedule edm or flow, not cosine"),
        ("--noise-levels logit-normal", "choose --schedule edm or flow, not cosine"),
        ("--noise-mean 1", "has no --noise-mean"),
        ("--noise-levels log-normal --noise-mean inf", "finite"),
        ("--weighting-gamma 3", "has no --weighting-gamma"),
        ("--weighting edm --weighting-gamma 3", "has no --weighting-gamma"),
        ("--beta-max 0.01", "not defined by them"),
        ("--schedule linear --beta-max 2", "at most 1"),
        ("--schedule linear-fixed --timesteps 4000 --beta-max 0.9", "zero terminal SNR"),
        ("--schedule cubic", "sigmoid-abar"),
        ("--parameterisation score", "eps, x0, v, edm, flow"),
        ("--loss l3", "l2, l1, huber, vlb"),
        ("--weighting snr", "plain, min-snr, p2, edm"),
        ("--noise-levels normal", "uniform, log-normal, logit-normal, importance"),
    ],
)
def test_contradicting_options_are_refused_in_one_line(
    train_tiny: Callable[..., Result], arguments: str, message: str
) -> None:
    result = train_tiny("--out", "run", *arguments.split())
    assert (result.code, message in result.err) == (2, True), result.err
    assert len(result.err.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in result.err
    assert not Path("run").exists()


def test_contradictions_are_checked_in_the_resulting_config() -> None:
    """A config file alone may hold a contradiction that other settings resolve."""
    partial = updated(CONFIG, {"objective": {"vlb_weight": 0.001}})
    with pytest.raises(UsageError, match="learned-variance"):
        partial.check()
    updated(partial, {"network": LEARNED}).check()
