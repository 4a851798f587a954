"""What a training leaves on the disk as it goes: snapshots and weights, previews, a loss curve."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import watchdog
from ddpm_cli.core.runtime.files import check_free_space
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import preview
from ddpm_cli.core.training.state import State

_CURVE_EVERY = 60.0  # seconds between drawings of the loss curve, which takes longer than a step


class Saver:
    """The first process writes; the others learn how that ended, so that all go on or none.

    A save begins with a copy of the state. Everything else, which takes the longest, happens beside
    the training, one save at a time. The watchdog does not count the time that is spent here.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        state: State,
        averaged: Denoiser,
        device: torch.device,
    ) -> None:
        self._run, self._config, self._state = run, config, state
        self._averaged, self._device = averaged, device
        self._writer = ThreadPoolExecutor(1, "saving")
        self._pending: Future[None] | None = None
        self._curve_drawn = -math.inf
        self.seconds = state.progress.save_seconds if distributed.is_main() else 0.0  # of a save

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Let a save that is under way come to its end, whatever else went wrong.

        But who asks to stop twice does not wait.
        """
        with watchdog.paused():
            self._writer.shutdown(wait=kind is not KeyboardInterrupt)

    @property
    def failed(self) -> bool:
        """Whether the last save has ended badly: `finish` says how."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def due(self) -> bool:
        """At every multiple of snapshot_every, and once early, to have something to sample."""
        images, batch = self._state.progress.images, self._config.optimiser.batch
        every = self._config.snapshot_every
        return passed_multiple(images, batch, every) or images - batch < every // 10 <= images

    def start(self, *, best: bool = False) -> None:
        """Save the state as it is now; `best`: its weights are the best so far.

        Raises DdpmError where the save before it failed.
        """
        with watchdog.paused():
            distributed.broadcast_from_rank0(lambda: self._start(best=best))

    def finish(self) -> None:
        """Wait until the last save is on the disk. Raises DdpmError where it failed."""
        with watchdog.paused():
            distributed.broadcast_from_rank0(self._finish)

    def show(self, *, ending: bool) -> None:
        """Draw a preview and, now and then and in the end, the loss curve."""
        with watchdog.paused():
            distributed.broadcast_from_rank0(lambda: self._show(ending=ending))

    def _start(self, *, best: bool) -> None:
        self._finish()
        started = time.monotonic()
        held = self._state.copied()
        self._pending = self._writer.submit(self._write, held, started, best=best)

    def _finish(self) -> None:
        if self._pending is None:
            return
        try:
            self._pending.result()
        except DdpmError as error:
            held = snapshots.listed(self._run.snapshots)
            newest = f"; the newest snapshot is {held[-1]}" if held else ""
            raise DdpmError(f"{error}{newest}: run the same command again to go on") from error

    def _write(self, held: snapshots.StateDict, started: float, *, best: bool) -> None:
        run, config, images = self._run, self._config, held["progress"]["images"]
        places = [run.weights, run.best] if best else [run.weights]
        needed = snapshots.size(held) + len(places) * snapshots.size(held["average"])
        check_free_space(run.path, needed, "a snapshot and the weights", "free some space")
        for place in places:
            weights.save(place, held["average"], config, images)
        snapshots.write(run.snapshots, held)  # last: it says that all above is there
        snapshots.prune(run.snapshots, config.keep, config.keep_every)
        self.seconds = time.monotonic() - started

    def _show(self, *, ending: bool) -> None:
        from ddpm_cli.core.figures import plots  # brings matplotlib, for one process of many

        images = self._state.progress.images
        preview.draw(self._run, self._averaged, self._config, images, self._device)
        if ending or time.monotonic() - self._curve_drawn > _CURVE_EVERY:
            plots.loss_curve(self._run.loss_plot, self._run.rows())
            self._curve_drawn = time.monotonic()


def check_room(folder: Path, config: RunConfig, parameters: int) -> None:
    """Raise DdpmError where a run of so many parameters will not find the space to be saved.

    That is one snapshot more than are kept, and the weights, the best ones and those being written.
    """
    snapshot, one = snapshots.estimate(parameters), 4 * parameters
    there = sum(path.stat().st_size for path in snapshots.listed(RunDirectory(folder).snapshots))
    needed = max(snapshot, (config.keep + 1) * snapshot - there) + 3 * one
    mend = "free some, lower --keep, or choose another --out"
    check_free_space(folder, needed, "the run's snapshots and weights", mend)


def passed_multiple(images: int, batch: int, every: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and images // every > (images - batch) // every
