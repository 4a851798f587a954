"""The training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core import plots, weights
from ddpm_cli.core.config import NULL_CLASS, OptimiserConfig, RunConfig
from ddpm_cli.core.data.loader import Order, Pictures, mirrored
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.losses import training_loss
from ddpm_cli.core.diffusion.noising import Noised, shares, training_sigmas
from ddpm_cli.core.errors import DivergedError
from ddpm_cli.core.runtime import devices, distributed, seeds, stopping, watchdog
from ddpm_cli.core.runtime.reporting import Bar, Reporter
from ddpm_cli.core.runtime.rundir import RunDirectory
from ddpm_cli.core.training import ema, preview, snapshots
from ddpm_cli.core.training.budget import Clock
from ddpm_cli.core.training.state import State

_BAD_STEPS = 20  # steps in a row without finite gradients after which training has diverged


@dataclass(frozen=True)
class Machine:
    """What the work runs on; a run may go on upon another one."""

    device: torch.device
    precision: torch.dtype = torch.float32
    microbatch: int | None = None  # images in one forward pass; None: the process's whole share


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
        pictures: Pictures,
        held_out: Pictures,
        machine: Machine,
        reporter: Reporter,
        score: Score | None = None,
    ) -> None:
        self.score = score
        self.run, self.config, self.state = run, config, state
        self.pictures, self.held_out = pictures, held_out
        self.machine, self.reporter = machine, reporter
        self.network = distributed.data_parallel(state.network, machine.device)
        schedule = schedules.from_config(config.diffusion)
        self.denoiser = Denoiser(self.network, schedule, config.diffusion.parameterisation)
        self.averaged = Denoiser(state.average, schedule, config.diffusion.parameterisation)
        self.order = Order(len(pictures), config.optimiser.seed)
        self.log_every = max(config.optimiser.batch, config.snapshot_every // 100)

    def train(self, request: stopping.StopRequest) -> None:
        """Train until the budget is used.

        Raises PreemptedError or StoppedByUserError, after a snapshot, when a signal asks to stop,
        and DivergedError when gradients stay non-finite.
        """
        config, progress = self.config, self.state.progress
        batch = config.optimiser.batch
        clock = Clock(config, len(self.pictures), progress)
        self.network.train()
        self._start_log()
        if self.score is not None and clock.used < 1:
            with watchdog.paused():
                self.score.announce(self.averaged, clock)

        with self.reporter.bar("training", 100, "%") as bar:
            bar.update(100 * clock.used)
            while clock.used < 1 and not self._out_of_patience():
                # Choose the learning rate.
                lr = learning_rate(config.optimiser, progress.images, clock.used)
                for group in self.state.optimiser.param_groups:
                    group["lr"] = lr

                # Take this process's share of the batch, hide it under noise, find the gradient.
                noised, labels, importance = self._draw()
                losses = self._accumulate(noised, labels, importance)
                if self.state.history is not None:
                    self._remember(noised.sigma, losses)

                # Step, unless the numbers went bad.
                norm = torch.nn.utils.clip_grad_norm_(
                    self.network.parameters(), config.optimiser.clip
                )
                progress.images += batch
                progress.steps += 1
                self._step(float(norm), lr)

                # Agree with the other processes on the time and on whether to stop.
                signal = clock.tick(progress, request.signal)
                watchdog.step()
                if clock.used >= 1:
                    signal = 0  # it ends here anyway, and whole

                # Log, validate and save when it is time.
                ending = clock.used >= 1 or signal != 0
                saving = ending or self._snapshot_due()
                score = self._due_score()
                if saving or score is not None or crossed(progress.images, batch, self.log_every):
                    held_out = self._holdout_loss() if saving and not signal else None
                    self._log(bar, clock, lr, float(norm), held_out)
                if signal:
                    self._save(hurried=True)
                    raise stopping.stopped(signal, str(self.run.path))
                if saving:
                    self._judge(held_out)
                    self._save()
                elif score is not None:  # which may take minutes
                    self._save(hurried=True)
                if score is not None:
                    with watchdog.paused():
                        score(self.averaged, progress.images)

            score = self._due_score(ending=True)
            if score is not None:
                with watchdog.paused():
                    score(self.averaged, progress.images)

        if self._out_of_patience():
            self.reporter.say(
                f"No better loss for {progress.stale} snapshots: stopped early; "
                f"the best weights are {self.run.best}"
            )

    def _draw(self) -> tuple[Noised, Tensor | None, Tensor | None]:
        """This process's share of the next global batch, a function of (seed, images seen).

        The noised pictures, their labels and, where timesteps are drawn by importance, the weights
        of their losses. Importance itself is a function of the losses before.
        """
        learn, seen, device = self.config.optimiser, self.state.progress.images, self.machine.device
        mine = distributed.share(learn.batch)
        random = seeds.generator(learn.seed, "batch", seen)
        flips = torch.rand(learn.batch, generator=random) < 0.5
        drops = torch.rand(learn.batch, generator=random) < learn.class_drop
        u, history = shares(learn.batch, random), self.state.history
        if history is None:
            sigma, importance = self._sigmas(u), None
        else:
            sigma, weights = history.draw(u)
            importance = weights[mine].to(device, torch.float32)
        images, labels = self.pictures.take(self.order.indices(seen, learn.batch)[mine])
        if self.config.data.flip:
            images = mirrored(images, flips[mine])
        shape = (learn.batch, *images.shape[1:])
        noise_source = seeds.generator(learn.seed, "noise", seen, device=device)
        noise = torch.randn(shape, generator=noise_source, device=device)[mine]
        noised = Noised(to_unit(images.to(device)), noise, sigma[mine])
        if not self.config.network.classes:
            return noised, None, importance
        return noised, labels.masked_fill(drops[mine], NULL_CLASS).to(device), importance

    def _sigmas(self, u: Tensor) -> Tensor:
        return training_sigmas(self.denoiser.schedule, self.config.objective, u)

    def _accumulate(
        self, noised: Noised, labels: Tensor | None, importance: Tensor | None
    ) -> list[Tensor]:
        """Add up the gradient of the mean loss over the global batch, a microbatch at a time.

        The losses, a tensor a microbatch, before they were weighted by importance.
        """
        learn, progress = self.config.optimiser, self.state.progress
        if self.config.network.dropout:
            torch.manual_seed(
                seeds.derive(learn.seed, "dropout", progress.images, distributed.rank())
            )
        scale = distributed.world_size() / learn.batch  # the processes' gradients are averaged
        count = len(noised.x0)
        size = self.machine.microbatch or count
        unweighted = []
        for start in range(0, count, size):
            part = slice(start, start + size)
            chunk = Noised(noised.x0[part], noised.noise[part], noised.sigma[part])
            with distributed.accumulating(self.network, last=start + size >= count):
                with devices.autocast(self.machine.device, self.machine.precision):
                    losses = training_loss(
                        self.denoiser,
                        chunk,
                        None if labels is None else labels[part],
                        self.config.objective,
                    )
                unweighted.append(losses.detach())
                if importance is not None:
                    losses = importance[part] * losses
                torch.autograd.backward(scale * losses.sum())
            finite = losses.detach().isfinite()
            self._losses[0] += losses.detach()[finite].sum()
            self._losses[1] += finite.sum()
        return unweighted

    def _remember(self, sigma: Tensor, losses: list[Tensor]) -> None:
        """Let every process's history know the losses of the whole batch."""
        history, mine = self.state.history, distributed.share(self.config.optimiser.batch)
        assert history is not None
        seen = torch.zeros(2, self.config.optimiser.batch, dtype=torch.float64)
        seen[0, mine], seen[1, mine] = sigma, torch.cat(losses).to("cpu", torch.float64)
        history.record(*distributed.total(seen))

    def _step(self, norm: float, lr: float) -> None:
        """Move the weights and their average; leave both alone where the gradient is not finite."""
        learn, progress = self.config.optimiser, self.state.progress
        if math.isfinite(norm):
            self.state.optimiser.step()
            decay = ema.decay_after(
                learn.batch, progress.images, learn.ema_halflife, learn.ema_rampup
            )
            ema.update(self.state.average, self.state.network, decay)
            progress.bad_steps = 0
        else:
            progress.bad_steps += 1
            progress.skipped += 1
        self.state.optimiser.zero_grad(set_to_none=True)
        if progress.bad_steps == _BAD_STEPS:
            raise DivergedError(
                f"stopped: gradients were not finite for {_BAD_STEPS} steps in a row, up to step "
                f"{progress.steps} (learning rate {lr:g}); the snapshot in {self.run.snapshots} is "
                f"from before. Usual mends: --lr {learn.lr / 3:.1g}, or --precision fp32, "
                "with a new --out"
            )

    def _start_log(self) -> None:
        progress = self.state.progress
        self._losses = torch.zeros(2, device=self.machine.device)  # sum and count
        self._logged = (progress.images, progress.seconds)

    def _log(self, bar: Bar, clock: Clock, lr: float, norm: float, held_out: float | None) -> None:
        """Write one row of metrics over what was seen since the last one."""
        progress = self.state.progress
        images = progress.images - self._logged[0]
        seconds = progress.seconds - self._logged[1]
        summed, count = distributed.total(self._losses).tolist()
        loss = summed / count if count else math.nan
        halflife = self.config.snapshot_every / 20  # of the smoothing, in images
        keep = 0.5 ** (images / halflife)
        old = progress.loss_smooth
        if count:
            progress.loss_smooth = loss if math.isnan(old) else keep * old + (1 - keep) * loss
        speed = images / max(seconds, 1e-9)
        if distributed.is_first():
            self.run.append_row(
                {
                    "images": progress.images,
                    "steps": progress.steps,
                    "seconds": round(progress.seconds, 3),
                    "loss": _finite(loss),
                    "loss_smooth": _finite(progress.loss_smooth),
                    "loss_holdout": held_out,
                    "lr": lr,
                    "grad_norm": _finite(norm),
                    "images_per_second": round(speed, 2),
                }
            )
        skipped = f", {progress.skipped} bad steps skipped" if progress.skipped else ""
        bar.update(
            100 * min(clock.used, 1),
            f"{progress.images:,} images, {speed:,.1f} images/s, "
            f"loss {progress.loss_smooth:.4f}{skipped}",
        )
        self._start_log()

    @torch.no_grad()
    def _holdout_loss(self) -> float | None:
        """The averaged weights' loss on the held-out pictures, under the same noise every time."""
        count, learn, device = len(self.held_out), self.config.optimiser, self.machine.device
        if count == 0:
            return None
        random = seeds.generator(learn.seed, "holdout")
        sigma = self._sigmas(shares(count, random))
        summed = torch.zeros((), device=device)
        for start in range(0, count, learn.batch):
            whole = np.arange(start, min(start + learn.batch, count))
            images, labels = self.held_out.take(whole)
            noise = torch.randn(images.shape, generator=random)
            mine = distributed.share(len(whole))
            noised = Noised(
                to_unit(images[mine].to(device)), noise[mine].to(device), sigma[whole][mine]
            )
            condition = labels[mine].to(device) if self.config.network.classes else None
            if len(noised.x0):
                objective = self.config.objective
                summed += training_loss(self.averaged, noised, condition, objective).sum()
        return float(distributed.total(summed)) / count

    def _judge(self, held_out: float | None) -> None:
        """Is this the best model so far, by the held-out loss or the smoothed training loss?"""
        progress = self.state.progress
        score = progress.loss_smooth if held_out is None else held_out
        better = score < progress.best
        progress.stale = 0 if better else progress.stale + 1
        progress.best = score if better else progress.best

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.state.progress.stale

    def _due_score(self, *, ending: bool = False) -> Score | None:
        images = self.state.progress.images
        return self.score if self.score and self.score.due(images, ending=ending) else None

    def _snapshot_due(self) -> bool:
        """At every multiple of snapshot_every, and once early, to have something to sample."""
        images, batch = self.state.progress.images, self.config.optimiser.batch
        every = self.config.snapshot_every
        return crossed(images, batch, every) or images - batch < every // 10 <= images

    def _save(self, *, hurried: bool = False) -> None:
        """Write weights, snapshot, loss curve and preview; the first two where time presses."""
        if not distributed.is_first():
            return
        run, config, state = self.run, self.config, self.state
        tensors = state.average.state_dict()
        weights.save(run.weights, tensors, config, state.progress.images)
        if state.progress.stale == 0 and not hurried:
            weights.save(run.best, tensors, config, state.progress.images)
        snapshots.write(run.snapshots, state, config.keep)  # last: it says that all above is there
        if hurried:
            return
        plots.loss_curve(run.loss_plot, run.rows())
        preview.draw(run, self.averaged, config, state.progress.images, self.machine.device)


def learning_rate(config: OptimiserConfig, images: int, used: float) -> float:
    """Rise over the warm-up's images, stay, fall over the last `decay` share of the budget."""
    rise = min(1.0, (images + config.batch) / config.warmup) if config.warmup else 1.0
    fall = min(1.0, (1 - used) / config.decay) if config.decay else 1.0
    return config.lr * rise * fall


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def crossed(images: int, batch: int, every: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and images // every > (images - batch) // every
