"""Rows of metrics.jsonl and metrics.csv, and the progress bar's text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.files import finite, in_words
from ddpm_cli.core.runtime.reporting import Bar, TrainingStatus
from ddpm_cli.core.runtime.run_directory import Row, RunDirectory
from ddpm_cli.core.training import ema, noise_quarters, validation
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.speed import Speed
from ddpm_cli.core.training.state import Progress
from ddpm_cli.core.training.validation import Validation

_HALFLIFE = 50_000  # of the smoothed loss, in images
_RAMPUP = 0.05  # the half-life is at most this fraction of the images seen, as of the average


class MetricsLog:
    """A row covers what was seen since the previous row, over all resumes in between.

    The smoothed loss is a sum over images divided by their number, both decayed step by step: so it
    has no bias from its start, and depends neither on the rows nor on when snapshots are written.

    The losses are also averaged by quarter of the noise levels of training. With importance
    sampling a mean there is divided by the sum of the importance weights: so it estimates the loss
    of uniform timesteps.
    """

    def __init__(
        self, run: RunDirectory, config: RunConfig, progress: Progress, device: torch.device
    ) -> None:
        self._run, self._config, self._progress = run, config, progress
        self._row = _own(progress.unlogged_losses, device)
        self._smooth = _own(progress.smoothed_losses, device)
        self._quarters = _own(progress.unlogged_quarters, device, noise_quarters.COUNT)
        self._of_noise = noise_quarters.NoiseQuarters(config, device)
        self._one = torch.ones(1, device=device)
        self._zero = torch.zeros((), device=device)
        self._device = device
        self.speed = Speed(config.optimiser.batch)
        self.peak_memory: int | None = None  # bytes of a process, over all rows of the call

    def count(
        self, losses: Tensor, sigma: Tensor, skipped: Tensor, importance: Tensor | None = None
    ) -> None:
        """Add the losses (B,) of this rank's shard of a batch, without waiting for the device.

        sigma: (B,) float32, their noise levels; skipped: (), 1 where the step was skipped: then
        nothing changes; importance: (B,), the weights that the losses were multiplied by.
        """
        batch, images = self._config.optimiser.batch, self._progress.images
        decay = ema.decay_after(batch, images, _HALFLIFE, _RAMPUP)
        seen = torch.stack([losses.sum(), losses.new_full((), len(losses))])
        kept = skipped == 0
        self._row = torch.where(kept, self._row + seen, self._row)
        self._smooth = torch.where(kept, self._smooth * decay + seen, self._smooth)
        weights = self._one.expand(len(losses)) if importance is None else importance
        pairs = torch.where(kept, torch.stack([losses, weights], dim=-1), self._zero)  # (B, 2)
        self._of_noise.add(self._quarters, sigma, pairs)

    def store(self) -> None:
        """Put the sums of losses into the progress, for a snapshot. All ranks call this."""
        progress = self._progress
        progress.unlogged_losses = distributed.all_gather(self._row.tolist())
        progress.smoothed_losses = distributed.all_gather(self._smooth.tolist())
        progress.unlogged_quarters = distributed.all_gather(self._quarters.flatten().tolist())

    def write(
        self, bar: Bar, budget: BudgetTracker, lr: float, norm: float, found: Validation | None
    ) -> None:
        """Write one row, and show it on the bar. All ranks call this.

        norm: of the gradient; found: by a validation now.
        """
        progress, speed = self._progress, self.speed.of_row()
        wait, peak = distributed.all_reduce_max(
            self.speed.data_wait_of_row(), devices.peak_memory(self._device) or 0
        )
        sums = torch.cat([torch.stack([self._row, self._smooth]), self._quarters])
        progress.loss, smooth, *quarters = _means(sums)
        if not math.isnan(smooth):
            progress.loss_smooth = smooth
        row: Row = {
            "images": progress.images,
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
            "budget_used": min(budget.used, 1.0),
            "loss": progress.loss,
            "loss_smooth": progress.loss_smooth,
            "loss_holdout": None,
            **{f"loss_q{quarter}": loss for quarter, loss in enumerate(quarters)},
            "lr": lr,
            "grad_norm": norm,
            "images_per_second": speed and round(speed, 2),
            "skipped_steps": progress.skipped,
            "save_seconds": round(progress.save_seconds, 3),
            "data_wait": round(wait, 4),
            "peak_memory": int(peak) or None,
            **self._columns_of(found),
        }
        distributed.broadcast_from_rank0(lambda: self._run.append_row(finite(row)))
        if peak:
            self.peak_memory = max(int(peak), self.peak_memory or 0)
        memory = f", {in_words(peak)}" if peak else ""
        skipped = f", {progress.skipped} non-finite steps skipped" if progress.skipped else ""
        bar.update(
            100 * min(budget.used, 1),
            f"{progress.images:,} images, {self.speed.mean or 0:,.1f} images/s, "
            f"loss {progress.loss_smooth:.4f}{memory}{skipped}",
            TrainingStatus(
                run=self._run.path,
                images=progress.images,
                budget=budget.images,
                images_per_second=self.speed.mean,
                loss=progress.loss_smooth,
                lr=lr,
                memory=int(peak) or None,
                skipped=progress.skipped,
            ),
        )
        self._row.zero_()
        self._quarters.zero_()

    def _columns_of(self, found: Validation | None) -> Row:
        """A validation's columns, which every row of a run with held-out images has."""
        if found is not None:
            return found.row
        holds_out = self._config.data.holdout or self._config.holdout_data
        return dict.fromkeys(validation.COLUMNS) if holds_out else {}


def _own(by_rank: list[list[float]], device: torch.device, *shape: int) -> Tensor:
    """This rank's share of sums and counts (*shape, 2) that were stored by rank."""
    own = by_rank[distributed.rank() :: distributed.world_size()]
    return torch.tensor(own, device=device).reshape(-1, *shape, 2).sum(0)


def _means(sums: Tensor) -> list[float]:
    """The means of sums and counts (N, 2) over all ranks; NaN of none."""
    totals: list[list[float]] = distributed.all_reduce_sum(sums).tolist()
    return [total / count if count else math.nan for total, count in totals]
