"""The time that a training says it will take, after its first steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.state import Progress, TrainingState
from ddpm_cli.core.training.trainer import Trainer
from tests.support.training import CONFIG, CPU, NO_IMAGES, Messages, decoded_images, train_run

BATCH = CONFIG.optimiser.batch


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(images=BATCH * 602), ["Time: about 10 min to go at"]),  # 600 steps of a second
        (Budget(images=BATCH * 36_002), ["Time: about 10.0 h to go at"]),
        (Budget(images=BATCH * 602, minutes=11), ["Time: about 10 min to go at"]),
        (Budget(images=BATCH * 602, minutes=9), []),  # which the command says itself
        (Budget(minutes=4), []),
        (Budget(images=BATCH * 50), []),  # less than a minute
    ],
)
def test_it_is_said_once_for_a_budget_in_images(
    budget: Budget, said: list[str], tmp_path: Path
) -> None:
    """The first step, which takes three seconds, does not count."""
    config, reporter = replace(CONFIG, budget=budget), Messages()
    state = TrainingState.initial(config, CPU.device)
    run, images = RunDirectory(tmp_path), decoded_images()
    trainer = Trainer(run, config, state, images, NO_IMAGES, CPU, reporter)
    state.progress = Progress(images=2 * BATCH, steps=2, seconds=4)
    trainer.log.speed.add(3)
    trainer.log.speed.add(1)
    for _ in range(2):
        trainer._say_how_long(BudgetTracker(config, len(images), state.progress))
    assert [line.split(f" {BATCH}.0 images/s")[0] for line in reporter.messages] == said


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(minutes=9), ["Warning: 16 images for 4,304 (269 epochs) begin to be copied"]),
        (Budget(images=BATCH * 602, minutes=8), []),  # 301 epochs: said before the first step
        (Budget(images=BATCH * 452, minutes=7), []),  # 209 epochs
    ],
)
def test_few_images_under_a_limit_in_time(budget: Budget, said: list[str], tmp_path: Path) -> None:
    """How often they will be seen is known with the first row."""
    config, reporter = replace(CONFIG, budget=budget), Messages()
    state = TrainingState.initial(config, CPU.device)
    images = decoded_images()
    trainer = Trainer(RunDirectory(tmp_path), config, state, images, NO_IMAGES, CPU, reporter)
    state.progress = Progress(images=2 * BATCH, steps=2, seconds=4)
    trainer.log.speed.add(3)
    trainer.log.speed.add(1)
    for _ in range(2):
        trainer._say_how_long(BudgetTracker(config, len(images), state.progress))
    assert [line.split("; more images")[0] for line in reporter.messages] == said


def test_it_comes_with_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no step is taken for it."""
    asked = []
    monkeypatch.setattr(Trainer, "_say_how_long", lambda self, _: asked.append(self.log.speed.mean))
    state = train_run(tmp_path, replace(CONFIG, budget=Budget(steps=3), log_every=BATCH))
    assert (len(asked), state.progress.steps) == (3, 3)
    assert all(asked)
