"""Everything that is checked before a training starts, in the launcher, a dry run and a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.training import resuming
from ddpm_cli.core.training.planning import TrainingPlan, plan_training

_STATE_BYTES = 20  # a parameter: weights, gradient, moving average, AdamW's two moments (float32)


def preflight(
    request: TrainingRequest,
    processes: int,
    device: torch.device,
    reporter: Reporter,
    make_plan: Callable[[], TrainingPlan] | None = None,
) -> TrainingPlan:
    """Plan a run and check that it can start; nothing is written. Default plan: the request's.

    Checks data, settings and network, the batch against the number of processes, memory, disk
    space, run directory and snapshot. Every rank calls this; the first failure of any rank is
    raised there and ends the others.
    """

    def checked() -> TrainingPlan:
        plan = make_plan() if make_plan else plan_training(request, reporter)
        check_batch(plan.config, processes)
        check_memory(plan.parameters, device)
        out = resuming.choose_directory(plan, request)
        resuming.verify_named_snapshot(out, request, plan.config.network)
        return replace(plan, out=out)

    return distributed.run_on_all_ranks(checked)


def check_batch(config: RunConfig, processes: int) -> None:
    """Raise UsageError where a batch is less than one image for each process."""
    batch = config.optimiser.batch
    if batch < processes:
        raise UsageError(
            f"--batch {batch} is less than one image for each of {processes} processes"
        )


def check_memory(parameters: int, device: torch.device) -> None:
    """Raise DdpmError where weights, gradient and optimiser state alone exceed the memory."""
    needed, total = _STATE_BYTES * parameters, devices.total_memory(device)
    if total is not None and needed > total:
        raise DdpmError(
            f"a network of {parameters:,} parameters needs {needed / 1e9:.1f} GB to train, and "
            f"{device} has {total / 1e9:.1f} GB; choose a smaller --preset or --width"
        )


def load_images(
    plan: TrainingPlan, request: TrainingRequest, device: torch.device, reporter: Reporter
) -> loader.DecodedImages:
    """Decode the images and tokenise their captions, or find both in the cache.

    Local rank 0 of each machine goes first, and the others find its results.
    """
    network = plan.config.network
    with distributed.local_rank0_first():
        images = loader.prepare(
            plan.source, Transform.of(plan.config), reporter, skip_bad=request.skip_bad
        )
    if plan.captions is None or network.text is None:
        return images
    with distributed.local_rank0_first():
        plan.default_conditions().encode_prompts(plan.config, device, reporter)  # for previews
        tokenised = tokens.tokenise(network.text, plan.captions.sentences, device, reporter)
    return replace(images, captions=plan.captions, texts=tokenised)
