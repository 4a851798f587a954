"""What `ddpm train` can be told to learn: every choice trains, resumes exactly, or is refused."""

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
from ddpm_cli.core.figures import plots
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import resuming
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Trainer
from tests.support import ranks
from tests.support.cli import Result
from tests.training.test_training import CONFIG, CPU, pictures, replace_rows, same

FLOW = {"schedule": "flow", "parameterisation": "flow"}
EDM = {"schedule": "edm", "parameterisation": "edm"}
LEARNED = {"learned_variance": True}
FEW = {"schedule": "cosine", "timesteps": 4, "parameterisation": "x0"}

# A name, and what it changes in the tiny config of cosine and v.
CHOICES: dict[str, dict[str, Any]] = {
    "eps, l1": {"diffusion": {"parameterisation": "eps"}, "objective": {"loss": "l1"}},
    "x0, huber": {"diffusion": {"parameterisation": "x0"}, "objective": {"loss": "huber"}},
    "v, min-snr": {"objective": {"weighting": "min-snr"}},
    "v, as edm": {"objective": {"weighting": "edm"}},
    "v, hybrid": {"network": LEARNED},
    "x0, by the bound": {
        "diffusion": {"parameterisation": "x0"},
        "objective": {"weighting": "vlb"},
    },
    "edm": {"diffusion": EDM, "objective": {"noise_levels": "log-normal"}},
    "edm on a ddpm's levels, p2": {
        "diffusion": {"schedule": "quadratic", "parameterisation": "edm"},
        "objective": {"weighting": "p2"},
    },
    "flow": {"diffusion": FLOW},
    "flow, logit-normal": {"diffusion": FLOW, "objective": {"noise_levels": "logit-normal"}},
    "vlb, fixed": {"objective": {"loss": "vlb"}},
    "importance": {"objective": {"noise_levels": "importance"}, "diffusion": FEW},
    "importance, vlb": {
        "objective": {"noise_levels": "importance", "loss": "vlb"},
        "network": LEARNED,
        "diffusion": FEW,
    },
}


def config(name: str, **more: Any) -> RunConfig:
    made = updated(updated(CONFIG, CHOICES[name]), more)
    made.check()
    return made


def train(folder: Path, made: RunConfig, state: TrainingState) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    held_out = replace_rows(pictures(seed=1), 8)
    Trainer(RunDirectory(folder), made, state, pictures(), held_out, CPU, Silent()).train(
        StopRequest()
    )
    return RunDirectory(folder).rows()


@pytest.mark.parametrize("name", CHOICES)
def test_the_held_out_loss_falls_and_a_resume_goes_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(plots, "loss_curve", lambda *_: None)  # most of the time of so short a run
    made = config(name, budget={"images": 128}, snapshot_every=64, optimiser={"lr": 2e-2})
    straight = TrainingState.initial(made, CPU.device)
    rows = train(tmp_path / "straight", made, straight)
    held_out = [row["loss_holdout"] for row in rows if row["loss_holdout"] is not None]
    assert all(math.isfinite(loss) for loss in held_out)
    assert held_out[-1] < 0.97 * held_out[0]  # under the same noise both times
    resumed = TrainingState.initial(made, CPU.device)
    resuming.load_snapshot(tmp_path / "straight" / "snapshots" / "000000000064.pt", resumed)
    assert resumed.progress.images == 64
    train(tmp_path / "resumed", made, resumed)
    assert same(straight.network.state_dict(), resumed.network.state_dict())
    assert same(straight.average.state_dict(), resumed.average.state_dict())
    if straight.history is not None and resumed.history is not None:
        p = straight.history.probabilities()
        assert torch.equal(p, resumed.history.probabilities())
        assert p.max() > 1.01 / len(p)  # it is warm, and no longer uniform


def test_importance_is_the_same_on_two_processes(
    tiny: Path, photos: Path, train_tiny: Callable[..., Result]
) -> None:
    """Two timesteps are seen ten times each within the first three of its eight steps."""
    options = ["--timesteps", 2, "--noise-levels", "importance", "--batch", 9, "--preview", 0]
    one = train_tiny(*options, "--out", "run1", "--json").json()
    command = ["train", "--data", photos, "--config", tiny, *options, "--out", "run2", "--json"]
    both = ranks.run(2, "", *command)
    assert [ended.code for ended in both] == [0, 0], both[0].err
    two = json.loads(both[0].out)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)  # sums in another order
    alone, together = (load_file(f"run{n}/model.safetensors") for n in (1, 2))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=2e-4, msg=name)


def test_configs_of_earlier_runs_mean_what_they_meant() -> None:
    held = to_dict(CONFIG)
    del held["objective"], held["network"]["learned_variance"]
    for name in ("beta_min", "beta_max", "cosine_offset", "beta_cap"):
        del held["diffusion"][name]
    assert from_dict(RunConfig, held) == CONFIG
    assert CONFIG.differences(config("v, min-snr")) == ["objective.weighting plain -> min-snr"]


def test_the_command_line_reaches_every_setting(train_tiny: Callable[..., Result]) -> None:
    def made(*arguments: object) -> RunConfig:
        result = train_tiny("--out", "run", "--preview", 0, "--images", 8, *arguments)
        assert result.code == 0, result.err
        held = RunDirectory(Path("run")).read_config()
        for path in sorted(Path("run").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        return held

    betas = ("--beta-min", 0.001, "--beta-max", 0.01)
    first = made("--schedule", "quadratic", *betas, "--timesteps", 50, "--parameterisation", "eps",
                 "--loss", "huber", "--weighting", "p2", "--weighting-gamma", 0.5,
                 "--learned-variance", "--vlb-weight", 0.01)  # fmt: skip
    diffusion, objective = first.diffusion, first.objective
    assert (diffusion.schedule, diffusion.timesteps, diffusion.parameterisation) == (
        "quadratic", 50, "eps",
    )  # fmt: skip
    assert (diffusion.beta_min, diffusion.beta_max) == (0.001, 0.01)
    assert (objective.loss, objective.weighting, objective.gamma) == ("huber", "p2", 0.5)
    assert (first.network.learned_variance, objective.vlb_weight) == (True, 0.01)
    edm = made("--schedule", "edm", "--noise-mean", -0.4, "--noise-std", 1)
    assert (edm.diffusion.parameterisation, edm.objective.noise_levels) == ("edm", "log-normal")
    assert edm.objective.normal == (-0.4, 1.0)
    flow = made("--schedule", "flow", "--noise-levels", "logit-normal")
    assert (flow.diffusion.parameterisation, flow.objective.normal) == ("flow", (0.0, 1.0))
    assert made("--schedule", "flow", "--parameterisation", "v").diffusion.parameterisation == "v"


@pytest.mark.parametrize(
    ("arguments", "words"),
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
        ("--noise-levels log-normal --noise-mean nan", "finite"),
        ("--weighting-gamma 3", "has no --weighting-gamma"),
        ("--weighting edm --weighting-gamma 3", "has no --weighting-gamma"),
        ("--beta-max 0.01", "curve of its own"),
        ("--schedule linear --beta-max 2", "at most 1"),
        ("--schedule linear-fixed --timesteps 4000 --beta-max 0.9", "zero terminal SNR"),
        ("--schedule cubic", "sigmoid-abar"),
        ("--parameterisation score", "eps, x0, v, edm, flow"),
        ("--loss l3", "l2, l1, huber, vlb"),
        ("--weighting snr", "plain, min-snr, p2, edm, vlb"),
        ("--noise-levels normal", "uniform, log-normal, logit-normal, importance"),
    ],
)
def test_contradictions_are_refused_in_one_line(
    train_tiny: Callable[..., Result], arguments: str, words: str
) -> None:
    result = train_tiny("--out", "run", *arguments.split())
    assert (result.code, words in result.err) == (2, True), result.err
    assert len(result.err.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in result.err
    assert not Path("run").exists()


def test_a_contradiction_is_one_of_whole_settings() -> None:
    """A file of settings may be half of one; only what results is checked."""
    half = updated(CONFIG, {"objective": {"vlb_weight": 0.001}})
    with pytest.raises(UsageError, match="learned-variance"):
        half.check()
    updated(half, {"network": LEARNED}).check()
