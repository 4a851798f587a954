"""The settings of a student: what `ddpm distill` makes of a trained diffusion model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints.weights import Weights
from ddpm_cli.core.config.consistency import PLAIN, ConsistencyConfig
from ddpm_cli.core.config.diffusion import CONSISTENCY
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, updated
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.run_directory import (
    RunDirectory,
    find_weights,
    run_of,
    runs_folder,
)

_CALLS = 2  # of a sample
_STAGES = 5  # r ends at t less 1/32 to 5/32 of it, which suits the thousand steps of a short tuning
_HUBER_C = 0.03  # of steps: a difference of four grey levels of 256, below which the loss is square
_SHARE, _SHARE_TUNING = 0.3, 0.45  # of the teacher's time that a student takes without a budget


def with_student(request: TrainingRequest) -> TrainingRequest:
    """A request with a teacher, with the directory of the student: by default the teacher's name.

    A student that is there resumes also where its teacher is not there any more. Raises DdpmError
    where the directory holds a run of another teacher, or no student.
    """
    if request.teacher is None:
        return request
    file, missing = None, None
    try:
        file = find_weights(request.teacher)
    except DdpmError as error:
        missing = error
    out = request.out or runs_folder() / f"{_name(file or request.teacher)}-distilled"
    if RunDirectory(out).config.is_file():
        _check_student(RunDirectory(out), request.teacher, file)
    elif missing is not None:
        raise missing
    return replace(request, out=out)


def _name(teacher: Path) -> str:
    """Of a weights file its run's, where it is in one; of a run, which may be gone, its own."""
    run = run_of(teacher)
    in_run = teacher.is_file() and run.config.is_file()
    return run.path.resolve().name if in_run else teacher.stem


def _check_student(out: RunDirectory, teacher: Path, file: Path | None) -> None:
    """Raise DdpmError for a run that is no student of this teacher, whose weights are this file."""
    config = out.read_config()
    if config.objective.consistency is None or config.origin is None:
        raise DdpmError(f"{out.path} holds a run that is no student; give another --out")
    origin = config.origin
    if origin.path != str(teacher) if file is None else origin.sha256 != sha256_of(file):
        now = "are not there" if file is None else "it was not distilled from"
        raise DdpmError(
            f"{out.path} is a student of other weights ({origin.path}) than those of {teacher}, "
            f"which {now}; go on with it by ddpm train --out {quote(str(out.path))}, or give "
            "another --out"
        )


def student(teacher: Path, settings: dict[str, Any], data: str | None = None) -> RunConfig:
    """The settings that a student begins with, before a file and options replace any.

    settings: those of file and options, of which calls, guidance and budget decide others. data:
    the images that are named. Raises DdpmError for a teacher that cannot be distilled.
    """
    loaded = weights.load(find_weights(teacher))
    config, chosen = loaded.config, settings.get("objective", {}).get("consistency") or {}
    learned = from_dict(ConsistencyConfig, {"calls": _CALLS} | chosen, "objective.consistency")
    _check_used(learned)
    check_teacher(teacher, config, guided=learned.guidance not in ((), PLAIN))
    if data is None and not config.data.source:
        raise UsageError(f"{teacher} does not record its training data: give --data")
    images = settings.get("budget", {}).get("images")
    if images is None:  # stages are of images also where the budget is of time
        images = _default_images(teacher, loaded, learned)
    halflife = config.optimiser.ema_halflife
    if loaded.images:  # as long a part of the student's training as of the teacher's
        halflife = max(1, min(halflife, round(halflife * images / loaded.images)))
    return updated(
        config,
        {
            "data": {"augment": 0.0},
            "network": {"augmented": False, "guidance": bool(learned.guidance)},
            "diffusion": {"parameterisation": student_parameterisation(config, learned)},
            "objective": {
                "loss": CONSISTENCY,
                # ECT's (t^2 + s^2) / (t s)^2 is 1 / c_out^2 of EDM; of x0-skip that is about 1.
                "weighting": "plain",
                "weighting_gamma": None,
                "weighting_k": 1.0,
                **noise_levels(learned),
                "consistency": {
                    "calls": learned.calls,
                    **_stages(learned, images, chosen.get("stages", _STAGES)),
                    "huber_c": _HUBER_C if learned.calls else 0.0,
                    "guidance": list(learned.guidance),
                },
            },
            "optimiser": {
                **_optimiser(config, learned),
                "warmup": images // 20,
                "ema_halflife": halflife,
            },
            "budget": {"images": images, "steps": None, "epochs": None, "minutes": None},
            # Of losses that fall with every stage, and of a training several times as long.
            "patience": 0,
            "stop_at_gap": None,
            "ema_every": None,
            "origin": None,
        },
    )


def noise_levels(learned: ConsistencyConfig) -> dict[str, Any]:
    """The distribution of the noise levels of training: of few, each is as frequent."""
    if learned.calls:
        return {"noise_levels": "uniform", "noise_mean": None, "noise_std": None}
    return {"noise_levels": "log-normal", "noise_mean": -1.1, "noise_std": 2.0}


def _stages(learned: ConsistencyConfig, images: int, stages: int) -> dict[str, int]:
    """Of consistency tuning, stages of equally many images."""
    return {} if learned.calls else {"stages": stages, "stage_images": max(1, images // stages)}


def _check_used(learned: ConsistencyConfig) -> None:
    """Raise UsageError for settings of the other way to learn, which would do nothing."""
    usual, needed = ConsistencyConfig(), "--calls 0" if learned.calls else "--calls above 0"
    for name in sorted(learned.unused):
        if getattr(learned, name) != getattr(usual, name):
            raise UsageError(f"objective.consistency.{name} has no effect here: it needs {needed}")


def _optimiser(config: RunConfig, learned: ConsistencyConfig) -> dict[str, Any]:
    """Of steps, of which few hundred are enough, Muon; of consistency tuning the teacher's."""
    lr = config.optimiser.lr
    return {"method": "muon", "lr": lr / 2} if learned.calls else {"lr": lr / 4}


def student_parameterisation(config: RunConfig, learned: ConsistencyConfig) -> str:
    """The teacher's, or for consistency tuning the one like it of which D(x, 0) = x."""
    own = config.diffusion.parameterisation
    return "x0-skip" if own == "x0" and not learned.calls else own


def check_teacher(path: Path, config: RunConfig, *, guided: bool) -> None:
    """Raise DdpmError for a model that cannot be distilled, so or at all."""
    if config.objective.consistency is not None:
        raise DdpmError(
            f"{path} is a consistency model, which samples in few steps already; distil the "
            "diffusion model that it comes from"
        )
    if config.network.learned_variance:
        raise DdpmError(
            f"{path} was trained with --learned-variance, and a consistency model has no variance: "
            "train a teacher without"
        )
    if guided and not config.guidable:
        raise DdpmError(
            f"--guidance: {path} was trained without classes and captions, or with --class-drop 0, "
            "so there is no guidance to learn; leave it out"
        )


def step_cost(learned: ConsistencyConfig) -> float:
    """Of a step in steps of training, a third of which is its forward pass.

    Another such pass is the student's at the lower level, each of the teacher's without guidance is
    one, and with guidance two.
    """
    passes = learned.teacher_steps if learned.calls else 1 if learned.with_teacher else 0
    own = 3 if learned.calls else 4
    return (own + passes * (1 if learned.plain_teacher else 2)) / 3


def _default_images(teacher: Path, loaded: Weights, learned: ConsistencyConfig) -> int:
    """Images of a student where no budget is given, by the share of the teacher's time."""
    if not loaded.images:
        raise UsageError(f"{teacher} does not say how many images it has seen: give --images")
    share = _SHARE if learned.calls else _SHARE_TUNING
    return max(1, round(share * loaded.images / step_cost(learned)))
