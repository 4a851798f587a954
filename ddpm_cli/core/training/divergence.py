"""Non-finite steps: they are counted, and a training that stays non-finite is stopped."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config import presets
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.errors import DivergedError
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.files import finite, write_json
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.state import Progress
from ddpm_cli.core.training.step import Outcome

_HIGH = 20  # times the preset's learning rate is warned of
_MAX_NON_FINITE_STEPS = 20  # consecutive non-finite steps after which training has diverged


class StepRecord(NamedTuple):
    """One step in figures."""

    steps: int
    images: int
    lr: float
    grad_norm: float  # before clipping


def warning(config: RunConfig, preset: str) -> str | None:
    """A warning where the learning rate is far above the preset's; None without a preset ("")."""
    lr, usual = config.optimiser.lr, presets.learning_rate(preset)
    if not preset or lr < _HIGH * usual:
        return None
    return f"--lr {lr:g} may make training diverge: the preset {preset} has --lr {usual:g}"


class DivergenceMonitor:
    """Records the last finite step and the non-finite ones since.

    A step is non-finite where a loss or gradient of any rank is, so all ranks agree. The figures of
    a step are read when the next one is queued, so that a GPU never waits for the host; as soon as
    one was not finite, each is read at once.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        progress: Progress,
        images: DecodedImages,
        precision: torch.dtype,
        preset: str,
    ) -> None:
        """`preset`: the run's; "" for none."""
        self._preset = preset
        self._run, self._config, self._progress = run, config, progress
        self._images, self._precision = images, precision
        self._last_finite: StepRecord | None = None
        self._non_finite: list[StepRecord] = []
        self._unread: tuple[StepRecord, devices.Copy] | None = None
        self.norm = math.nan  # of the gradient, before it was clipped, of the last step read

    def record(self, lr: float, outcome: Outcome) -> None:
        """Take note of the step that was just queued, and count the one before it."""
        progress = self._progress
        figures = devices.Copy(torch.stack([outcome.norm, outcome.skipped]))
        self.read()
        self._unread = StepRecord(progress.steps, progress.images, lr, math.nan), figures
        if progress.bad_steps or not figures.is_late:
            self.read()

    def read(self) -> None:
        """Count the step recorded last: waits for it."""
        if self._unread is None:
            return
        (step, figures), self._unread = self._unread, None
        self.norm, skipped = figures.tolist()
        self._count(step._replace(grad_norm=self.norm), is_finite=not skipped)

    def _count(self, step: StepRecord, *, is_finite: bool) -> None:
        progress = self._progress
        if is_finite:
            self._last_finite, self._non_finite = step, []
            progress.bad_steps = 0
        else:
            self._non_finite.append(step)
            progress.bad_steps += 1
            progress.skipped += 1

    def reason(self, *, end: bool) -> str:
        """Why training has diverged; "" where it has not. `end`: this step was the last one."""
        progress = self._progress
        if progress.bad_steps >= _MAX_NON_FINITE_STEPS:
            return f"losses or gradients were not finite for {_MAX_NON_FINITE_STEPS} steps in a row"
        if end and progress.skipped == progress.steps:
            return "losses or gradients were not finite in any step"
        return ""

    def diverged(self, reason: str, shard: Batch, losses: Tensor) -> DivergedError:
        """The error that ends the training, after post-mortem.json was written.

        shard, losses: this rank's part of the last batch. All ranks call this.
        """
        run, steps = self._run, self._progress.steps
        newest = snapshots.listed(run.snapshots)[-1:]
        fixes = [f"--lr {self._lower_lr()} with a new --out"]
        if self._precision != torch.float32:
            fixes.insert(0, "--precision fp32, with which this run may be resumed")
        document = {
            "what": reason,
            "steps": steps,
            "images": self._progress.images,
            "processes": self._progress.processes,
            "precision": str(self._precision).removeprefix("torch."),
            "optimiser": asdict(self._config.optimiser),
            "last_good_step": self._last_finite and self._last_finite._asdict(),
            "bad_steps": [step._asdict() for step in self._non_finite],
            "last_batch": self._describe(shard, losses),
            "snapshot": str(newest[0]) if newest else None,
            "try": fixes,
        }
        distributed.broadcast_from_rank0(lambda: write_json(run.post_mortem, finite(document, str)))
        saved = f"{newest[0]} is from before" if newest else "no snapshot had been written"
        return DivergedError(
            f"stopped: {reason}, up to step {steps}; {saved}, and {run.post_mortem} has the "
            f"details. Usual fixes: {'; '.join(fixes)}"
        )

    def _lower_lr(self) -> str:
        """The preset's learning rate where this one is higher, else a third of it."""
        lr, usual = self._config.optimiser.lr, presets.learning_rate(self._preset)
        whose = f"the preset {self._preset}'s" if self._preset else "the default"
        return f"{usual:g} ({whose})" if lr > usual else f"{lr / 3:.1g}"

    def _describe(self, shard: Batch, losses: Tensor) -> dict[str, Any]:
        """Which losses of the global batch were not finite, of which images, at which noise level.

        An image is named by its row: its index among the source's images, from 0.
        """
        rows, sigmas = self._images.rows[shard.rows].tolist(), shard.noised.sigma.tolist()
        own = [
            {"row": row, "sigma": sigma, "loss": loss}
            for row, sigma, loss in zip(rows, sigmas, losses.tolist(), strict=True)
            if not math.isfinite(loss)
        ]
        gathered = distributed.all_gather((len(losses), own))
        return {
            "losses": sum(count for count, _ in gathered),
            "not_finite": [entry for _, entries in gathered for entry in entries],
        }
