"""Everything that is checked before a training starts, in the launcher, a dry run and a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from statistics import median

import torch

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.decoded import DecodedImages, Pairs
from ddpm_cli.core.data.pairs import pair
from ddpm_cli.core.data.sources import Source, captions_of, labels_for, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import worker
from ddpm_cli.core.runtime.files import in_words
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.tracking import processes as tracking
from ddpm_cli.core.training import compilation, resuming, validation
from ddpm_cli.core.training.preparation import forecast
from ddpm_cli.core.training.preparation.facts import Facts
from ddpm_cli.core.training.preparation.planning import TrainingPlan, plan_training
from ddpm_cli.core.training.trainer import Execution

_MUCH = 1_000_000_000  # bytes of decoded images
_ENLARGED = 2  # times the pixels of the images themselves


def preflight(
    request: TrainingRequest,
    processes: int,
    execution: Execution,
    reporter: Reporter,
    make_plan: Callable[[], TrainingPlan] | None = None,
) -> TrainingPlan:
    """Plan a run and check that it can start; nothing is written. Default plan: the request's.

    Checks data, settings and network, the batch against the number of processes, memory, disk
    space, run directory and snapshot. Every rank calls this; the first failure of any rank is
    raised there and ends the others.
    """
    device = distributed.broadcast_from_rank0(lambda: execution.device.type)  # so of all ranks

    def checked() -> TrainingPlan:
        plan = make_plan() if make_plan else plan_training(request, reporter, device)
        check_batch(plan.config, processes)
        compilation.check(plan.config, asked=execution.compiled, graph=execution.cuda_graph)
        if distributed.is_main():
            plan = with_memory(plan, processes, execution)
            if not worker.is_worker():  # whose launcher did: a restart needs no tracker
                tracking.check(request.log)
        out = resuming.choose_directory(plan, request)
        resuming.verify_named_snapshot(out, request, plan.config.network)
        return replace(plan, out=out)

    plan = distributed.run_on_all_ranks(checked)
    return replace(plan, microbatch=distributed.broadcast_from_rank0(lambda: plan.microbatch))


def check_batch(config: RunConfig, processes: int) -> None:
    """Raise UsageError where a batch is less than one image for each process."""
    batch = config.optimiser.batch
    if batch < processes:
        raise UsageError(
            f"--batch {batch} is less than one image for each of {processes} processes"
        )


def with_memory(plan: TrainingPlan, processes: int, execution: Execution) -> TrainingPlan:
    """The plan with the memory it will need, and a microbatch for which that is there.

    A notice says where there is a microbatch, or the memory may be too little. Raises DdpmError
    where it is more than the device has.
    """
    work = forecast.Work(
        plan.config,
        plan.parameters,
        plan.fitted(execution),
        processes,
        plan.text_length,
        plan.decoded,
        mapped=not plan.in_memory,
    )
    memory, notices = forecast.memory(work), plan.notices
    if execution.microbatch is None and (fitting := forecast.fitting_microbatch(work, memory)):
        notices = (*notices, forecast.microbatch_in_words(work, memory, fitting))
        plan = replace(plan, microbatch=fitting)
        work = replace(work, execution=plan.fitted(execution))
        memory = forecast.memory(work)
    if warning := forecast.check_memory(work, memory):
        notices = (*notices, warning)
    return replace(plan, memory=memory, notices=notices)


def load_images(
    plan: TrainingPlan, request: TrainingRequest, device: torch.device, reporter: Reporter
) -> DecodedImages:
    """Decode the images and tokenise their captions, or find both in the cache.

    Local rank 0 of each machine goes first, and the others find its results; with --cache ram or
    none all ranks read for themselves.
    """
    network = plan.config.network
    if distributed.is_main() and (warning := _enlarged(plan)):
        reporter.say(Warned(warning))

    def prepare() -> DecodedImages:
        return loader.prepare(
            plan.source,
            Transform.of(plan.config),
            reporter,
            skip_bad=request.skip_bad,
            cache=request.cache,
            copies=distributed.local_world_size(),
        )

    if request.cache == "disk":
        with distributed.local_rank0_first():
            images = prepare()
    else:
        images = distributed.run_on_all_ranks(prepare)
    images = _with_pairs(images, plan.source, plan, request, reporter)
    if plan.captions is None or network.text is None:
        return images
    with distributed.local_rank0_first():
        plan.default_conditions().encode_prompts(plan.config, device, reporter)  # for previews
        tokenised = tokens.tokenise(network.text, plan.captions.sentences, device, reporter)
    return replace(images, captions=plan.captions, texts=tokenised)


def _enlarged(plan: TrainingPlan) -> str:
    """A warning where decoding fills the disk or memory with images that are mere enlargements."""
    if plan.decoded < _MUCH or plan.cache == "none":
        return ""
    sizes = Facts.of_source(plan.source).sizes
    height, width = plan.config.network.size
    own = median(map(prod, sizes)) if sizes else height * width
    if height * width < _ENLARGED * own:
        return ""
    at_own = in_words(plan.decoded * own / (height * width))
    return (
        f"{len(plan.source):,} images at {height}x{width} are {in_words(plan.decoded)}; at their "
        f"own size they would be {at_own}: a smaller --size shows as much"
    )


def load_held_out(
    plan: TrainingPlan,
    images: DecodedImages,
    request: TrainingRequest,
    device: torch.device,
    reporter: Reporter,
) -> tuple[DecodedImages, DecodedImages]:
    """The images to train on and those to validate on: some of them, or those of --holdout-data.

    Raises UsageError where they are too few for what the run judges by them.
    """
    config = plan.config
    if not config.holdout_data:
        _check_count(config, config.data.holdout)
        if config.data.holdout:
            reporter.say(f"Held out: {config.data.holdout:,} of the images")
        return images.split(config.data.holdout, config.optimiser.seed)
    with distributed.local_rank0_first():
        held_out = _open_held_out(plan, request, device, reporter)
    _check_count(config, len(held_out))
    return images, held_out


def _check_count(config: RunConfig, held_out: int) -> None:
    if config.stop_at_gap is not None and held_out < validation.LEAST_TO_JUDGE:
        raise UsageError(
            f"--stop-at-gap needs {validation.LEAST_TO_JUDGE} images held out or more, and there "
            f"are {held_out}; --patience works with fewer"
        )


def _with_pairs(
    images: DecodedImages,
    source: Source,
    plan: TrainingPlan,
    request: TrainingRequest,
    reporter: Reporter,
) -> DecodedImages:
    """The images with those of --given-data of the same names. Raises DdpmError without some."""
    if plan.pairs is None:
        return images
    rows = pair(source, plan.pairs, f"--given-data {plan.config.data.given_data}")
    transform = replace(Transform.of(plan.config), channels=plan.config.network.given_channels)
    with distributed.local_rank0_first():
        pairs = loader.prepare(plan.pairs, transform, reporter, cache=request.cache)
    return replace(images, pairs=Pairs(pairs, rows))


def _open_held_out(
    plan: TrainingPlan, request: TrainingRequest, device: torch.device, reporter: Reporter
) -> DecodedImages:
    config = plan.config
    name, network = config.holdout_data, config.network
    source = open_source(name, reporter, attributes=config.data.attributes, root=request.data_root)
    for notice in source.notices:
        reporter.say(notice)
    labels = labels_for(source, network, name, "the training")
    held_out = loader.prepare(
        source,
        Transform.of(config),
        reporter,
        skip_bad=request.skip_bad,
        cache=request.cache,
        copies=distributed.local_world_size(),
    )
    reporter.say(f"Held out: the {len(held_out):,} images of {name}")
    held_out = _with_pairs(replace(held_out, labels=labels), source, plan, request, reporter)
    if network.text is None:
        return held_out
    captions = captions_of(source, config.data.templates)
    texts = tokens.tokenise(network.text, captions.sentences, device, reporter)
    return replace(held_out, captions=captions, texts=texts)
