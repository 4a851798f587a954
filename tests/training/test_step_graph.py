"""Steps that are recorded and replayed: those of eager ones, bit for bit.

A recording is taken here by a function that calls the step again at each replay, on the tensors
that it was recorded with: so all but CUDA's own part runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config import run as c
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import step, step_graph
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Outcome
from ddpm_cli.core.training.step_graph import GraphedStep
from ddpm_cli.core.training.trainer import Trainer
from tests.support.students import as_student, begun, saved_teacher
from tests.support.training import (
    CONFIG,
    CPU,
    NO_IMAGES,
    Messages,
    batches_of,
    decoded_images,
    equal_tensors,
    train_run,
)

GRAPHED = replace(CPU, cuda_graph=True)
BATCH = CONFIG.optimiser.batch
# Learning rates on the device are float32: these are so in any case.
EXACT = replace(CONFIG.optimiser, lr=2**-9, warmup=4 * BATCH, decay=0.5)
NETWORK = replace(CONFIG.network, dropout=0.2)
CONFIGS = {
    "classes, dropout": replace(
        CONFIG, optimiser=EXACT, network=replace(NETWORK, classes=("dark", "light"))
    ),
    "learned variance, importance": replace(
        CONFIG,
        optimiser=EXACT,
        network=replace(NETWORK, learned_variance=True),
        diffusion=c.DiffusionConfig("cosine", 40, "eps"),
        objective=replace(CONFIG.objective, loss="vlb", noise_levels="importance"),
    ),
    "averages with power profiles": replace(CONFIG, optimiser=EXACT, ema_every=24),
    "augmented, weighted": replace(
        CONFIG,
        optimiser=EXACT,
        network=replace(NETWORK, augmented=True),
        data=c.DataConfig(augment=0.5),
        objective=replace(CONFIG.objective, weighting="min-snr"),
    ),
}


class Recordings:
    """Stands in for `capture`; counts what is replayed."""

    def __init__(self) -> None:
        self.replayed = 0

    def capture(
        self, device: torch.device, warm_up: Callable[[], object], step: Callable[[], Outcome]
    ) -> tuple[Callable[[], None], Outcome]:
        for _ in range(3):
            warm_up()
        written = Outcome(torch.zeros(BATCH), torch.zeros(()), torch.zeros(()))

        def replay() -> None:
            self.replayed += 1
            for tensor, value in zip(written, step(), strict=True):
                tensor.copy_(value)

        return replay, written


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    made = Recordings()
    monkeypatch.setattr(step_graph, "capture", made.capture)
    return made


def assert_equal(one: TrainingState, other: TrainingState) -> None:
    """The same weights, averages, and state and settings of the optimiser."""
    mine, theirs = one.state_dict(), other.state_dict()
    for part in ("network", "average"):
        assert equal_tensors(mine[part], theirs[part])
    assert mine.keys() == theirs.keys()
    for length, average in mine.get("power_averages", {}).items():
        assert equal_tensors(average, theirs["power_averages"][length])
    assert mine["optimiser"]["param_groups"] == theirs["optimiser"]["param_groups"]
    assert all(isinstance(group["lr"], float) for group in mine["optimiser"]["param_groups"])
    for index, moments in mine["optimiser"]["state"].items():
        assert equal_tensors(moments, theirs["optimiser"]["state"][index])


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_are_those_taken_one_by_one(
    name: str, tmp_path: Path, recordings: Recordings
) -> None:
    config = CONFIGS[name]
    eager = train_run(tmp_path / "eager", config)
    assert recordings.replayed == 0
    replayed = train_run(tmp_path / "replayed", config, execution=GRAPHED)
    assert recordings.replayed == replayed.progress.steps == 8
    assert_equal(eager, replayed)
    rows = [
        [(row["loss"], row["grad_norm"], row["lr"]) for row in RunDirectory(tmp_path / run).rows()]
        for run in ("eager", "replayed")
    ]
    assert rows[0] == rows[1]


def test_a_guided_student_is_recorded(tmp_path: Path, recordings: Recordings) -> None:
    """Its teacher's scalars are on the device with the others: no step reads sigma."""
    config = updated(replace(CONFIG, optimiser=EXACT), {"network": {"classes": ["dark", "light"]}})
    file = saved_teacher(tmp_path / "w.safetensors", config)
    student = as_student(config, guidance=(1.0, 3.0))
    student = replace(student, origin=c.WeightsOrigin(str(file), sha256_of(file)))
    found = [
        train_run(tmp_path / name, student, begun(file, student), execution=execution)
        for name, execution in (("eager", CPU), ("replayed", GRAPHED))
    ]
    assert recordings.replayed == found[1].progress.steps == 6
    assert_equal(*found)


def test_a_run_resumes_with_and_without_recording(tmp_path: Path, recordings: Recordings) -> None:
    config = replace(CONFIGS["classes, dropout"], optimiser=replace(EXACT, decay=0.0))
    whole = train_run(tmp_path / "whole", config)
    for first, second in ((CPU, GRAPHED), (GRAPHED, CPU)):
        begun = train_run(
            tmp_path / f"{first.cuda_graph}",
            replace(config, budget=c.Budget(images=32)),
            execution=first,
        )
        resumed = TrainingState.initial(config, CPU.device)
        resumed.load_state_dict(begun.copied_state_dict())
        train_run(tmp_path / f"{first.cuda_graph}-2", config, resumed, execution=second)
        assert_equal(whole, resumed)
    assert recordings.replayed == 8


def graphed_step(config: c.RunConfig, state: TrainingState) -> GraphedStep:
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(state.network, schedule, config.diffusion.parameterisation)
    return GraphedStep(
        config, state, state.network, denoiser, CPU.device, CPU.precision, None, SILENT
    )


def test_recording_takes_no_step(recordings: Recordings) -> None:
    config = CONFIGS["classes, dropout"]
    state = TrainingState.initial(config, CPU.device)
    before = state.copied_state_dict("network", "average")
    batches = batches_of(config, decoded_images())
    graphed_step(config, state).record(batches.draw(0, None), Messages())
    batches.close()
    for part, tensors in before.items():
        assert equal_tensors(tensors, state.state_dict()[part])
    moments = state.optimiser.state_dict()["state"]
    assert len(moments) == len(list(state.network.parameters()))
    assert all(not value.any() for of_one in moments.values() for value in of_one.values())
    assert all(parameter.grad is None for parameter in state.network.parameters())


def test_a_step_that_is_not_finite_is_skipped(
    tmp_path: Path, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, optimiser=replace(EXACT, decay=0.0))
    state = train_run(tmp_path / "run", config, execution=GRAPHED)
    before, loss = state.copied_state_dict(), step.training_loss
    monkeypatch.setattr(step, "training_loss", lambda *rest: loss(*rest) * math.nan)
    longer = replace(config, budget=c.Budget(images=64 + 3 * BATCH))
    train_run(tmp_path / "bad", longer, state, execution=GRAPHED)
    assert (state.progress.skipped, state.progress.steps, recordings.replayed) == (3, 11, 11)
    for part in ("network", "average"):
        assert equal_tensors(before[part], state.state_dict()[part])


def test_a_batch_of_another_shape_is_not_replayed(recordings: Recordings) -> None:
    state = TrainingState.initial(CONFIG, CPU.device)
    batches = batches_of(CONFIG, decoded_images())
    graphed, shard = graphed_step(CONFIG, state), batches.draw(0, None)
    batches.close()
    graphed.record(shard, Messages())
    assert len(graphed(shard.select(slice(3)), [0.5]).losses) == 3
    assert recordings.replayed == 0
    outcome = graphed(shard, [0.5])
    kept: Tensor = outcome.losses.clone()
    graphed(shard, [0.5])
    assert recordings.replayed == 2
    assert torch.equal(outcome.losses, kept)  # which the next replay does not overwrite


def test_where_a_step_cannot_be_recorded_training_says_so_and_goes_on(tmp_path: Path) -> None:
    eager, state = train_run(tmp_path / "eager"), TrainingState.initial(CONFIG, CPU.device)
    said = Messages()
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    Trainer(run, CONFIG, state, decoded_images(), NO_IMAGES, GRAPHED, said).train(StopRequest())
    (message,) = (message for message in said.messages if "recorded" in message)
    assert "it needs a CUDA GPU" in message
    assert_equal(eager, state)
