"""The training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.diffusion.losses import training_loss
from ddpm_cli.core.runtime import devices, distributed, seeds
from ddpm_cli.core.runtime.elastic import stopping, watchdog
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import ema
from ddpm_cli.core.training.batches import Batch, Batches
from ddpm_cli.core.training.budget import Clock
from ddpm_cli.core.training.divergence import DivergenceMonitor
from ddpm_cli.core.training.metrics_log import MetricsLog
from ddpm_cli.core.training.saving import Saver, passed_multiple
from ddpm_cli.core.training.state import State


@dataclass(frozen=True)
class Execution:
    """What the work runs on; a run may go on upon another one."""

    device: torch.device
    precision: torch.dtype = torch.float32
    microbatch: int | None = None  # images in one forward pass; None: the process's whole share
    compiled: bool = False  # torch compiles the network before the first step


class Score(Protocol):
    """A judgement of the averaged weights now and then, which all processes take part in."""

    def announce(self, averaged: Denoiser, clock: Clock) -> None:
        """Say beforehand what it will cost."""

    def due(self, images: int, *, ending: bool) -> bool:
        """Whether the weights should be judged after so many images."""

    def __call__(self, averaged: Denoiser, images: int) -> None:
        """Judge the averaged weights after so many images.

        Raises PreemptedError or StoppedByUserError where a signal asks to stop meanwhile.
        """


class Trainer:
    """One training: what step k does is a function of the seed and of the images seen before it.

    So a resumed run goes the way it would have gone, and one on several processes goes the way of
    one process with the same global batch.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        state: State,
        pictures: DecodedImages,
        held_out: DecodedImages,
        machine: Execution,
        reporter: Reporter,
        score: Score | None = None,
    ) -> None:
        self.score = score
        self.run, self.config, self.state = run, config, state
        self.pictures, self.held_out = pictures, held_out
        self.machine, self.reporter = machine, reporter
        if machine.compiled:
            state.network.compile()  # in place, so that its weights keep their names
        self.network = distributed.data_parallel(state.network, machine.device)
        schedule = schedules.from_config(config.diffusion)
        self.denoiser = Denoiser(self.network, schedule, config.diffusion.parameterisation)
        self.averaged = Denoiser(state.average, schedule, config.diffusion.parameterisation)
        self.batches = Batches(config, schedule, pictures, machine.device)
        self.saver = Saver(run, config, state, self.averaged, machine.device)
        self.journal = MetricsLog(run, config, state.progress, machine.device)
        self.health = DivergenceMonitor(run, config, state.progress, pictures, machine.precision)

    def train(self, request: stopping.StopRequest) -> None:
        """Train until the budget is used.

        Raises PreemptedError or StoppedByUserError, after a snapshot, when a signal asks to stop,
        DivergedError when numbers stay non-finite, and DdpmError where a save failed.
        """
        config, progress, saver = self.config, self.state.progress, self.saver
        batch = config.optimiser.batch
        clock = Clock(config, len(self.pictures), progress)
        progress.processes = distributed.world_size()
        self.network.train()
        if self.score is not None and clock.used < 1:
            with watchdog.paused():
                self.score.announce(self.averaged, clock)
        if self.machine.compiled and clock.used < 1:
            self._compile()

        with saver, self.reporter.bar("training", 100, "%") as bar:
            bar.update(100 * clock.used)
            while clock.used < 1 and not self._out_of_patience():
                # Choose the learning rate.
                lr = learning_rate(config.optimiser, progress.images, clock.used)
                for group in self.state.optimiser.param_groups:
                    group["lr"] = lr

                # Take this process's share of the batch, hide it under noise, find the gradient.
                share = self.batches.draw(progress.images, self.state.history)
                losses = self._accumulate(share)
                norm, good = self._examine(losses)
                progress.images += batch
                progress.steps += 1

                # Agree with the other processes on the time, on whether to stop, and on whether
                # anything went wrong anywhere.
                signal, bad, failed, progress.save_seconds = clock.tick(
                    progress, request.signal, not good, saver.failed, saver.seconds
                )
                watchdog.step()
                if failed:
                    saver.finish()  # raises what went wrong
                if clock.used >= 1:
                    signal = 0  # it ends here anyway, and whole

                # Step, unless the numbers went bad.
                self._step(share, losses, good=not bad)
                self.health.note(lr, norm, good=not bad)
                ending = clock.used >= 1
                validating = ending or saver.due()
                score = self._due_score()
                saving = validating or signal != 0 or score is not None
                self._stay_finite(share, losses, weights_too=saving)

                # Validate, log and save when it is time; signals and scores only add snapshots.
                held_out = None
                if validating:
                    looked = time.monotonic()
                    with watchdog.paused():
                        held_out = self._validate()
                    looking = time.monotonic() - looked
                if validating or passed_multiple(progress.images, batch, self.journal.every):
                    self.journal.write(bar, clock.used, lr, norm, held_out)
                if saving:
                    self.journal.keep()
                    saver.start(best=validating and self._is_best(held_out))
                if signal or score is not None:
                    saver.finish()  # before what may take minutes
                if validating:
                    looked = time.monotonic()
                    saver.show(ending=ending)
                    progress.validation_seconds = looking + time.monotonic() - looked
                if signal:
                    raise stopping.stopped_error(int(signal), str(self.run.path))
                self._judge(score)

            saver.finish()
            self._judge(self._due_score(ending=True))

        if self._out_of_patience():
            self.reporter.say(
                f"No better loss for {progress.stale} snapshots: stopped early; "
                f"the best weights are {self.run.best}"
            )

    def _compile(self) -> None:
        """Let torch compile the network, which it does when it is first used, forth and back."""
        self.reporter.say("Compiling the network: this can take minutes.")
        with watchdog.paused():
            self._accumulate(self.batches.draw(self.state.progress.images, self.state.history))
        self.state.optimiser.zero_grad(set_to_none=True)

    def _accumulate(self, share: Batch) -> Tensor:
        """Add up the gradient of the mean loss over the global batch, a microbatch at a time.

        The losses of this process's share (B,), before they are weighted by importance.
        """
        learn, progress = self.config.optimiser, self.state.progress
        if self.config.network.dropout:
            torch.manual_seed(
                seeds.derive(learn.seed, "dropout", progress.images, distributed.rank())
            )
        scale = distributed.world_size() / learn.batch  # the processes' gradients are averaged
        parts, unweighted = share.parts(self.machine.microbatch), []
        for part in parts:
            with distributed.accumulate_gradients(self.network, last=part is parts[-1]):
                losses = self._losses(self.denoiser, part)
                unweighted.append(losses.detach())
                torch.autograd.backward(scale * _weighted(losses, part).sum())
        return torch.cat(unweighted)

    def _losses(self, denoiser: Denoiser, part: Batch) -> Tensor:
        """The loss of each picture (B,)."""
        with devices.autocast(self.machine.device, self.machine.precision):
            return training_loss(denoiser, part.noised, part.condition, self.config.objective)

    @torch.no_grad()
    def _validate(self) -> float | None:
        """The averaged network's loss on the held-out pictures; None without any."""
        if not len(self.held_out):
            return None
        summed = torch.zeros((), device=self.machine.device)
        for share in self.batches.held_out(self.held_out):
            for part in share.parts(self.machine.microbatch):
                summed += self._losses(self.averaged, part).sum()
        return float(distributed.all_reduce_sum(summed)) / len(self.held_out)

    def _examine(self, losses: Tensor) -> tuple[float, bool]:
        """Clip the gradient: its norm before that, and whether it and all losses are finite.

        The one place where a step waits for the device.
        """
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip)
        seen: list[float] = torch.stack([norm, losses.isfinite().all().to(norm)]).tolist()
        return seen[0], math.isfinite(seen[0]) and seen[1] == 1

    def _step(self, share: Batch, losses: Tensor, *, good: bool) -> None:
        """Move the weights, their average and the memory of losses; a bad step leaves all alone."""
        learn, state = self.config.optimiser, self.state
        if good:
            state.optimiser.step()
            decay = ema.decay_after(
                learn.batch, state.progress.images, learn.ema_halflife, learn.ema_rampup
            )
            ema.update(state.average, state.network, decay)
            if state.history is not None:
                self._remember(state.history, share.noised.sigma, losses)
            self.journal.count(_weighted(losses, share))
        state.optimiser.zero_grad(set_to_none=True)

    def _remember(self, history: LossHistory, sigma: Tensor, losses: Tensor) -> None:
        """Let every process's history know the losses of the whole batch."""
        mine = distributed.shard(self.config.optimiser.batch)
        seen = torch.zeros(2, self.config.optimiser.batch, dtype=torch.float64)
        seen[0, mine], seen[1, mine] = sigma, losses.to("cpu", torch.float64)
        history.record(*distributed.all_reduce_sum(seen))

    def _stay_finite(self, share: Batch, losses: Tensor, *, weights_too: bool) -> None:
        """Raise DivergedError where steps stay bad, or weights that are to be saved went wrong."""
        trouble = self.health.trouble
        if not trouble and weights_too:
            (broken,) = distributed.all_reduce_max(not self.state.finite())
            trouble = "the weights are no longer finite" if broken else ""
        if trouble:
            self.saver.finish()
            raise self.health.diverged(trouble, share, losses)

    def _is_best(self, held_out: float | None) -> bool:
        """Is this the best model so far, by the held-out loss or the smoothed training loss?"""
        progress = self.state.progress
        score = progress.loss_smooth if held_out is None else held_out
        better = score < progress.best
        progress.stale = 0 if better else progress.stale + 1
        progress.best = score if better else progress.best
        return better

    def _judge(self, score: Score | None) -> None:
        if score is not None:
            with watchdog.paused():
                score(self.averaged, self.state.progress.images)

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.state.progress.stale

    def _due_score(self, *, ending: bool = False) -> Score | None:
        images = self.state.progress.images
        return self.score if self.score and self.score.due(images, ending=ending) else None


def learning_rate(config: OptimiserConfig, images: int, used: float) -> float:
    """Rise over the warm-up's images, stay, fall over the last `decay` share of the budget."""
    rise = min(1.0, (images + config.batch) / config.warmup) if config.warmup else 1.0
    fall = min(1.0, (1 - used) / config.decay) if config.decay else 1.0
    return config.lr * rise * fall


def _weighted(losses: Tensor, batch: Batch) -> Tensor:
    return losses if batch.importance is None else batch.importance * losses
