"""The losses of a validation: on images held out, and on images trained on under the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from ddpm_cli.core.config import run as c
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import early_stopping
from ddpm_cli.core.training.state import Progress, TrainingState
from ddpm_cli.core.training.trainer import Trainer
from ddpm_cli.core.training.validation import COLUMNS, Quarter, Validation
from tests.support.cli import Result
from tests.support.training import CONFIG, CPU, Messages, decoded_images, first_images

Run = Callable[..., Result]


def trainer_of(folder: Path, training: DecodedImages, held_out: DecodedImages) -> Trainer:
    state = TrainingState.initial(CONFIG, CPU.device)
    for parameter in state.average.parameters():  # the last layer begins with zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return Trainer(RunDirectory(folder), CONFIG, state, training, held_out, CPU, Messages())


def test_both_losses_are_of_the_same_noise(tmp_path: Path) -> None:
    """Held-out images that are the images trained on, in the order that is drawn: no gap at all."""
    training = decoded_images(16)
    key = seeds.derive(CONFIG.optimiser.seed, "holdout trained")
    order = np.random.default_rng(key).permutation(16)
    pixels = np.asarray(training.pixels)
    same = replace(training, pixels=pixels[order])
    found = trainer_of(tmp_path, training, same).validate()
    assert found is not None
    held_out, trained = found.losses
    assert held_out == trained > 0
    assert all(each.squares == 0 and each.pairs == 4 for each in found.quarters)
    others = replace(same, pixels=255 - np.asarray(same.pixels))
    other = trainer_of(tmp_path, training, others).validate()
    assert other is not None and other.losses[0] != pytest.approx(other.losses[1], rel=1e-3)


def test_they_are_means_by_quarter_over_all_images(tmp_path: Path) -> None:
    """3 images trained on take turns for 10 held out; each loss once more, one by one."""
    training, held_out = decoded_images(3), decoded_images(10, seed=1)
    trainer = trainer_of(tmp_path, training, held_out)
    found = trainer.validate()
    assert found is not None
    losses = []
    for images, indices in ((held_out, np.arange(10)), (training, None)):
        if indices is None:
            key = seeds.derive(CONFIG.optimiser.seed, "holdout trained")
            turn = np.random.default_rng(key).permutation(3)
            indices = np.array([turn[i % 3] for i in range(10)])
        each = []
        for shard in trainer.batches.fixed(images, indices):
            for i in range(len(shard)):
                one = shard.select(slice(i, i + 1))
                with torch.no_grad():
                    loss = trainer.step.losses(trainer.averaged, one)
                each.append((float(one.noised.sigma[0]), float(loss[0])))
        losses.append(each)
    (sigma, own), (again, other) = (np.array(each).T for each in losses)
    assert (sigma == again).all()
    table = trainer.averaged.schedule.sigma_at(torch.tensor([0.25, 0.5, 0.75]).double()).numpy()
    quarter = (sigma[:, None] >= table).sum(axis=1)
    assert sorted(set(quarter)) == [0, 1, 2, 3]
    for q, of in enumerate(found.quarters):
        means = own[quarter == q].mean(), other[quarter == q].mean()
        assert of.losses == pytest.approx(means, rel=1e-5)
        assert of.pairs == (quarter == q).sum()
    assert found.losses == pytest.approx((own.mean(), other.mean()), rel=1e-5)
    assert list(found.row) == list(COLUMNS)
    trainer.step.microbatch = 1
    again_found = trainer.validate()
    assert again_found is not None and again_found.losses == pytest.approx(found.losses, rel=1e-5)


def test_the_gap_is_what_is_certain_of_it() -> None:
    random = np.random.default_rng(0)
    trained = random.uniform(0.5, 1.5, 40)
    held_out = trained + random.normal(0.4, 0.3, 40)
    difference = held_out - trained
    quarter = Quarter(held_out.sum(), trained.sum(), (difference**2).sum(), 40)
    least = (difference.mean() - 2 * stats.sem(difference)) / trained.mean()
    assert quarter.least_gap == pytest.approx(least)
    assert 0 < least < difference.mean() / trained.mean()
    few = Quarter(70, 7, 700, 7)  # ten times the loss, but of seven images
    assert math.isnan(few.least_gap) and math.isnan(Quarter(0, 0, 0, 0).losses[0])
    assert Validation((few, quarter, few, few)).gap == quarter.least_gap
    assert math.isnan(Validation((few,) * 4).gap)


def test_training_stops_at_a_gap_and_says_so(tmp_path: Path) -> None:
    """The images held out are noise, which what is learned of the others does not help with."""
    training = first_images(decoded_images(), 8)
    noise = np.random.default_rng(5).integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    held_out = DecodedImages(noise, np.zeros(40, np.int64), np.arange(40))
    config = replace(
        CONFIG,
        optimiser=replace(CONFIG.optimiser, ema_rampup=1e-9),
        data=replace(CONFIG.data, holdout=40),
        budget=c.Budget(images=1200),
        snapshot_every=10**6,
        validate_every=80,
        stop_at_gap=0.75,
    )
    state, reporter = TrainingState.initial(config, CPU.device), Messages()
    run = RunDirectory(tmp_path)
    Trainer(run, config, state, training, held_out, CPU, reporter).train(StopRequest())
    seen = state.progress.images
    assert 160 < seen < 1200
    gaps = [row["loss_gap"] for row in run.rows() if row["loss_gap"] is not None]
    assert gaps[-1] >= 0.75 > max(gaps[:-1])
    assert "--stop-at-gap 0.75): the model begins to copy: stopped early" in reporter.messages[-1]
    assert run.holdout_plot.stat().st_size > 5000
    resumed = TrainingState.initial(config, CPU.device)
    resumed.load_state_dict(state.state_dict())
    Trainer(run, config, resumed, training, held_out, CPU, reporter).train(StopRequest())
    assert resumed.progress.images == seen  # training again takes no step
    assert early_stopping.reason(replace(config, stop_at_gap=99.0), resumed.progress) == ""


def test_without_images_held_out_the_training_loss_counts() -> None:
    progress = Progress(loss_smooth=0.5, loss_heldout=0.1, gap=3.0)
    assert early_stopping.record(progress, None)
    assert (progress.best, progress.loss_heldout, progress.gap) == (0.5, None, None)


def test_rows_have_the_columns_where_images_are_held_out(train_tiny: Run) -> None:
    """A rank that validates, and a run that does not."""
    short = ("--images", 16, "--preview", 0)
    assert train_tiny("--out", "plain", *short).code == 0
    assert train_tiny("--out", "held", "--holdout", 4, "--log-every", 8, *short).code == 0
    plain, rows = (RunDirectory(Path(name)).rows() for name in ("plain", "held"))
    assert not any(name in row for row in plain for name in COLUMNS[1:])
    assert all(set(COLUMNS) <= row.keys() for row in rows)
    assert rows[0]["loss_trained"] is None
    last = rows[-1]
    quarters = [last[f"loss_holdout_q{q}"] for q in range(4)]
    assert last["loss_holdout"] == pytest.approx(np.mean(quarters), rel=1e-5)  # one image each
    assert last["loss_trained"] > 0 and last["loss_gap"] is None
    header = Path("held/metrics.csv").read_text().splitlines()[0].split(",")
    assert set(COLUMNS) <= set(header)
    assert Path("held/holdout.png").is_file() and not Path("plain/holdout.png").exists()


def test_a_gap_needs_images_to_judge_by(train_tiny: Run, photos: Path) -> None:
    refused = train_tiny("--out", "run", "--stop-at-gap", 1)
    assert refused.code == 2 and "it needs --holdout or --holdout-data" in refused.err
    for given in (("--holdout", 4), ("--holdout-data", photos)):
        refused = train_tiny("--out", "run", "--stop-at-gap", 1, *given)
        assert refused.code == 2 and "--stop-at-gap needs 32 images held out" in refused.err
        assert not Path("run").exists()
    printed = train_tiny("--stop-at-gap", 0.5, "--holdout", 9, "--print-config", "--json")
    assert printed.json()["stop_at_gap"] == 0.5
