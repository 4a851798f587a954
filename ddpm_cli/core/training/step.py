"""One optimiser step on the device: it reads nothing back, so that the host never waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion import consistency, step_distillation
from ddpm_cli.core.diffusion.consistency import ConsistencyScalars
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.losses import training_loss
from ddpm_cli.core.diffusion.step_distillation import StepScalars
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.training import ema
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.learned_weight import balanced
from ddpm_cli.core.training.state import TrainingState


class Outcome(NamedTuple):
    """What a step found, on the device."""

    losses: Tensor  # (B,), of this rank's shard, without importance weights
    norm: Tensor  # (), of the gradient before it was clipped
    skipped: Tensor  # () float32: 1 where a loss or the gradient of any rank was not finite


class Step:
    """The gradient of a batch, and the update of weights and average.

    A step that is not finite on any rank changes nothing: the optimiser's kernels and the average's
    take a flag from the device.
    """

    def __init__(
        self,
        config: RunConfig,
        state: TrainingState,
        network: nn.Module,
        denoiser: Denoiser,
        device: torch.device,
        precision: torch.dtype,
        microbatch: int | None,
        reporter: Reporter,
        teacher: Denoiser | None = None,
    ) -> None:
        """network: the state's, or that with its gradients averaged over ranks.

        teacher: of a student, where its steps are learned.
        """
        self._config, self._state, self._network, self._denoiser = config, state, network, denoiser
        self._device, self._precision, self._reporter = device, precision, reporter
        self._teacher = teacher
        self.microbatch = microbatch  # images in a forward pass; None: the whole shard
        self._fits = False  # whether there was memory for a gradient
        self._parameters = list(state.network.parameters())
        self._weight = state.weight and distributed.data_parallel(state.weight, device)

    def __call__(self, shard: Batch, decays: ema.Decays) -> Outcome:
        """Take a step. decays: of the averages, as `TrainingState.decays`."""
        losses = self.gradient(shard)
        norm, skipped = self.clip(losses)
        self.update(decays, skipped)
        return Outcome(losses, norm, skipped)

    def gradient(self, shard: Batch) -> Tensor:
        """Add up the gradient of the mean loss over the global batch, a microbatch at a time.

        Returns the losses (B,) of this rank's shard, without importance weights. Where the first
        gradient of a single process runs out of memory, the microbatch is halved: not of several,
        where others may wait for this one within the backward pass.
        """
        while not self._fits:
            try:
                losses = self._gradient(shard)
            except (MemoryError, RuntimeError) as error:
                smallest = self.microbatch == 1 or len(shard) == 1
                if smallest or distributed.world_size() > 1 or not devices.is_out_of_memory(error):
                    raise
                reason = devices.why_out_of_memory(error)
            else:
                self._fits = True
                return losses
            self._halve(shard, reason)  # once the error, which holds the activations, is gone
        return self._gradient(shard)

    def _halve(self, shard: Batch, reason: str) -> None:
        before = min(self.microbatch or len(shard), len(shard))
        self.microbatch = -(-before // 2)
        self._state.optimiser.zero_grad(set_to_none=True)
        if self._config.network.dropout:
            torch.manual_seed(torch.initial_seed())  # which the trainer chose for this step
        devices.release_memory(self._device)
        but = but_for_masks(self._config)
        self._reporter.say(
            Warned(
                f"Out of memory with {before:,} images at once ({reason}): going on with "
                f"--microbatch {self.microbatch}, whose gradient is the same{but}"
            )
        )

    def _gradient(self, shard: Batch) -> Tensor:
        scale = distributed.world_size() / self._config.optimiser.batch  # of the mean over ranks
        microbatches, unweighted = shard.microbatches(self.microbatch), []
        for batch in microbatches:
            last = batch is microbatches[-1]
            with self._accumulate(last=last):
                losses = self.losses(self._denoiser, batch)
                unweighted.append(losses.detach())
                if self._weight is not None:
                    losses = balanced(losses, self._weight(batch.scalars.sigma))
                torch.autograd.backward(scale * weighted(losses, batch).sum())
        return unweighted[0] if len(unweighted) == 1 else torch.cat(unweighted)

    @contextmanager
    def _accumulate(self, *, last: bool) -> Iterator[None]:
        with distributed.accumulate_gradients(self._network, last=last):
            if self._weight is None:
                yield
                return
            with distributed.accumulate_gradients(self._weight, last=last):
                yield

    def losses(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """The loss of each image (B,)."""
        noised, condition, _, scalars, _ = batch
        objective = self._config.objective
        with devices.autocast(self._device, self._precision):
            if isinstance(scalars, ConsistencyScalars):
                return consistency.loss(
                    denoiser,
                    noised,
                    condition,
                    objective,
                    scalars,
                    teacher=self._teacher,
                    dropout=self._config.network.dropout > 0,
                )
            if isinstance(scalars, StepScalars):
                assert self._teacher is not None
                return step_distillation.loss(
                    denoiser, noised, condition, objective, scalars, self._teacher
                )
            return training_loss(denoiser, noised, condition, objective, scalars)

    def clip(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Clip the gradient: its norm before that, and whether to skip the step; both ()."""
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if (largest := self._config.optimiser.clip) is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, largest, norm)
        is_finite = norm.isfinite() & losses.isfinite().all()
        return norm, distributed.maximum((~is_finite).float())

    def update(self, decays: ema.Decays, skipped: Tensor) -> None:
        """Update weights and average, unless the step is skipped; the gradient is dropped.

        The flag stays on the device; but it is read where fused optimisers may not know it.
        """
        state, optimiser = self._state, self._state.optimiser
        if self._device.type != "mps" or not skipped:
            optimiser.found_inf = skipped  # type: ignore[attr-defined]  # as torch.amp.GradScaler
            optimiser.step()
            ema.update(state.average, state.network, decays[0], skipped)
        optimiser.zero_grad(set_to_none=True)
        # Power profiles are of the images seen: of a skipped step's, too, with unchanged weights.
        for average, decay in zip(state.power_averages.values(), decays[1:], strict=True):
            ema.update(average, state.network, decay, torch.zeros_like(skipped))


def weighted(losses: Tensor, batch: Batch) -> Tensor:
    """The losses (B,) times their importance weights, if there are any."""
    return losses if batch.importance is None else batch.importance * losses


def but_for_masks(config: RunConfig) -> str:
    """In what the gradients of other microbatches differ, after "the same"; "" where they do not.

    A forward pass draws the masks of its own images.
    """
    return " but for the masks of dropout" if config.network.dropout else ""
