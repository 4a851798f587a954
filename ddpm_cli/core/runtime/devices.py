"""Device and precision selection."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from torch import Tensor

from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.config.machine import DEVICES, PRECISIONS
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import slurm, worker
from ddpm_cli.core.runtime.threads import cores

_NO_MEMORY = (  # in errors of torch that have no type of their own
    "DefaultCPUAllocator",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_PER_CORE = 8  # processes on a core: more only wait for each other


def choose_device(name: str = "auto") -> torch.device:
    """The device for this process; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises UsageError where the device does not exist.
    """
    one_of("--device", name, DEVICES)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        count = torch.cuda.device_count()
        own_gpu_only = count == 1 and slurm.is_task()  # SLURM may show each task only its own GPU
        index = 0 if own_gpu_only else distributed.local_rank()
        if index >= count and not count:
            raise UsageError(
                f"--device cuda: no GPU: {_why_no_gpu()}; use --device cpu, or see ddpm doctor"
            )
        if index >= count:
            raise UsageError(
                f"process {index} of this machine has no GPU: {count} visible "
                "(CUDA_VISIBLE_DEVICES); use a smaller --nproc, or --device cpu"
            )
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            "--device mps: this machine or this torch has no Metal GPU; use --device cpu"
        )
    return torch.device(name)


def _why_no_gpu() -> str:
    """Why torch sees none, in words."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {visible.strip() or 'empty'}"
    return f"torch {torch.__version__} is built with CUDA but sees no device (driver?)"


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products and convolutions; "auto" is bfloat16 on GPUs that support it."""
    one_of("--precision", name, PRECISIONS)
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if name == "bf16" or (name == "auto" and native) else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """A dtype as --precision names it: "bf16" or "fp32"."""
    return "bf16" if precision == torch.bfloat16 else "fp32"


@contextmanager
def enough_memory(fix: str) -> Iterator[None]:
    """Raise DdpmError, with a fix, where this process runs out of memory within the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        whose = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise DdpmError(
            f"{worker.rank_name()} ran out of {whose} ({why_out_of_memory(error)}); {fix}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of memory that was not there, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def why_out_of_memory(error: BaseException) -> str:
    """The first sentence of such an error."""
    reason = str(error).rpartition("DefaultCPUAllocator: ")[2].split(". ")[0]
    return reason.partition("\n")[0] or type(error).__name__


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Autocast matrix products and convolutions; norms, reductions and weights stay float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions of fp32 in fp32: TF32 would round their inputs to 10 bits.

    The flags are afterwards as they were.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Draw random numbers on a device that are drawn again afterwards.

    The states are on the host, so nothing waits for a GPU.
    """
    if device.type == "mps":
        state = torch.mps.get_rng_state()
        try:
            yield
        finally:
            torch.mps.set_rng_state(state)
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from main memory without waiting for what a CUDA GPU is doing.

    Others may read the memory only after it has been freed and used again.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


class Copy:
    """A small tensor on its way from the device to main memory, read when it is there."""

    def __init__(self, tensor: Tensor) -> None:
        self.is_late = tensor.device.type == "cuda"  # reading it at once would wait
        self._copy = tensor.detach()
        if self.is_late:
            self._copy = torch.empty_like(self._copy, device="cpu", pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def tolist(self) -> list[float]:
        """The values, once they have arrived."""
        if self.is_late:
            self._arrived.synchronize()
        values: list[float] = self._copy.tolist()
        return values


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def check_processes(count: int, device: str) -> None:
    """Raise UsageError for more processes than this machine has GPUs, or cores by far."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count > max(_PER_CORE * cores(), gpus):
        raise UsageError(f"--nproc {count}, but there are {cores()} cores for them; use fewer")
    if device in ("auto", "cuda") and gpus and count > gpus:
        raise UsageError(
            f"--nproc {count}, but {gpus} GPUs are visible (CUDA_VISIBLE_DEVICES); "
            f"use --nproc {gpus}, or --device cpu"
        )


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory that this process may use on a device; None where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max" where a container has no limit of its own
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps of a device's memory without need."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int | None:
    """The most bytes in use at once; None where that is unknown.

    On a GPU by torch's tensors since this was last called, without waiting for it; on a CPU by this
    process since its start.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    if device.type != "cpu":
        return None
    with suppress(OSError, StopIteration, ValueError):  # Linux
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    if sys.platform == "darwin":
        import resource  # Windows has none

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def free_memory() -> int | None:
    """Bytes of main memory that this machine's processes may still take; None where unknown."""
    free = total = total_memory(torch.device("cpu"))
    with suppress(OSError, StopIteration, ValueError):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        free = 1024 * int(available.split()[1])
    return free if total is None or free is None else min(free, total)
