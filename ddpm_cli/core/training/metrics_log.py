"""Rows of metrics.jsonl and metrics.csv, and the progress bar's text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import finite
from ddpm_cli.core.runtime.reporting import Bar
from ddpm_cli.core.runtime.run_directory import Row, RunDirectory
from ddpm_cli.core.training.state import Progress


class MetricsLog:
    """A row covers what was seen since the previous row, over all resumes in between."""

    def __init__(
        self, run: RunDirectory, config: RunConfig, progress: Progress, device: torch.device
    ) -> None:
        self._run, self._config, self._progress = run, config, progress
        own = progress.unlogged_losses[distributed.rank() :: distributed.world_size()]
        self._losses = torch.tensor(own, device=device).reshape(-1, 2).sum(0)  # sum and count
        self._since = (
            progress.images - progress.unlogged_images,
            progress.seconds - progress.unlogged_seconds,
        )
        self.every = max(config.optimiser.batch, config.snapshot_every // 100)  # images

    def count(self, losses: Tensor) -> None:
        """Add the losses (B,) of this rank's shard of a batch, without waiting for the device."""
        self._losses[0] += losses.sum()
        self._losses[1] += len(losses)

    def store_unlogged(self) -> None:
        """Put what is not logged yet into the progress, for a snapshot. All ranks call this."""
        progress = self._progress
        progress.unlogged_images = progress.images - self._since[0]
        progress.unlogged_seconds = progress.seconds - self._since[1]
        progress.unlogged_losses = distributed.all_gather(self._losses.tolist())

    def write(self, bar: Bar, used: float, lr: float, norm: float, held_out: float | None) -> None:
        """Write one row, and show it on the bar. All ranks call this.

        used: fraction of the budget; norm: of the gradient; held_out: the validation loss.
        """
        progress = self._progress
        images = progress.images - self._since[0]
        speed = images / max(progress.seconds - self._since[1], 1e-9)
        summed, count = distributed.all_reduce_sum(self._losses).tolist()
        loss = summed / count if count else math.nan
        if count:
            progress.loss_smooth = self._smoothed(loss, images)
        row: Row = {
            "images": progress.images,
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
            "loss": loss,
            "loss_smooth": progress.loss_smooth,
            "loss_holdout": held_out,
            "lr": lr,
            "grad_norm": norm,
            "images_per_second": round(speed, 2),
            "skipped_steps": progress.skipped,
            "save_seconds": round(progress.save_seconds, 3),
        }
        distributed.broadcast_from_rank0(lambda: self._run.append_row(finite(row)))
        skipped = f", {progress.skipped} non-finite steps skipped" if progress.skipped else ""
        bar.update(
            100 * min(used, 1),
            f"{progress.images:,} images, {speed:,.1f} images/s, "
            f"loss {progress.loss_smooth:.4f}{skipped}",
        )
        self._start_row()

    def _smoothed(self, loss: float, images: int) -> float:
        halflife = self._config.snapshot_every / 20  # in images
        keep, old = 0.5 ** (images / halflife), self._progress.loss_smooth
        return loss if math.isnan(old) else keep * old + (1 - keep) * loss

    def _start_row(self) -> None:
        self._losses.zero_()
        progress = self._progress
        self._since = (progress.images, progress.seconds)
        progress.unlogged_images, progress.unlogged_seconds = 0, 0.0
        progress.unlogged_losses = []
