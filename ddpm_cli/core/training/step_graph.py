"""A training step recorded once as a CUDA graph: one launch in place of some thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.training import ema
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.step import Outcome, Step

_WARM_UP = 3  # steps before the recording: torch, cuDNN and Triton choose their kernels in them


class GraphedStep(Step):
    """A Step whose forward and backward pass, clipping and updates are replayed.

    What differs from step to step is copied into tensors that the recording reads: the batch, the
    learning rate and the decays. Until `record`, where that failed, and for a batch of another
    shape, steps are taken as Step takes them.
    """

    _replay: Callable[[], object] | None = None

    def record(self, shard: Batch, reporter: Reporter) -> None:
        """Record a step with a batch like this one; a failure is reported. No step is taken."""
        groups = self._state.optimiser.param_groups
        try:
            self._rates = [torch.zeros((), device=self._device) for _ in groups]
            one = torch.ones((), dtype=torch.float64, device=self._device)  # changes no average
            self._decays = [one.clone() for _ in (None, *self._state.power_averages)]
            self._batch = _copied(shard)
            self._replay, self._outcome = capture(self._device, self._idle_step, self._step)
        except Exception as error:  # of many types: whatever in a step waits for the device
            self._state.optimiser.zero_grad(set_to_none=True)
            reporter.say(
                Warned(
                    "A step cannot be recorded as a CUDA graph here, so training continues "
                    f"without: {first_line(error)}"
                )
            )

    def __call__(self, shard: Batch, decays: ema.Decays) -> Outcome:
        """Take a step. decays: of the averages, as `TrainingState.decays`."""
        if self._replay is None or _shapes(shard) != _shapes(self._batch):
            return super().__call__(shard, decays)
        torch._foreach_copy_(_tensors(self._batch), _tensors(shard))
        for recorded, decay in zip(self._decays, decays, strict=True):
            recorded.fill_(decay)
        for rate, group in zip(self._rates, self._state.optimiser.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._replay()
        return Outcome(*(value.clone() for value in self._outcome))

    def _step(self) -> Outcome:
        with self._recorded_rates():
            return super().__call__(self._batch, self._decays)

    def _idle_step(self) -> None:
        """A step that is skipped: all its kernels run, and nothing changes."""
        with self._recorded_rates():
            self.clip(self.gradient(self._batch))
            self.update(self._decays, torch.ones((), device=self._device))

    @contextmanager
    def _recorded_rates(self) -> Iterator[None]:
        """Let the optimiser read the learning rates from the device.

        Its groups hold numbers again afterwards: so snapshots are those of any other step.
        """
        groups = self._state.optimiser.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        recording = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"], group["capturable"] = rate, recording
        try:
            yield
        finally:
            for group, (lr, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = lr, capturable


def capture(
    device: torch.device, warm_up: Callable[[], object], step: Callable[[], Outcome]
) -> tuple[Callable[[], object], Outcome]:
    """Record a step: what replays it, and the tensors that it then writes.

    Raises an error of any type where that is not possible.
    """
    if device.type != "cuda":
        raise DdpmError("it needs a CUDA GPU")
    if distributed.world_size() > 1:
        raise DdpmError("it is for a single process")
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            warm_up()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another thread brings the next batch to the device meanwhile, which it may.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outcome = step()
    return graph.replay, outcome


def _tensors(batch: Batch) -> list[Tensor]:
    """All that a step reads of a batch."""
    noised, condition, _, scalars, importance = batch
    fields = (noised.x0, noised.noise, *condition, *scalars, importance)
    return [field for field in fields if field is not None]


def _shapes(batch: Batch) -> list[torch.Size]:
    return [tensor.shape for tensor in _tensors(batch)]


def _copied(batch: Batch) -> Batch:
    """A copy in memory of its own, without sigma on the CPU, which a step does not read."""
    noised, condition, rows, scalars, importance = batch

    def copies(fields: tuple[Tensor | None, ...]) -> list[Any]:
        return [None if field is None else field.clone() for field in fields]

    return Batch(
        Noised(noised.x0.clone(), noised.noise.clone(), noised.sigma.to("meta")),
        Condition(*copies(condition)),
        rows,
        type(scalars)(*copies(scalars)),
        *copies((importance,)),
    )
