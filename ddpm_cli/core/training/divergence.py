"""Numbers that go wrong: bad steps are counted, and a training that stays wrong is explained."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.errors import DivergedError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import write_text
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.state import Progress

_PATIENCE = 20  # bad steps in a row after which training has diverged


class StepRecord(NamedTuple):
    """One step in figures."""

    steps: int
    images: int
    lr: float
    grad_norm: float  # before clipping


class DivergenceMonitor:
    """The last good step and the bad ones since: those whose losses or gradients were not finite.

    Steps are judged by all processes together, so that all come to the same end.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        progress: Progress,
        pictures: DecodedImages,
        precision: torch.dtype,
    ) -> None:
        self._run, self._config, self._progress = run, config, progress
        self._pictures, self._precision = pictures, precision
        self._good: StepRecord | None = None
        self._bad: list[StepRecord] = []

    def note(self, lr: float, norm: float, *, good: bool) -> None:
        """Count the step that was just made, or skipped."""
        progress = self._progress
        step = StepRecord(progress.steps, progress.images, lr, norm)
        if good:
            self._good, self._bad = step, []
            progress.bad_steps = 0
        else:
            self._bad.append(step)
            progress.bad_steps += 1
            progress.skipped += 1

    @property
    def trouble(self) -> str:
        """What is wrong, where it has been wrong for too long; else nothing."""
        if self._progress.bad_steps < _PATIENCE:
            return ""
        return f"losses or gradients were not finite for {_PATIENCE} steps in a row"

    def diverged(self, trouble: str, share: Batch, losses: Tensor) -> DivergedError:
        """The error that ends the training, once a post-mortem lies in the run directory.

        share, losses: this process's part of the last batch. All processes call this.
        """
        run, steps = self._run, self._progress.steps
        newest = snapshots.listed(run.snapshots)[-1:]
        mends = [f"--lr {self._config.optimiser.lr / 3:.1g} with a new --out"]
        if self._precision != torch.float32:
            mends.insert(0, "--precision fp32, with which this run may go on")
        document = {
            "what": trouble,
            "steps": steps,
            "images": self._progress.images,
            "processes": self._progress.processes,
            "precision": str(self._precision).removeprefix("torch."),
            "optimiser": asdict(self._config.optimiser),
            "last_good_step": self._good and self._good._asdict(),
            "bad_steps": [step._asdict() for step in self._bad],
            "last_batch": self._autopsy(share, losses),
            "snapshot": str(newest[0]) if newest else None,
            "try": mends,
        }
        text = json.dumps(_plain(document), indent=2, allow_nan=False) + "\n"
        distributed.broadcast_from_rank0(lambda: write_text(run.post_mortem, text))
        saved = f"{newest[0]} is from before" if newest else "no snapshot had been written"
        return DivergedError(
            f"stopped: {trouble}, up to step {steps}; {saved}, and {run.post_mortem} tells more. "
            f"Usual mends: {'; '.join(mends)}"
        )

    def _autopsy(self, share: Batch, losses: Tensor) -> dict[str, Any]:
        """Which losses of the whole batch were not finite, of which pictures, at which noise.

        A picture is told by its row: its place among the source's, sorted by name, from 0.
        """
        rows, sigmas = self._pictures.rows[share.rows].tolist(), share.noised.sigma.tolist()
        mine = [
            {"row": row, "sigma": sigma, "loss": loss}
            for row, sigma, loss in zip(rows, sigmas, losses.tolist(), strict=True)
            if not math.isfinite(loss)
        ]
        everywhere = distributed.all_gather((len(losses), mine))
        return {
            "losses": sum(count for count, _ in everywhere),
            "not_finite": [entry for _, entries in everywhere for entry in entries],
        }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: their names stand for them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
