"""`ddpm distill`: a student begins as its teacher, is a run like any other, and resumes exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ddpm_cli
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import compilation, teacher
from ddpm_cli.core.training.preparation import distilling
from ddpm_cli.core.training.resuming import load_snapshot
from ddpm_cli.core.training.state import TrainingState
from tests.support.cli import Result, config_of
from tests.support.students import CLASSES, as_student, begun, saved_teacher
from tests.support.training import (
    CPU,
    batches_of,
    before_each_step,
    decoded_images,
    equal_tensors,
    train_run,
)


def denoiser(state: TrainingState, config: RunConfig) -> Denoiser:
    """D of the averaged weights."""
    schedule = schedules.from_config(config.diffusion)
    return Denoiser(state.average, schedule, config.diffusion.parameterisation)


@pytest.mark.parametrize("parameterisation", ["eps", "x0", "v"])
@pytest.mark.parametrize("guidance", [(), (1.0, 4.0)])
def test_a_student_begins_as_its_teacher(
    tmp_path: Path, parameterisation: str, guidance: tuple[float, ...]
) -> None:
    """Whatever the guidance that it is told: the same D, but near x of an x0 network."""
    config = updated(CLASSES, {"diffusion": {"parameterisation": parameterisation}})
    file = saved_teacher(tmp_path / "w.safetensors", config)
    student = as_student(config, guidance=guidance)
    ours, theirs = denoiser(begun(file, student), student), weights.load(file).network
    reference = Denoiser(theirs, ours.schedule, parameterisation)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, -1, 0])
    told = Condition(labels, guidance=torch.tensor([1.0, 2.0, 3.0, 4.0]) if guidance else None)
    for sigma in (0.05, 0.8, 20.0):
        with torch.inference_mode():
            found, expected = ours(x, sigma, told), reference(x, sigma, Condition(labels))
        share = 0.01**2 / (0.01**2 + sigma**2) if parameterisation == "x0" else 0
        expected = share * x + (1 - share) * expected
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("guidance", [(), (1.0, 3.0)])
def test_a_killed_distillation_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guidance: tuple[float, ...], calls: int
) -> None:
    """In another stage than the last snapshot's, with dropout, and a teacher whose file is gone."""
    config = updated(CLASSES, {"network": {"dropout": 0.2}})
    file = saved_teacher(tmp_path / "w.safetensors", config)
    student = as_student(config, guidance=guidance, stage_images=8, calls=calls, teacher_steps=2)
    if calls:
        student = updated(student, {"optimiser": {"method": "muon"}})
    student = replace(student, origin=WeightsOrigin(str(file), sha256_of(file)))
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        if teacher.is_needed(student):
            teacher.keep(RunDirectory(tmp_path / name), student, None)
    whole = train_run(tmp_path / "whole", student, begun(file, student))
    assert whole.progress.images == 48
    assert not equal_tensors(whole.network.state_dict(), begun(file, student).network.state_dict())

    class Killed(BaseException):
        """As a kill, it writes nothing."""

    def kill(seen: int) -> None:
        if seen == 24:
            raise Killed

    state = begun(file, student)
    file.unlink()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before_each_step(patch, kill)
        train_run(tmp_path / "killed", student, state)
    again = TrainingState.initial(student, CPU.device)
    newest = max(RunDirectory(tmp_path / "killed").snapshots.glob("*.pt"))
    load_snapshot(newest, again)
    assert 0 < again.progress.images < 24
    train_run(tmp_path / "killed", student, again)
    assert equal_tensors(again.network.state_dict(), whole.network.state_dict())
    assert equal_tensors(again.average.state_dict(), whole.average.state_dict())


@pytest.mark.parametrize("calls", [0, 2])
def test_microbatches_have_the_same_gradient(tmp_path: Path, calls: int) -> None:
    """Up to the order of sums, without dropout, whose masks they draw apart."""
    file = saved_teacher(tmp_path / "w.safetensors", CLASSES)
    student = as_student(CLASSES, calls=calls)
    student = replace(student, origin=WeightsOrigin(str(file), sha256_of(file)))
    found = [
        train_run(
            tmp_path / str(size),
            replace(student, budget=replace(student.budget, images=8)),
            begun(file, student),
            execution=replace(CPU, microbatch=size),
        )
        for size in (None, 3)
    ]
    one, other = (state.network.state_dict() for state in found)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)


def test_a_batch_is_of_its_stage_and_a_validation_of_the_last() -> None:
    """By the images seen, so a resume needs to know nothing else."""
    student = as_student(CLASSES, guidance=(1.0, 3.0))
    batches = batches_of(student, decoded_images())
    drawn = [batches.draw(seen, None) for seen in (0, 16, 32, 400)]
    batches.close()
    for batch, stage in zip(drawn, (0, 1, 2, 2), strict=True):
        t, r = batch.scalars.sigma.double(), batch.scalars.r.double()  # type: ignore[union-attr]
        gap = (1 + 8 * torch.sigmoid(-t)) / 2 ** (stage + 1)
        torch.testing.assert_close(r, t * (1 - gap).clamp(min=0), rtol=1e-5, atol=1e-6)
        assert batch.condition.guidance is not None
        assert ((batch.condition.guidance >= 1) & (batch.condition.guidance <= 3)).all()
    last = next(batches.fixed(decoded_images(), decoded_images().rows[:8]))
    ratio = (last.scalars.r / last.scalars.sigma).max()  # type: ignore[union-attr]
    assert ratio == pytest.approx(7 / 8, abs=1e-3)


def test_validation_has_a_loss(tmp_path: Path) -> None:
    """Of held-out images at the last stage."""
    file = saved_teacher(tmp_path / "w.safetensors", CLASSES)
    student = updated(as_student(CLASSES), {"validate_every": 16})
    state = train_run(tmp_path / "run", student, begun(file, student), decoded_images(8, 5))
    assert state.progress.loss_heldout is not None
    rows = RunDirectory(tmp_path / "run").rows()
    assert [row["images"] for row in rows if row["loss_holdout"] is not None] == [16, 32, 48]


def test_a_student_of_calls_has_muon_and_its_teachers_parameterisation(tmp_path: Path) -> None:
    """Whatever the teacher was trained by, and its loss weighted by."""
    config = updated(
        CLASSES,
        {
            "diffusion": {"parameterisation": "x0"},
            "objective": {"weighting": "learned"},
            "optimiser": {"method": "adamw", "lr": 0.002},
        },
    )
    file = saved_teacher(tmp_path / "w.safetensors", config)
    for calls, expected in ((2, ("x0", "muon", 0.001)), (0, ("x0-skip", "adamw", 0.0005))):
        tuning = {"calls": calls}
        student = distilling.student(file, {"objective": {"consistency": tuning}}, "shapes")
        student.check()
        optimiser = student.optimiser
        parameterisation = student.diffusion.parameterisation
        assert (parameterisation, optimiser.method, optimiser.lr) == expected
        assert student.objective.weighting == "plain"


def test_compiled_passes_share_no_masks() -> None:
    """So they are refused with dropout, and not chosen, where there are two in a step."""
    student = updated(as_student(CLASSES), {"network": {"dropout": 0.1}})
    one_pass = updated(as_student(CLASSES, calls=2), {"network": {"dropout": 0.1}})
    compilation.check(one_pass, asked=True, graph=True)
    assert compilation.decide(True, one_pass, 16, torch.device("cuda")).compiled
    for asked, graph, option in ((True, False, "--compile"), (None, True, "--cuda-graph")):
        with pytest.raises(UsageError, match=f"{option}: .* --dropout 0"):
            compilation.check(student, asked=asked, graph=graph)
    compilation.check(as_student(CLASSES), asked=True, graph=True)
    assert not compilation.decide(None, student, 16, torch.device("cuda")).compiled


# The command.


def test_distilling_a_run(ddpm: Callable[..., Result], tiny_run: Callable[..., Path]) -> None:
    """A run like any other, said first and last, which the same command resumes."""
    run = tiny_run("runs/teacher")
    told = ddpm("distill", run, "--images", 32, "--dry-run", "--json").json()
    assert (told["out"], told["images"], told["pictures"]) == ("runs/teacher-distilled", 32, 24)
    assert told["preset_because"] == "settings of runs/teacher, for distillation"
    first = ddpm("distill", run, "--images", 32)
    assert first.code == 0, first.err
    assert "Run directory: runs/teacher-distilled" in first.err
    assert "Next: ddpm sample runs/teacher-distilled\n" in first.out
    config = json.loads(Path("runs/teacher-distilled/config.json").read_text())
    assert config["objective"]["loss"] == "consistency"
    assert config["origin"]["path"] == str(run)
    assert config["optimiser"]["batch"] == 8
    document = ddpm("distill", run, "--images", 64, "--json").json()
    assert (document["resumed_at"], document["images"]) == (32, 64)
    assert list(Path("runs/teacher-distilled/samples").glob("*.png"))
    go_on = ddpm("train", "--out", "runs/teacher-distilled", "--images", 72, "--json").json()
    assert (go_on["resumed_at"], go_on["images"]) == (64, 72)


def test_python_distils_as_the_command_does(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path], photos: Path
) -> None:
    teacher = tiny_run("runs/teacher")
    options = ("--guidance", "2,4", "--images", 16, "--batch", 8, "--preview", 0)
    assert ddpm("distill", teacher, *options, "--data", photos, "--out", "runs/shell").code == 0
    settings: dict[str, Any] = {"budget": {"images": 16}, "optimiser": {"batch": 8}, "preview": 0}
    settings |= {"guidance": (2, 4), "device": "cpu"}
    ddpm_cli.distill(str(teacher), photos, out="runs/python", **settings)
    assert config_of("runs/python") == config_of("runs/shell")
    ours, theirs = (load_file(f"runs/{name}/model.safetensors") for name in ("python", "shell"))
    assert equal_tensors(ours, theirs)
    with pytest.raises(UsageError, match="no images are given"):
        ddpm_cli.distill(teacher, labels=[0, 1], out="runs/other")
    for guidance, words in (((4, 2), "LOW <= HIGH"), ([1, 2, 3], "a number, or a range")):
        with pytest.raises(UsageError, match=words):
            ddpm_cli.distill(teacher, photos, out="runs/other", guidance=guidance, device="cpu")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 64}, r"settings\.budget should hold named settings, not 64"),
        ({"objective": 1, "calls": 2}, r"settings\.objective should hold"),
        ({"objective": {"consistency": [2]}, "guidance": 2}, "consistency should hold"),
        ({"budgets": {}}, "unknown setting 'budgets'; did you mean budget"),
    ],
)
def test_settings_of_python_are_checked_before_they_are_read(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path], settings: Any, words: str
) -> None:
    """Nothing is written for what is no setting."""
    with pytest.raises(DdpmError, match=words):
        ddpm_cli.distill(tiny_run("runs/teacher"), out="runs/other", device="cpu", **settings)
    assert not Path("runs/other").exists()


def test_guidance_is_learned_and_chosen_at_sampling(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """By one network call a step; the run resumes without its teacher's folder."""
    run = tiny_run("runs/teacher")
    distilled = ("distill", run, "--guidance", "1,3", "--out", "runs/s")
    assert ddpm(*distilled, "--images", 16).code == 0
    assert ddpm("train", "--out", "runs/s", "--images", 32).code == 0
    sampled = {
        guidance: ddpm(
            *("sample", "runs/s", "-n", 2, "--guidance", guidance, "--sampler", "consistency"),
            *("--out", f"s{guidance}", "--json"),
        )
        for guidance in (1, 3, 4)
    }
    assert sampled[3].json()["nfe"] == sampled[1].json()["nfe"] == 2
    assert sampled[3].json()["guidance"] == 3
    assert sampled[4].code == 2
    assert "has learned guidance 1 to 3, not --guidance 4" in sampled[4].err
    by_teacher = ("sample", "runs/s", "--weights", "teacher", "-n", 1, "--steps", 2, "--json")
    assert ddpm(*by_teacher, "--out", "t").json()["sampler"] == "ddim"  # not the student's
    shutil.rmtree(run)
    assert ddpm("train", "--out", "runs/s", "--images", 40, "--json").json()["resumed_at"] == 32


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"network": {"learned_variance": True}}, (), "--learned-variance"),
        ({"objective": {"loss": "consistency", "consistency": {}}}, (), "is a consistency model"),
        ({"optimiser": {"class_drop": 0.0}}, ("--guidance", 2), "no guidance to learn"),
        ({"data": {"source": ""}}, (), "give --data"),
        ({"data": {"source": "none/at/all"}}, (), "--data says where they are"),
        ({}, ("--guidance", "3,1"), "LOW <= HIGH"),
    ],
)
def test_what_cannot_be_distilled(
    ddpm: Callable[..., Result],
    changes: dict[str, object],
    options: tuple[object, ...],
    words: str,
) -> None:
    """Is refused in a line, and nothing is written."""
    saved_teacher(Path("w.safetensors"), updated(CLASSES, changes))
    result = ddpm("distill", "w.safetensors", "--images", 16, *options)
    assert result.code in (1, 2)
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_changed_images_are_said(
    ddpm: Callable[..., Result], train_tiny: Callable[..., Result], photos: Path
) -> None:
    """A student is of the teacher's images, unless --data names them again."""
    run = "runs/teacher"
    assert train_tiny("--out", run).code == 0
    next(photos.rglob("*.png")).unlink()
    refused = ddpm("distill", run, "--images", 8, "--out", "runs/s")
    assert refused.code == 1
    assert "are not the ones that runs/teacher was trained on: give --data" in refused.err
    assert ddpm("distill", run, "--images", 8, "--out", "runs/s", "--data", photos).code == 0


def test_a_run_of_another_teacher_is_not_resumed(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path], photos: Path
) -> None:
    """Nor one that was trained."""
    run = tiny_run("runs/teacher")
    assert ddpm("distill", run, "--images", 8, "--out", "runs/s").code == 0
    other = saved_teacher(Path("w.safetensors"), RunDirectory(run).read_config())
    refused = ddpm("distill", other, "--images", 8, "--out", "runs/s")
    assert refused.code == 1
    assert "is a student of other weights" in refused.err
    trained = ddpm("distill", run, "--images", 8, "--out", run)
    assert "holds a run that is no student" in trained.err


def test_a_student_takes_under_half_of_the_teachers_time(tmp_path: Path) -> None:
    """Where no budget is given; a forward pass is a third of a step of training."""
    file = saved_teacher(tmp_path / "w.safetensors", CLASSES, images=10_000)
    for share, passes, tuning in (
        (0.3, 3 + 8, {}),
        (0.3, 3 + 2 * 8, {"guidance": (1.0, 2.0)}),
        (0.3, 3 + 5, {"teacher_steps": 5}),
        (0.45, 4, {"calls": 0}),
        (0.45, 4 + 1, {"calls": 0, "guidance": (1.0, 1.0)}),
        (0.45, 4 + 2, {"calls": 0, "guidance": (1.0, 2.0)}),
    ):
        images = distilling.student(file, {"objective": {"consistency": tuning}}).budget.images
        assert images is not None
        assert images * passes / 3 == pytest.approx(share * 10_000, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("invert", "runs/s", "photo.png"), "invert with its teacher"),
        (("interpolate", "runs/s", 1, 2), "give --steps 1"),
        (("nll", "runs/s", "-n", 2), "no bits/dim"),
        (("convert", "runs/s", "--to", "diffusers", "--out", "p"), "a consistency model"),
        (("sample", "runs/teacher", "--sampler", "consistency"), "is for models of ddpm distill"),
    ],
)
def test_what_a_consistency_model_cannot_do(
    ddpm: Callable[..., Result],
    tiny_run: Callable[..., Path],
    photos: Path,
    words: tuple[object, ...],
    message: str,
) -> None:
    """Is refused in a line that says what can."""
    run = tiny_run("runs/teacher")
    assert ddpm("distill", run, "--images", 8, "--out", "runs/s").code == 0
    shutil.copy(next(photos.rglob("*.png")), "photo.png")
    refused = ddpm(*words)
    assert refused.code in (1, 2)
    assert message in refused.err


def test_a_distilled_run_is_sampled_in_two_calls(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    """By default; another sampler is warned of, and films and scores follow."""
    run = tiny_run("runs/teacher")
    assert ddpm("distill", run, "--images", 8, "--out", "runs/s").code == 0
    document = ddpm("sample", "runs/s", "-n", 2, "--out", "a", "--json").json()
    assert (document["sampler"], document["steps"], document["nfe"]) == ("consistency", 2, 2)
    chosen = ddpm("sample", "runs/s", "-n", 2, "--sigmas", "40,2,0.5", "--out", "b", "--json")
    assert (chosen.json()["sampler"], chosen.json()["nfe"]) == ("consistency", 3)
    assert "distilled for --steps 2: expect poor images at other noise levels" in chosen.err
    one = ddpm("sample", "runs/s", "-n", 2, "--steps", 1, "--out", "one", "--json")
    assert one.json()["nfe"] == 1 and "expect poor" not in one.err  # the first of the two levels
    other = ddpm("sample", "runs/s", "-n", 2, "--sampler", "ddim", "--steps", 3, "--out", "c")
    assert other.code == 0
    assert "is a consistency model, whose output is no denoised mean" in other.err
    usual = ("sample", "runs/s", "-n", 1, "--sampler", "ddim", "--out", "d", "--json")
    assert ddpm(*usual).json()["steps"] == 50  # of two, ddim makes no image
    assert ddpm("gif", "runs/s", "-n", 2, "--seconds", 1, "--out", "f.gif").code == 0
