"""How long a step of a training takes: measured on a few, before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.errors import first_line
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import teacher
from ddpm_cli.core.training.preparation.planning import TrainingPlan
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

_SECONDS = 3.0  # of one trial, at most, unless one image takes longer


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, as several trials give them, and how they were found."""

    fastest: float
    slowest: float
    spent: float  # on measuring, with the set-up
    images: int  # of the largest trial
    measured: str  # in words

    @property
    def mean(self) -> float:
        """Seconds of a step."""
        return (self.fastest + self.slowest) / 2

    def images_seen(self, config: RunConfig, images: int) -> int | None:
        """Images that a run will see at this speed, of `images` an epoch, where time ends it.

        None where another limit does.
        """
        limit = config.budget.in_images(config.optimiser.batch, images)
        if config.budget.minutes is None:
            return None
        seen = round(60 * config.budget.minutes / self.mean) * config.optimiser.batch
        return seen if limit is None or seen < limit else None


def measure(
    plan: TrainingPlan,
    execution: Execution,
    training: DecodedImages,
    held_out: DecodedImages,
    processes: int,
) -> StepTime | str:
    """Take steps of the training, whose state is then discarded; or why there is no measurement.

    A step of more images than can be tried in seconds is extrapolated from fewer.
    """
    if distributed.world_size() > 1:
        return "not measured with several processes at once; --nproc measures in one"
    started = time.monotonic()
    config, execution = plan.config, plan.fitted(execution)
    if teacher.is_needed(config):
        config = plan.whole_config  # which says where the teacher is
    device = execution.device
    # On a CPU the processes share its cores, on GPUs each has its own.
    share = processes if device.type == "cuda" else 1
    whole = -(-config.optimiser.batch // share)
    try:
        state = TrainingState.initial(config, device)
        run = RunDirectory(plan.out)
        # Compiling alone would take minutes.
        eager = replace(execution, compiled=False, cuda_graph=False)
        trainer = Trainer(run, config, state, training, held_out, eager, SILENT)
        try:
            seconds, tried = _trials(trainer, whole)
        finally:
            trainer.batches.close()
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
        return f"not measured: {first_line(error)}"
    return StepTime(
        min(seconds),
        max(seconds),
        time.monotonic() - started,
        tried,
        _in_words(tried, whole, len(seconds), share),
    )


def _trials(trainer: Trainer, whole: int) -> tuple[list[float], int]:
    """Seconds of a step of `whole` images, by each trial, and the images of a trial."""
    first = trainer.trial(1)  # includes start-up
    if first.gradient > _SECONDS:
        return [first.of(whole, 1)], 1
    tried, latest = 1, trainer.trial(1)
    while tried < whole and latest.gradient < _SECONDS / 4:  # few images take longer for each
        more = int(tried * _SECONDS / 2 / max(latest.gradient, 1e-6))
        tried = min(whole, max(2 * tried, more))
        latest = trainer.trial(tried)
    return [trial.of(whole, tried) for trial in (latest, trainer.trial(tried))], tried


def _in_words(tried: int, whole: int, count: int, share: int) -> str:
    unit = "image" if tried == 1 else "images"
    each = "a step" if share == 1 else "a process's part of a step"
    if tried == whole:
        return f"measured on {count} steps" if share == 1 else f"measured on {each}"
    return f"extrapolated from {tried:,} {unit} to the {whole:,} of {each}"
