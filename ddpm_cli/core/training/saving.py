"""What a training writes as it runs: snapshots, weights and averages, previews, a loss curve."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_cli.core.checkpoints import post_hoc, snapshots, weights
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
from ddpm_cli.core.training import preview, teacher
from ddpm_cli.core.training.state import TrainingState

_CURVE_INTERVAL = 60.0  # seconds between drawings of the loss curve, which takes longer than a step


class _What(NamedTuple):
    """What a save writes."""

    snapshot: bool
    best: bool
    power_averages: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the state; all of it, where none is named."""
        if self.snapshot:
            return ()
        return ("progress", *self.best * ("average",), *self.power_averages * ("power_averages",))

    def __str__(self) -> str:
        """In words, for a message."""
        if self.snapshot:
            return "a snapshot and the weights"
        return "the best weights" if self.best else "two averages of the weights"


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

    def start(
        self, *, snapshot: bool = True, best: bool = False, power_averages: bool = False
    ) -> None:
        """Save the state as it is now, the weights as the best so far, the averages, or all.

        Raises DdpmError where the previous save failed.
        """
        what = _What(snapshot, best, power_averages)
        with watchdog.paused():
            distributed.broadcast_from_rank0(lambda: self._start(what))

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

    def _start(self, what: _What) -> None:
        self._finish()
        started = time.monotonic()
        state = self._state.copied_state_dict(*what.parts)
        self._pending = self._writer.submit(self._write, state, started, what)

    def _finish(self) -> None:
        if self._pending is None:
            return
        try:
            self._pending.result()
        except DdpmError as error:
            existing = snapshots.listed(self._run.snapshots)
            newest = f"; the newest snapshot is {existing[-1]}" if existing else ""
            raise DdpmError(f"{error}{newest}: run the same command again to resume") from error

    def _write(self, state: snapshots.StateDict, started: float, what: _What) -> None:
        run, config, images = self._run, self._config, state["progress"]["images"]
        files = what.snapshot * [run.weights] + what.best * [run.best]
        averages = state["power_averages"] if what.power_averages else {}
        needed = what.snapshot * snapshots.size(state) + snapshots.size(averages)
        needed += len(files) * snapshots.size(state.get("average"))
        check_free_space(run.path, needed, str(what), "free some space")
        statistics = run.read_statistics()
        for file in files:
            weights.save(file, state["average"], config, images, statistics)
        post_hoc.store(run, averages, config, images, statistics)
        if not what.snapshot:
            return
        # Last: a snapshot implies that its weights and the averages until then are there.
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


def check_disk_space(folder: Path, config: RunConfig, parameters: int, images: int | None) -> None:
    """Raise DdpmError where the disk has no space for a run of so many parameters and images.

    It needs one snapshot more than are kept, the weights, the best weights, those being written,
    and the averages that are not stored yet. images: None where only time ends the run.
    """
    run, weights_size = RunDirectory(folder), 4 * parameters
    snapshot = snapshot_size(config, parameters)
    present = _bytes(snapshots.listed(run.snapshots))
    needed = max(snapshot, (config.keep + 1) * snapshot - present) + 3 * weights_size
    stored = _bytes([one.path for one in post_hoc.stored(run)])
    needed += max(0, averages_size(config, parameters, images) - stored)
    if teacher.is_needed(config) and not run.teacher.is_file():
        needed += weights_size
    fewer = "lower --keep" if config.ema_every is None else "lower --keep, raise --ema-every"
    fix = f"free some, {fewer}, or choose another --out"
    check_free_space(folder, needed, "the run's snapshots and weights", fix)


def snapshot_size(config: RunConfig, parameters: int) -> int:
    """Bytes of a snapshot, with the averages of --ema-every."""
    averages = 0 if config.ema_every is None else len(post_hoc.TRACKED)
    return snapshots.estimate(parameters) + averages * 4 * parameters


def averages_size(config: RunConfig, parameters: int, images: int | None) -> int:
    """Bytes of all averages that a run of so many images stores; where that is unknown, at once."""
    if config.ema_every is None:
        return 0
    batch = config.optimiser.batch
    times = min(-(-(images or 1) // config.ema_every), -(-(images or 1) // batch))
    return times * len(post_hoc.TRACKED) * 4 * parameters


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def passed_multiple(images: int, batch: int, every: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return every > 0 and images // every > (images - batch) // every
