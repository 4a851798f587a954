"""The only place that knows torch.distributed. A single process is a world of one."""

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

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # for ranks that wait while one of them reads all the pictures
_GATHERING = 600.0  # seconds until all processes have come
_HANDSHAKE = 60.0  # seconds until all have heard of each other


def under_launcher() -> bool:
    """Whether torchrun, or our own launcher, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes for the length of a block: gloo for the CPU, NCCL for GPUs."""
    if world_size() == 1:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    with watchdog.deadline(_GATHERING, _nobody_came):
        dist.init_process_group(backend, timeout=_PATIENCE)
    with watchdog.deadline(_HANDSHAKE, lambda: _cannot_talk(device)):
        for place in ("cpu", "cuda") if device.type == "cuda" else ("cpu",):
            heard = torch.ones(1, device=place)
            dist.all_reduce(heard)
            assert heard.item() == world_size()
    yield
    dist.destroy_process_group()  # not after an error: that is told before the others can notice


def _nobody_came() -> str:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return (
        f"{worker.rank_name()} waited {_GATHERING:.0f} s for {world_size()} processes to meet at "
        f"{where}; were all started, and can each reach that address (a firewall, a wrong name)?"
    )


def _cannot_talk(device: torch.device) -> str:
    try_this = "a firewall, or the wrong network: GLOO_SOCKET_IFNAME=eth0 names the right one"
    if device.type == "cuda":
        try_this = (
            "in this order: NCCL_P2P_DISABLE=1 (boards whose GPUs cannot reach each other), "
            "NCCL_SOCKET_IFNAME=eth0 (the right network), NCCL_DEBUG=INFO (to see more); a firewall"
        )
    return (
        f"{worker.rank_name()} ({device}) did not hear from the others within {_HANDSHAKE:.0f} s of "
        f"the start. Try {try_this}"
    )


def run_on_all_ranks(work: Callable[[], T]) -> T:
    """What `work` gives in every process, or one error where it fails in any.

    The first process in which it raises a DdpmError does so, the others leave with its code.
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


@contextmanager
def local_rank0_first() -> Iterator[None]:
    """Let the first process of each machine go through the block before its others do.

    Where it fails it tells why, and the others just leave with its exit code.
    """
    if local_rank() == 0:
        failed = 1
        try:
            yield
            failed = 0
        except DdpmError as error:
            failed = error.exit_code
            raise
        finally:
            (code,) = all_reduce_max(failed)
    else:
        (code,) = all_reduce_max(0)
        if not code:
            yield
    if code:
        raise SystemExit(int(code))


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        all_reduce_max(0.0)


def broadcast_from_rank0(decide: Callable[[], T]) -> T:
    """What the first process decides, told to all; only there is `decide` called.

    Where that raises a DdpmError, the first process does so and the others leave with its code.
    """
    if world_size() == 1:
        return decide()
    told: list[tuple[T | None, int]] = [(None, 0)]
    failure: DdpmError | None = None
    if is_main():
        try:
            told = [(decide(), 0)]
        except DdpmError as error:
            failure, told = error, [(None, error.exit_code)]
    dist.broadcast_object_list(told)
    value, code = told[0]
    if failure is not None:
        raise failure
    if code:
        raise SystemExit(code)
    return cast(T, value)


def all_reduce_max(*values: float) -> list[float]:
    """The largest of each value over all processes; so that all decide alike."""
    if world_size() == 1:
        return list(values)
    gathered = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(gathered, dist.ReduceOp.MAX)
    return gathered.tolist()


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in float64 on the CPU."""
    summed = values.detach().to("cpu", torch.float64)
    if world_size() > 1:
        dist.all_reduce(summed)
    return summed


def all_gather(thing: T) -> list[T]:
    """Every process's thing, in the order of their ranks."""
    if world_size() == 1:
        return [thing]
    things: list[T | None] = [None] * world_size()
    dist.all_gather_object(things, thing)
    return cast(list[T], things)


def shard(count: int) -> slice:
    """This process's part of `count` things in a row; parts differ by one at most."""
    bounds = [count * r // world_size() for r in (rank(), rank() + 1)]
    return slice(*bounds)


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its gradients averaged over all processes; itself in a world of one."""
    if world_size() == 1:
        return network
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def accumulate_gradients(network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Keep gradients to this process until the last part of a batch, which averages them."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()
