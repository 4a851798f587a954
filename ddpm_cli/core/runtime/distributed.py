"""Collective operations of torch.distributed. A single process has world size 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.elastic import watchdog, worker
from ddpm_cli.core.runtime.elastic.rendezvous import Rendezvous, run_interruptibly
from ddpm_cli.core.runtime.elastic.variables import number

T = TypeVar("T")

_COLLECTIVE_TIMEOUT = timedelta(hours=2)  # ranks wait while one of them decodes all images
_RENDEZVOUS_TIMEOUT = 600.0  # seconds until all processes have joined
_HANDSHAKE_TIMEOUT = 60.0  # seconds until the first all-reduce has ended


def under_launcher() -> bool:
    """Whether torchrun or our own launcher started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process's rank, from 0."""
    return number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """This process's rank on its machine, from 0."""
    return number("LOCAL_RANK", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """The number of processes on this machine, as far as the launcher says."""
    return number("LOCAL_WORLD_SIZE", 1)


def world_size() -> int:
    """The number of processes."""
    return number("WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this is rank 0, which writes files and reports."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group within a block: gloo for the CPU, NCCL for GPUs.

    Waiting for the others is announced, and signals are handled meanwhile.
    """
    if world_size() == 1:
        yield
        return
    rendezvous = Rendezvous(rank(), world_size(), _COLLECTIVE_TIMEOUT)
    run_interruptibly(lambda: _join(rendezvous, device), rendezvous.announce)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread, too
    worker.met_others()
    yield
    dist.destroy_process_group()  # not after an error: it is reported before the others notice


def _join(rendezvous: Rendezvous, device: torch.device) -> None:
    """Join the process group, and hear from the others once."""
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    with watchdog.deadline(_RENDEZVOUS_TIMEOUT, lambda: _rendezvous_timed_out(rendezvous)):
        dist.init_process_group(
            backend,
            store=rendezvous.meet(),
            rank=rendezvous.rank,
            world_size=rendezvous.size,
            timeout=_COLLECTIVE_TIMEOUT,
        )
    with watchdog.deadline(_HANDSHAKE_TIMEOUT, lambda: _handshake_timed_out(device)):
        for kind in ("cpu", "cuda") if device.type == "cuda" else ("cpu",):
            ones = torch.ones(1, device=kind)
            dist.all_reduce(ones)
            assert ones.item() == world_size()


def _rendezvous_timed_out(rendezvous: Rendezvous) -> str:
    return (
        f"{worker.rank_name()} waited {_RENDEZVOUS_TIMEOUT:.0f} s for {rendezvous.waiting_for}; "
        "were all started, and can each reach that address (a firewall, a wrong name)?"
    )


def _handshake_timed_out(device: torch.device) -> str:
    fix = "a firewall, or the wrong network: GLOO_SOCKET_IFNAME=eth0 names the right one"
    if device.type == "cuda":
        fix = (
            "in this order: NCCL_P2P_DISABLE=1 (boards whose GPUs cannot reach each other), "
            "NCCL_SOCKET_IFNAME=eth0 (the right network), NCCL_DEBUG=INFO (to see more); a firewall"
        )
    return (
        f"{worker.rank_name()} ({device}) did not hear from the others within "
        f"{_HANDSHAKE_TIMEOUT:.0f} s of the start. Try {fix}"
    )


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """Call `work` on every rank and return its value; where any rank fails, all end.

    The lowest rank whose `work` raised a DdpmError raises it; the others exit with its code.
    """
    failure, value = None, None
    try:
        value = work()
    except DdpmError as error:
        failure = error
    codes = all_gather(failure.exit_code if failure else 0)
    code = next((code for code in codes if code), 0)
    if failure and codes.index(code) == rank():
        raise failure
    if code:
        raise SystemExit(code)
    return cast(T, value)


def attempt(work: Callable[[], T]) -> T | DdpmError:
    """Call `work` on every rank; where any rank fails, all get the error of the lowest one.

    A rank may fail alone only after the last collective operation of `work`; before it, what can
    fail belongs in `run_on_all_ranks` or `local_rank0_first`.
    """
    value, failure, ended = None, None, 0
    try:
        value = work()
    except DdpmError as error:
        failure = error
    except SystemExit as error:  # as `broadcast_from_rank0` ends the ranks that did not fail
        if world_size() == 1:
            raise
        ended = int(error.code or 0)
    failures = [error for error in all_gather(failure) if error is not None]
    if ended and not failures:
        raise SystemExit(ended)
    return failures[0] if failures else cast(T, value)


@contextmanager
def local_rank0_first() -> Iterator[None]:
    """Run the block on local rank 0 of each machine before its other ranks.

    Where it raises on any rank, those on which it did not exit with its exit code.
    """
    first = local_rank() == 0
    (code,) = [0] if first else all_reduce_max(0)
    if code:
        raise SystemExit(int(code))
    own_code = 1
    try:
        yield
        own_code = 0
    except BaseException as error:  # a stop signal's, too
        own_code = getattr(error, "exit_code", 1)
        raise
    finally:
        (code,) = all_reduce_max(own_code)
        if first and not code:
            (code,) = all_reduce_max(0)  # of the other ranks
    if code:
        raise SystemExit(int(code))


def barrier() -> None:
    """Wait until every rank has called this."""
    if world_size() > 1:
        all_reduce_max(0.0)


def broadcast_from_rank0(compute: Callable[[], T]) -> T:
    """Call `compute` on rank 0 and return its value on every rank.

    Where it raises a DdpmError, rank 0 raises that and the others exit with its code.
    """
    if world_size() == 1:
        return compute()
    message: list[tuple[T | None, int]] = [(None, 0)]  # value, exit code
    failure: DdpmError | None = None
    if is_main():
        try:
            message = [(compute(), 0)]
        except DdpmError as error:
            failure, message = error, [(None, error.exit_code)]
    dist.broadcast_object_list(message)
    value, code = message[0]
    if failure is not None:
        raise failure
    if code:
        raise SystemExit(code)
    return cast(T, value)


def all_reduce_max(*values: float) -> list[float]:
    """The maximum of each value over all ranks, so that all decide alike."""
    if world_size() == 1:
        return list(values)
    gathered = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(gathered, dist.ReduceOp.MAX)
    return gathered.tolist()


def maximum(value: Tensor) -> Tensor:
    """The elementwise maximum of a tensor over all ranks, in place and on its device."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks: a new tensor, float64 on the CPU."""
    summed = values.detach().to("cpu", torch.float64, copy=True)
    if world_size() > 1:
        dist.all_reduce(summed)
    return summed


def all_gather(value: T) -> list[T]:
    """The value of every rank, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def shard(count: int) -> slice:
    """This rank's contiguous shard of `count` items; shard sizes differ by one at most."""
    bounds = [count * r // world_size() for r in (rank(), rank() + 1)]
    return slice(*bounds)


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over all ranks; unwrapped for a single process.

    Every parameter has a gradient in each step. So DDP does not search for unused ones, and its
    `static_graph`, which spares that search, would gain nothing.
    """
    if world_size() == 1:
        return network
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # constants, which every rank has computed
    )


def accumulate_gradients(network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Accumulate gradients locally (`no_sync`) but for the last microbatch, which averages them."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()
