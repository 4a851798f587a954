"""What a training writes as it runs: snapshots and weights, previews, a loss curve."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import watchdog
from ddpm_cli.core.runtime.files import check_free_space
from ddpm_cli.core.runtime.reporting import SILENT, Dispensable, Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import preview
from ddpm_cli.core.training.state import TrainingState

_CURVE_INTERVAL = 60.0  # seconds between drawings of the loss curve, which takes longer than a step


class Saver:
    """Rank 0 writes; the other ranks learn whether it failed, so that all continue or none.

    A save begins with a copy of the state. Everything else, which takes longest, happens in a
    background thread, one save at a time. The watchdog does not count the time spent here.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        state: TrainingState,
        averaged: Denoiser,
        device: torch.device,
        reporter: Reporter = SILENT,
        training: DecodedImages | None = None,
    ) -> None:
        """`training`: images, of which previews take what the network is given."""
        self._training = training
        self._run, self._config, self._state = run, config, state
        self._averaged, self._device = averaged, device
        self._dispensable = Dispensable(reporter)
        self._writer = ThreadPoolExecutor(1, "saving")
        self._pending: Future[None] | None = None
        self._curve_drawn = -math.inf
        self.seconds = state.progress.save_seconds if distributed.is_main() else 0.0  # of a save

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Wait for a save in progress, whatever else failed; not after a second Ctrl-C."""
        with watchdog.paused():
            self._writer.shutdown(wait=kind is not KeyboardInterrupt)

    @property
    def failed(self) -> bool:
        """Whether the last save failed: `finish` raises its error."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def is_due(self) -> bool:
        """At every multiple of snapshot_every, and once early, to have weights to sample from."""
        images, batch = self._state.progress.images, self._config.optimiser.batch
        every = self._config.snapshot_every
        return passed_multiple(images, batch, every) or images - batch < every // 10 <= images

    def start(self, *, snapshot: bool = True, best: bool = False) -> None:
        """Save the state as it is now, the weights as the best so far, or both.

        Raises DdpmError where the previous save failed.
        """
        with watchdog.paused():
            distributed.broadcast_from_rank0(lambda: self._start(snapshot=snapshot, best=best))

    def finish(self) -> None:
        """Wait until the last save is on the disk. Raises DdpmError where it failed."""
        with watchdog.paused():
            distributed.broadcast_from_rank0(self._finish)

    def save_previews(self, *, last: bool) -> None:
        """Sample a preview and, now and then and at the end, plot the loss curve.

        Where that fails, it is a notice.
        """
        with watchdog.paused():
            distributed.broadcast_from_rank0(lambda: self._draw(last=last))

    def _start(self, *, snapshot: bool, best: bool) -> None:
        self._finish()
        started = time.monotonic()
        state = self._state.copied_state_dict(*(() if snapshot else ("average", "progress")))
        self._pending = self._writer.submit(
            self._write, state, started, snapshot=snapshot, best=best
        )

    def _finish(self) -> None:
        if self._pending is None:
            return
        try:
            self._pending.result()
        except DdpmError as error:
            existing = snapshots.listed(self._run.snapshots)
            newest = f"; the newest snapshot is {existing[-1]}" if existing else ""
            raise DdpmError(f"{error}{newest}: run the same command again to resume") from error

    def _write(
        self, state: snapshots.StateDict, started: float, *, snapshot: bool, best: bool
    ) -> None:
        run, config, images = self._run, self._config, state["progress"]["images"]
        files = snapshot * [run.weights] + best * [run.best]
        needed = snapshot * snapshots.size(state) + len(files) * snapshots.size(state["average"])
        what = "a snapshot and the weights" if snapshot else "the best weights"
        check_free_space(run.path, needed, what, "free some space")
        for file in files:
            weights.save(file, state["average"], config, images, run.read_statistics())
        if not snapshot:
            return
        # Last: a snapshot implies that its weights are there.
        snapshots.write(run.snapshots, state | {"config": to_dict(config)})
        snapshots.prune(run.snapshots, config.keep, config.keep_every)
        self.seconds = time.monotonic() - started

    def _draw(self, *, last: bool) -> None:
        images = self._state.progress.images
        with self._dispensable.attempt("the preview"):
            preview.save_preview(
                self._run, self._averaged, self._config, images, self._device, self._training
            )
        if last or time.monotonic() - self._curve_drawn > _CURVE_INTERVAL:
            self._curve_drawn = time.monotonic()
            with self._dispensable.attempt("the loss curve"):
                from ddpm_cli.core.figures import holdout, plots  # import matplotlib: rank 0 alone

                label, rows = plots.loss_label(self._config), self._run.rows()
                plots.loss_curve(self._run.loss_plot, rows, label)
                holdout.curves(self._run.holdout_plot, rows, label, self._config.stop_at_gap)


def check_disk_space(folder: Path, config: RunConfig, parameters: int) -> None:
    """Raise DdpmError where the disk has no space for a run of so many parameters.

    It needs one snapshot more than are kept, the weights, the best weights and those being written.
    """
    snapshot, weights_size = snapshots.estimate(parameters), 4 * parameters
    existing = snapshots.listed(RunDirectory(folder).snapshots)
    present = sum(path.stat().st_size for path in existing)
    needed = max(snapshot, (config.keep + 1) * snapshot - present) + 3 * weights_size
    fix = "free some, lower --keep, or choose another --out"
    check_free_space(folder, needed, "the run's snapshots and weights", fix)


def passed_multiple(images: int, batch: int, every: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and images // every > (images - batch) // every
