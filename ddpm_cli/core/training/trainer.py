"""The training loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime import devices, distributed, seeds
from ddpm_cli.core.runtime.elastic import stopping, watchdog
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import Bar, Reporter, Warned
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import compilation, early_stopping, teacher
from ddpm_cli.core.training.batches import Batch, Batches
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.divergence import DivergenceMonitor
from ddpm_cli.core.training.metrics_log import MetricsLog
from ddpm_cli.core.training.preparation import copying
from ddpm_cli.core.training.saving import Saver, passed_multiple
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Outcome, Step, weighted
from ddpm_cli.core.training.step_graph import GraphedStep
from ddpm_cli.core.training.validation import Validator


@dataclass(frozen=True)
class Execution:
    """How the work is executed; a run may resume with another one."""

    device: torch.device
    precision: torch.dtype = torch.float32
    microbatch: int | None = None  # images in one forward pass; None: the rank's whole shard
    compiled: bool | None = False  # the network, before the first step; None: where that pays
    cuda_graph: bool = False  # record a step and replay it
    checkpoint_activations: bool = False  # compute them again in the backward pass
    precision_given: bool = True  # rather than chosen for the device


@dataclass(frozen=True)
class Due:
    """What follows a step; the same on every rank."""

    signal: int = 0  # that asks to stop; 0: none
    end: bool = False  # the budget, or the patience, is used up
    row: bool = False  # of metrics
    validation: bool = False
    snapshot: bool = False  # by images, or because the training ends
    score: bool = False
    power_averages: bool = False  # those with power profiles are stored

    @property
    def save(self) -> bool:
        """Whether a snapshot is written: signals and scores only add some."""
        return self.snapshot or self.score or self.signal != 0


@dataclass(frozen=True)
class Trial:
    """Seconds of the parts of a step."""

    batch: float  # to draw it, with all its images
    gradient: float  # of the images tried
    update: float  # of weights and average

    def of(self, images: int, tried: int) -> float:
        """Seconds of a step of so many images, after a trial of `tried`."""
        return self.batch + self.gradient * images / tried + self.update


class Scorer(Protocol):
    """Scores the averaged weights now and then; all ranks take part."""

    def announce(self, averaged: Denoiser, budget: BudgetTracker) -> None:
        """Report beforehand what it will cost."""

    def is_due(self, images: int, *, end: bool) -> bool:
        """Whether the weights should be scored after so many images seen."""

    def score(self, averaged: Denoiser, images: int) -> None:
        """Score the averaged weights after so many images seen.

        Raises PreemptedError or StoppedByUserError where a signal asks to stop meanwhile.
        """


class Trainer:
    """One training: step k is a function of the seed and of the images seen before it.

    So a resumed run takes the steps that it would have taken, and one on several processes those of
    one process with the same global batch.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        state: TrainingState,
        images: DecodedImages,
        held_out: DecodedImages,
        execution: Execution,
        reporter: Reporter,
        scorer: Scorer | None = None,
        preset: str = "",
    ) -> None:
        """`preset`: its learning rate is advised where a higher one diverges."""
        self.run, self.config, self.state = run, config, state
        self.images = images
        self.execution, self.reporter, self.scorer = execution, reporter, scorer
        state.network.checkpointed = execution.checkpoint_activations
        self.network = distributed.data_parallel(state.network, execution.device)
        schedule = schedules.from_config(config.diffusion)
        self.denoiser = Denoiser(self.network, schedule, config.diffusion.parameterisation)
        self.averaged = Denoiser(state.average, schedule, config.diffusion.parameterisation)
        guided = teacher.load(run, config, execution.device)
        self.batches = Batches(config, self.denoiser, images, execution.device, guided)
        step = GraphedStep if execution.cuda_graph else Step
        self.step = step(
            config,
            state,
            self.network,
            self.denoiser,
            execution.device,
            execution.precision,
            execution.microbatch,
            reporter,
            guided,
        )
        self.validate = Validator(
            config, self.batches, images, held_out, self.step, self.averaged, execution.device
        )
        self.saver = Saver(run, config, state, self.averaged, execution.device, reporter, images)
        self.log = MetricsLog(run, config, state.progress, execution.device)
        self._said_how_long = False
        self.monitor = DivergenceMonitor(
            run, config, state.progress, images, execution.precision, preset
        )

    def train(self, stop: stopping.StopRequest) -> None:
        """Train until the budget is used up.

        Raises PreemptedError or StoppedByUserError, after a snapshot, when a signal asks to stop,
        DivergedError when steps stay non-finite, and DdpmError where a save failed.
        """
        progress, saver = self.state.progress, self.saver
        budget = BudgetTracker(self.config, len(self.images), progress)
        progress.processes = distributed.world_size()
        self.network.train()
        if not budget.is_over:
            self._prepare(budget)

        with closing(self.batches), saver, self.reporter.bar("training", 100, "%") as bar:
            bar.update(100 * budget.used)
            while not budget.is_over and not self._stops_early():
                started, waited = time.monotonic(), self.batches.waited
                # Learn: queue a step with this rank's shard of the batch.
                lr = self._set_learning_rate(budget)
                shard = self.batches.draw(progress.images, self.state.history)
                outcome = self._take_step(shard)
                self.monitor.record(lr, outcome)

                # Agree: all ranks on the time, a signal and failed saves.
                signal, save_failed, progress.save_seconds = budget.update(
                    progress, stop.signal, saver.failed, saver.seconds
                )
                watchdog.step()
                if save_failed:
                    saver.finish()  # raises its error
                due = self._due(budget, int(signal))

                # Act: whatever is due, once the step is finished.
                if due != Due() or self.state.history is not None:
                    self.monitor.read()
                self._record_losses(shard, outcome)
                self.log.speed.add(time.monotonic() - started, self.batches.waited - waited)
                is_best = self._validate_and_log(due, bar, budget, lr)
                if self._stops_early():
                    due = Due(
                        end=True, snapshot=True, power_averages=bool(self.state.power_averages)
                    )
                self._stop_if_diverged(due, shard, outcome.losses, is_best=is_best)
                self._save(due, is_best=is_best)
                if due.signal:
                    raise stopping.stopped_error(due.signal, str(self.run.path))
                if due.score:
                    self._score()

            saver.finish()
            if self.scorer is not None and self.scorer.is_due(progress.images, end=True):
                self._score()

        if reason := self._stops_early():
            self.reporter.say(f"{reason}: stopped early; the best weights are {self.run.best}")

    def trial(self, images: int) -> Trial:
        """Take a step with some images of the next batch, for its time: no training follows it."""
        times, progress = [time.monotonic()], self.state.progress
        batch = self.batches.draw(progress.images, self.state.history).select(slice(images))
        progress.images += self.config.optimiser.batch
        devices.synchronise(self.execution.device)
        times.append(time.monotonic())
        _, skipped = self.step.clip(self.step.gradient(batch))
        devices.synchronise(self.execution.device)
        times.append(time.monotonic())
        self.step.update(self.state.decays(self.config.optimiser), skipped)
        devices.synchronise(self.execution.device)
        times.append(time.monotonic())
        return Trial(*(after - before for before, after in itertools.pairwise(times)))

    def _prepare(self, budget: BudgetTracker) -> None:
        """Announce what scores will cost, and compile: torch does so at the first use."""
        with watchdog.paused():
            if self.scorer is not None:
                self.scorer.announce(self.averaged, budget)
            self._prepare_step()

    def _prepare_step(self) -> None:
        """Compile and record, where that is wanted, with the first batch: no step is taken."""
        execution, state = self.execution, self.state
        decision = compilation.decide(
            execution.compiled, self.config, len(self.images), execution.device
        )
        if decision.reason:
            self.reporter.say(decision.reason)
        if not decision.compiled and not execution.cuda_graph:
            return
        shard = self.batches.draw(state.progress.images, state.history)

        def first_pass() -> None:
            state.optimiser.zero_grad(set_to_none=True)
            self.step.gradient(shard)

        if decision.compiled:
            compilation.compile_or_not(state.network, first_pass, self.reporter)
            state.optimiser.zero_grad(set_to_none=True)
        if isinstance(self.step, GraphedStep):
            self.step.record(shard, self.reporter)

    def _set_learning_rate(self, budget: BudgetTracker) -> float:
        lr = learning_rate(self.config.optimiser, self.state.progress.images, budget.used)
        for group in self.state.optimiser.param_groups:
            group["lr"] = lr
        return lr

    def _due(self, budget: BudgetTracker, signal: int) -> Due:
        end, images, batch = budget.is_over, self.state.progress.images, self.config.optimiser.batch
        validation = end or passed_multiple(images, batch, self.config.validate_every)
        row = validation or passed_multiple(images, batch, self.config.log_every)
        score = self.scorer is not None and self.scorer.is_due(images, end=False)
        # At the end of the budget a signal changes nothing: the training ends anyway, complete.
        signal = 0 if end else signal
        power_averages = bool(self.state.power_averages) and (
            end or passed_multiple(images, batch, self.config.ema_every or 0)
        )
        return Due(signal, end, row, validation, end or self.saver.is_due(), score, power_averages)

    def _take_step(self, shard: Batch) -> Outcome:
        """Queue a step, and count its losses for the log."""
        optimiser, progress = self.config.optimiser, self.state.progress
        if self.config.network.dropout:
            torch.manual_seed(
                seeds.derive(optimiser.seed, "dropout", progress.images, distributed.rank())
            )
        progress.images += optimiser.batch
        progress.steps += 1
        outcome = self.step(shard, self.state.decays(optimiser))
        losses, importance = weighted(outcome.losses, shard), shard.importance
        self.log.count(losses, shard.scalars.sigma, outcome.skipped, importance)
        return outcome

    def _record_losses(self, shard: Batch, outcome: Outcome) -> None:
        """Record the losses of the global batch in every rank's history, where there is one."""
        if self.state.history is None or self.state.progress.bad_steps:
            return
        own = distributed.shard(self.config.optimiser.batch)
        values = torch.zeros(2, self.config.optimiser.batch, dtype=torch.float64)
        values[0, own] = shard.noised.sigma
        values[1, own] = outcome.losses.to("cpu", torch.float64)
        self.state.history.record(*distributed.all_reduce_sum(values))

    def _stop_if_diverged(self, due: Due, shard: Batch, losses: Tensor, *, is_best: bool) -> None:
        """Raise DivergedError where steps stay non-finite, or weights to be saved are."""
        reason = self.monitor.reason(end=due.end)
        if not reason and (due.save or due.power_averages or is_best):
            (broken,) = distributed.all_reduce_max(not self.state.is_finite())
            reason = "the weights are no longer finite" if broken else ""
        if reason:
            self.saver.finish()
            raise self.monitor.diverged(reason, shard, losses)

    def _validate_and_log(self, due: Due, bar: Bar, budget: BudgetTracker, lr: float) -> bool:
        """Validate and write a row, where they are due; whether the loss is the lowest so far."""
        found, better = None, False
        if due.validation:
            with _timed() as validation, watchdog.paused():
                found = self.validate()
            self.state.progress.validation_seconds = validation.seconds
        if due.row:
            self.log.write(bar, budget, lr, self.monitor.norm, found)
            self._say_how_long(budget)
        if due.validation:
            better = early_stopping.record(self.state.progress, found)
        return better

    def _say_how_long(self, budget: BudgetTracker) -> None:
        """Once, with the first row: the time that is left, where that is a minute or more.

        Where a limit in time ends the training, what follows from the images seen until then.
        """
        speed = self.log.speed.mean
        if self._said_how_long or not speed:
            return
        self._said_how_long = True
        left = budget.seconds_left(self.state.progress, speed)
        if left is not None and left >= 60:
            self.reporter.say(
                f"Time: about {roughly(left)} to go at {speed:,.1f} images/s, the speed of the "
                "first steps; saves, previews and validation come on top"
            )
        images = len(self.images)
        if budget.images is not None and copying.advise(images, budget.images, self.config):
            return  # which was known before
        seen = budget.images_at_end(self.state.progress, speed)
        hint = None if seen is None else copying.advise(images, seen, self.config)
        if hint is not None and hint.warning:
            self.reporter.say(Warned(f"Warning: {hint.line}"))

    def _save(self, due: Due, *, is_best: bool) -> None:
        """Save and draw, whichever of them is due."""
        if due.save:
            self.log.store()
        if due.save or due.power_averages or is_best:
            self.saver.start(snapshot=due.save, best=is_best, power_averages=due.power_averages)
        if due.signal or due.score:
            self.saver.finish()  # before what may take minutes
        if due.snapshot:
            with _timed() as drawing:
                self.saver.save_previews(last=due.end)
            self.state.progress.preview_seconds = drawing.seconds

    def _score(self) -> None:
        assert self.scorer is not None
        with watchdog.paused():
            self.scorer.score(self.averaged, self.state.progress.images)

    def _stops_early(self) -> str:
        return early_stopping.reason(self.config, self.state.progress)


def learning_rate(config: OptimiserConfig, images: int, used: float) -> float:
    """Linear warm-up over images, constant, linear decay over the last part of the budget."""
    rise = min(1.0, (images + config.batch) / config.warmup) if config.warmup else 1.0
    fall = min(1.0, (1 - used) / config.decay) if config.decay else 1.0
    return config.lr * rise * fall


@dataclass
class _Elapsed:
    seconds: float = 0.0


@contextmanager
def _timed() -> Iterator[_Elapsed]:
    elapsed, started = _Elapsed(), time.monotonic()
    yield elapsed
    elapsed.seconds = time.monotonic() - started
