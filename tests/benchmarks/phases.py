"""The phases of a training step, marked from outside by the functions that each calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from ddpm_cli.core.training import ema
from ddpm_cli.core.training import step as training_step
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step

PHASES = ("data", "forward", "backward", "clip", "optimiser", "EMA")


@contextmanager
def marked(
    state: TrainingState, phase: Callable[[str], AbstractContextManager[object]]
) -> Iterator[None]:
    """Enter `phase(name)` for the time of each phase of a step but the first, the data."""

    entered: set[str] = set()

    def within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name in entered:  # torch calls some functions again by their names
                return function(*arguments, **options)
            entered.add(name)
            with phase(name):
                out = function(*arguments, **options)
            entered.remove(name)
            return out

        return call

    with ExitStack() as stack:
        for name, owner, function in (
            ("forward", training_step, "training_loss"),
            ("backward", torch.autograd, "backward"),
            ("clip", Step, "clip"),
            ("optimiser", state.optimiser, "step"),
            ("EMA", ema, "update"),
        ):
            original = getattr(owner, function)
            stack.enter_context(mock.patch.object(owner, function, within(name, original)))
        yield
