"""Students: settings that follow from others, their teacher's copy, kills, precision and ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.config.consistency import ConsistencyConfig
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import to_dict, updated
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.grids import of_consistency
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import resuming, teacher
from ddpm_cli.core.training.preparation import distilling, forecast, saved_settings
from ddpm_cli.core.training.preparation.planning import TrainingPlan
from ddpm_cli.core.training.trainer import Trainer
from tests.benchmarks.distillation import scored_calls
from tests.support import ranks
from tests.support.cli import Result
from tests.support.students import CLASSES, as_student, begun, saved_teacher
from tests.support.training import (
    CPU,
    NO_IMAGES,
    before_each_step,
    decoded_images,
    equal_tensors,
    train_run,
)

GUIDED = ("--guidance", "2,4", "--out", "runs/s")


class Killed(BaseException):
    """As a kill, it writes nothing."""


def of_file(folder: Path, config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """The settings of a student by a --config file."""
    weights = saved_teacher(folder / "w.safetensors", config)
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    saved = saved_settings.read(TrainingRequest(teacher=weights, config=file))
    assert saved.base is not None
    return saved.over(saved.base)


def test_a_files_settings_decide_others(tmp_path: Path) -> None:
    """As the options do: whether the network is given w, the stages' length and the warm-up."""
    config = updated(CLASSES, {"data": {"source": "shapes"}, "optimiser": {"ema_halflife": 50}})
    config = updated(config, {"patience": 3, "ema_every": 24, "stop_at_gap": 1.0})
    chosen = {"guidance": [1, 4], "stages": 4, "calls": 0}
    student = of_file(
        tmp_path, config, {"objective": {"consistency": chosen}, "budget": {"images": 1000}}
    )
    student.check()
    consistency = student.objective.consistency
    assert student.network.guidance and consistency is not None
    assert (consistency.guidance, consistency.stages) == ((1.0, 4.0), 4)
    assert (consistency.stage_images, student.optimiser.warmup) == (250, 50)
    assert (student.patience, student.ema_every, student.stop_at_gap) == (0, None, None)
    assert student.optimiser.ema_halflife == 50  # the teacher has seen 100 images
    fewer = of_file(tmp_path, config, {"budget": {"images": 20}, "patience": 2})
    assert (fewer.optimiser.ema_halflife, fewer.patience) == (10, 2)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"stages": 3, "q": 4.0}, "consistency.q has no effect here: it needs --calls 0"),
        ({"stage_images": 9, "calls": 1}, "stage_images .* needs --calls 0"),
        ({"teacher_steps": 4, "calls": 0}, "teacher_steps .* needs --calls above 0"),
    ],
)
def test_settings_of_the_other_way_to_learn_are_refused(
    tmp_path: Path, chosen: dict[str, Any], words: str
) -> None:
    """Where they are chosen, and not where a whole config.json has their defaults."""
    config = updated(CLASSES, {"data": {"source": "shapes"}})
    with pytest.raises(UsageError, match=words):
        of_file(tmp_path, config, {"objective": {"consistency": chosen}})
    usual = to_dict(ConsistencyConfig(calls=chosen.get("calls", 2)))
    student = of_file(tmp_path, config, {"objective": {"consistency": usual}})
    assert student.objective.consistency == ConsistencyConfig(**usual)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"noise_levels": "log-normal"}}, "log-normal needs --calls 0"),
        ({"objective": {"noise_levels": "importance"}}, "importance needs --calls 0"),
        ({"diffusion": {"timesteps": 1}}, "--calls 2 is more than the model's 1 timesteps"),
        (
            {
                "objective": {"consistency": {"guidance": [1.0, 1.0]}},
                "network": {"guidance": True},
            },
            "--guidance 1 .* give --calls 0",
        ),
    ],
)
def test_what_contradicts_calls_is_refused(changes: dict[str, Any], words: str) -> None:
    """Their noise levels are the only ones, and their teacher is not guided by 1."""
    student = as_student(CLASSES, calls=2)
    student.check()
    with pytest.raises(UsageError, match=words):
        updated(student, changes).check()


@pytest.mark.parametrize("guided", [False, True])
def test_guidance_that_the_network_is_not_given_is_refused(guided: bool) -> None:
    """And a network that is given some, where none is learned."""
    student = as_student(CLASSES, guidance=(1.0, 4.0) if guided else ())
    student.check()
    with pytest.raises(UsageError, match=r"network\.guidance"):
        updated(student, {"network": {"guidance": not guided}}).check()


@pytest.mark.parametrize("asked", [False, True])
def test_tuning_is_in_fp32_unless_bf16_is_asked_for(asked: bool) -> None:
    """Also by ddpm train, whose default is bf16 on a GPU, as that of a student of calls is."""
    execution = replace(CPU, precision=torch.bfloat16, precision_given=asked)

    def precision(config: RunConfig) -> torch.dtype:
        plan = TrainingPlan(None, None, config, "", Path())  # type: ignore[arg-type]
        return plan.fitted(execution).precision

    assert precision(CLASSES) == precision(as_student(CLASSES, calls=2)) == torch.bfloat16
    assert precision(as_student(CLASSES)) == (torch.bfloat16 if asked else torch.float32)


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("guidance", [(), (1.0, 3.0)])
def test_weights_have_a_gradient_under_autocast(
    tmp_path: Path, guidance: tuple[float, ...], calls: int
) -> None:
    """The passes without gradient come first: casts that autocast keeps are none of theirs."""
    file = saved_teacher(tmp_path / "w.safetensors", CLASSES)
    student = as_student(CLASSES, guidance=guidance, calls=calls)
    student = replace(student, origin=WeightsOrigin(str(file), sha256_of(file)))
    state, execution = begun(file, student), replace(CPU, precision=torch.bfloat16)
    run, images = RunDirectory(tmp_path / "run"), decoded_images()
    trainer = Trainer(run, student, state, images, NO_IMAGES, execution, SILENT)
    shard = trainer.batches.draw(400, None)  # of the last stage
    trainer.batches.close()
    trainer.step.gradient(shard)
    without = [
        name
        for name, parameter in state.network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("guided", [False, True])
def test_a_student_killed_before_its_first_snapshot_begins_again(
    ddpm: Callable[..., Result],
    tiny_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    guided: bool,
) -> None:
    """By the same command, wherever it was killed."""
    run = tiny_run("runs/teacher")
    options = ("distill", run, "--images", 8, *(GUIDED if guided else ("--calls", 0, *GUIDED[2:])))

    def kill(*_: object) -> None:
        raise Killed

    def killed() -> None:
        with pytest.raises(Killed):
            ddpm(*options)

    prepare = resuming.prepare_directory
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "prepare_directory", kill)
        killed()
        patch.setattr(resuming, "prepare_directory", lambda *a: (prepare(*a), kill()))
        killed()
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "load", kill)
        killed()
    with monkeypatch.context() as patch:
        before_each_step(patch, kill)
        killed()
    document = ddpm(*options, "--json").json()
    assert (document["resumed_at"], document["images"]) == (0, 8)
    assert RunDirectory(Path("runs/s")).teacher.is_file() == guided


def test_a_guided_student_and_its_teachers_copy(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """A dry run needs none; another run takes it over; what is missing is said, with its hash."""
    run = tiny_run("runs/teacher")
    told = ddpm("distill", run, *GUIDED, "--images", 8, "--dry-run", "--json").json()
    assert told["disk_bytes"]["teacher"] == 4 * told["parameters"] > 0
    assert told["seconds_per_step"] > 0
    assert ddpm("distill", run, *GUIDED, "--images", 8).code == 0
    student = RunDirectory(Path("runs/s"))
    origin = student.read_config().origin
    assert origin is not None
    assert sha256_of(student.teacher) == origin.sha256
    shutil.move(run, "moved")

    # Its teacher gone, the same command resumes it, and no other one takes it for its own.
    assert ddpm("distill", run, *GUIDED, "--images", 16, "--json").json()["resumed_at"] == 8
    refused = ddpm("distill", "runs/other", "--out", "runs/s", "--images", 16)
    assert refused.code == 1
    assert "go on with it by ddpm train --out runs/s" in refused.err

    other = ("train", "--resume", "runs/s", "--out", "runs/s2", "--images")
    assert ddpm(*other, 24, "--json").json()["resumed_at"] == 16
    again = RunDirectory(Path("runs/s2"))
    assert again.read_config().origin == origin
    assert again.teacher.read_bytes() == student.teacher.read_bytes()

    student.teacher.unlink()
    refused = ddpm("train", "--out", "runs/s", "--images", 24)
    assert refused.code == 1
    assert (
        f"copy them, those of {run} (sha256 {origin.sha256}), to {student.teacher}" in refused.err
    )
    shutil.move("moved", run)
    assert ddpm("train", "--out", "runs/s", "--images", 24).code == 0


def test_the_default_name_of_a_teacher_that_is_gone(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """Is still its run's, so the same command resumes."""
    run = tiny_run("runs/teacher")
    assert ddpm("distill", run, "--images", 8).code == 0
    shutil.rmtree(run)
    assert ddpm("distill", run, "--images", 16, "--json").json()["resumed_at"] == 8
    refused = ddpm("distill", "runs/none", "--images", 16)
    assert refused.code == 1
    assert "runs/none: no such run or weights file" in refused.err


def test_another_files_teacher_is_not_taken(tmp_path: Path) -> None:
    """Where the weights changed that a student began with, and there is no copy."""
    file = saved_teacher(tmp_path / "w.safetensors", CLASSES)
    student = as_student(CLASSES, guidance=(1.0, 3.0))
    student = replace(student, origin=WeightsOrigin(str(file), "0" * 64))
    with pytest.raises(DdpmError, match="the teacher's weights are missing"):
        teacher.keep(RunDirectory(tmp_path / "run"), student, None)
    assert not (tmp_path / "run").exists()


def test_the_memory_of_a_guided_teacher() -> None:
    """Its weights are on the device, too."""
    plain, guided = (
        forecast.memory(forecast.Work(as_student(CLASSES, guidance=g), 1000, CPU, 1))
        for g in ((), (1.0, 2.0))
    )
    assert guided.weights == 2 * plain.weights


def test_students_of_a_range_are_compared_and_interpolated(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """By their own sampling: two calls of the least guidance that they learned."""
    run = tiny_run("runs/teacher")
    assert ddpm("distill", run, *GUIDED, "--images", 8).code == 0
    shutil.copytree("runs/s", "runs/s2")
    call = ("runs", "compare", "runs/s", "runs/s2", "-n", 2, "--out", "pictures", "--json")
    for sampling in ddpm(*call).json()["sampling"]:
        how = sampling["sampler"], sampling["steps"], sampling["guidance"]
        assert how == ("consistency", 2, 2)
    one = ("interpolate", "runs/s", 1, 2, "--steps", 1, "-n", 2, "--out", "i.png")
    assert ddpm(*one).code == 0


def test_two_ranks_distil_as_one_does(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """Up to the order of sums, with a guided teacher that rank 0 copies."""
    run = tiny_run("runs/teacher")
    options = ("--guidance", "1,3", "--images", 16, "--preview", 0, "--json")
    one = ddpm("distill", run, *options, "--out", "one").json()
    both = ranks.run(2, "", "distill", run, *options, "--out", "two")
    assert [result.code for result in both] == [0, 0], both[0].err
    assert json.loads(both[0].out)["loss"] == pytest.approx(one["loss"], rel=1e-4)
    alone, together = (load_file(f"{name}/model.safetensors") for name in ("one", "two"))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=2e-4, msg=name)
    copies = [load_file(f"{name}/teacher.safetensors") for name in ("one", "two")]
    assert equal_tensors(*copies)


def test_a_student_of_a_snapshot_keeps_its_average(tmp_path: Path) -> None:
    """Not the optimiser's state with it: a weights file, whose D is the snapshot's."""
    trained = train_run(tmp_path / "t", updated(CLASSES, {"budget": {"images": 16}}))
    snapshot = max((tmp_path / "t/snapshots").glob("*.pt"))
    student = as_student(CLASSES, guidance=(1.0, 3.0))
    student = replace(student, origin=WeightsOrigin(str(snapshot), sha256_of(snapshot)))
    run = RunDirectory(tmp_path / "run")
    teacher.keep(run, student, None)
    loaded = teacher.load(run, student, torch.device("cpu"))
    assert loaded is not None
    assert equal_tensors(loaded.network.state_dict(), trained.average.state_dict())  # type: ignore[attr-defined]
    assert distilling.student(run.teacher, {}, "shapes").budget.images


@pytest.mark.parametrize("learned", [1, 2, 3, 4, 6])
def test_the_benchmark_scores_calls_that_are_learned(learned: int) -> None:
    """Whose noise levels are all among those of training; of consistency tuning, all."""
    schedule = schedules.from_config(DiffusionConfig())
    known = of_consistency(schedule, learned)
    for calls in range(1, 7):
        distances = np.abs(of_consistency(schedule, calls)[:, None] / known - 1).min(1)
        if calls in (1, 2, 4, learned):
            assert (calls in scored_calls(learned)) == bool((distances < 1e-9).all())
    assert scored_calls(0) == [1, 2, 4]
