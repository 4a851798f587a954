"""Whether the network is compiled, and training without where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.compiling import run_compiled
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import Reporter

_RATE = 60e12  # operations per second of an eager bf16 step on one H200: faster ones end sooner
_WORTH = 20 * 60  # seconds of training from which a gain of 1.15 pays for a minute or two


class Decision(NamedTuple):
    """Whether to compile."""

    compiled: bool
    reason: str = ""  # in a sentence; "": nothing to say


def check(config: RunConfig, *, asked: bool | None, graph: bool) -> None:
    """Raise UsageError for compiling what compiled would be another training."""
    if not _shares_masks(config) or not (asked or graph):
        return
    option = "--compile" if asked else "--cuda-graph"
    raise UsageError(
        f"{option}: the two passes of consistency tuning share masks of dropout, and compiled or "
        "recorded ones do not: leave it out, or give --dropout 0"
    )


def _shares_masks(config: RunConfig) -> bool:
    """Whether two passes have the same masks of dropout, as in consistency tuning.

    Compiled ones, each a program of its own, do not.
    """
    return config.objective.is_tuning and config.network.dropout > 0


def decide(asked: bool | None, config: RunConfig, images: int, device: torch.device) -> Decision:
    """As asked; for None on a GPU where the training is long enough, and else not.

    images: of one epoch. A function of the budget as a whole: so a run that resumes decides as it
    did before, and takes the steps that it would have taken.
    """
    if _shares_masks(config):
        return Decision(False)
    if asked:
        return Decision(True, "Compiling the network: this can take minutes.")
    if asked is False or device.type != "cuda":
        return Decision(False)
    seconds = expected_seconds(config, images)
    length = roughly(seconds)
    if seconds >= _WORTH:
        return Decision(
            True,
            "Compiling the network, a minute or two: it should pay in a training of roughly "
            f"{length}; --no-compile leaves it out.",
        )
    return Decision(
        False,
        "The network is not compiled: that takes a minute or two, and this training roughly "
        f"{length}; --compile does it all the same.",
    )


def expected_seconds(config: RunConfig, images: int) -> float:
    """Roughly how long a training takes on GPUs: by its minutes, or its operations."""
    budget, limits = config.budget, []
    if budget.minutes is not None:
        limits.append(60 * budget.minutes)
    limit = budget.in_images(config.optimiser.batch, images)
    if limit is not None:
        rate = _RATE * distributed.world_size()
        with torch.device("meta"):
            forward = build(config.network).forward_operations()
        limits.append(limit * 3 * forward / rate)  # the backward pass has twice as many
    return min(limits)


def compile_or_not(network: Network, first_pass: Callable[[], object], reporter: Reporter) -> None:
    """Compile the network, in place, by its first forward and backward pass.

    Where that fails it is reported, and the pass is made without: so that each rank makes one.
    """
    import torch._dynamo  # takes a second

    # Of several processes the graph is cut where a bucket of gradients is full, so that averaging
    # it overlaps with the rest of the backward pass; the graphs of checkpointed layers cannot be.
    torch._dynamo.config.optimize_ddp = not network.checkpointed
    # A shape of images has a graph of its own: there are two at most, with microbatches.
    run_compiled([network], first_pass, reporter, "training", whole=True)
