"""What a training will need, before it starts: memory, estimated, and disk."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ddpm_cli.core.checkpoints.post_hoc import TRACKED
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.files import free_space, in_words
from ddpm_cli.core.training import teacher
from ddpm_cli.core.training.batches import RESIDENT
from ddpm_cli.core.training.preparation.activations import saved_bytes
from ddpm_cli.core.training.saving import averages_size, snapshot_size
from ddpm_cli.core.training.step import but_for_masks
from ddpm_cli.core.training.trainer import Execution

# Measured on a CPU by tests/benchmarks/training_memory.py, where totals were within 16 %:
_ALLOCATOR = 1.2  # activations also occupy gaps between freed blocks, and workspaces of kernels
_LIBRARIES = 50_000_000  # bytes of code that the first step and the first figure load
_USUAL = 700_000_000  # bytes of Python and torch with what they import
_FILE = 3  # copies of the weights while a file of them is written: contiguous, bytes, whole file
_CONTEXT = 500_000_000  # bytes of a GPU that CUDA's context and libraries occupy; not measured

_TOLERANCE = 0.2  # relative error of the estimate


@dataclass(frozen=True)
class Memory:
    """Estimated bytes, at the peak, of one process in the memory of its device."""

    weights: int  # with those of a teacher whose steps are learned
    average: int  # with those of --ema-every
    optimiser: int  # AdamW's two moments
    gradient: int
    activations: int  # of a microbatch, kept for the backward pass
    images: int  # of a batch with their noise, and all that stay in the device's memory
    saving: int  # copies that are written while training goes on; 0 on a GPU: the host's
    process: int  # what is loaded whatever is trained: Python and torch, or CUDA
    accumulates: bool  # whether the gradient is there during a forward pass

    @property
    def total(self) -> int:
        """The peak: of one microbatch alone, activations are freed as the gradient grows."""
        held = self.weights + self.average + self.optimiser
        work = self.gradient + self.activations
        if not self.accumulates:
            work = max(self.gradient, self.activations)
        return held + work + self.images + self.saving + self.process

    def by_part(self) -> dict[str, int]:
        """Bytes by part, and their total."""
        parts = asdict(self)
        del parts["accumulates"]
        return parts | {"total": self.total}


@dataclass(frozen=True)
class Work:
    """What a process of a training computes."""

    config: RunConfig
    parameters: int
    execution: Execution
    processes: int
    text_length: int = 0  # tokens of the longest caption
    decoded: int = 0  # bytes of all training images
    mapped: bool = True  # from the disk, where they occupy no memory

    @property
    def shard(self) -> int:
        """Images of a batch in a process, at most."""
        return -(-self.config.optimiser.batch // self.processes)

    @property
    def microbatch(self) -> int:
        """Images in a forward pass."""
        return min(self.shard, self.execution.microbatch or self.shard)

    @property
    def on_gpu(self) -> bool:
        """Whether the device has a memory of its own."""
        return self.execution.device.type != "cpu"

    @property
    def beside(self) -> int:
        """The processes that share a CPU's memory; of several machines known once they run."""
        return distributed.local_world_size() if distributed.under_launcher() else self.processes

    @property
    def resident(self) -> int:
        """Bytes of decoded images in the memory of the device."""
        if not self.on_gpu:
            return 0 if self.mapped else self.decoded
        total = devices.total_memory(self.execution.device) or 0
        return self.decoded if self.decoded <= RESIDENT * total else 0

    def saved_bytes(self, images: int) -> int:
        """Bytes of the tensors that a forward pass of so many images keeps."""
        network, precision = self.config.network, self.execution.precision
        device, recomputed = self.execution.device, self.execution.checkpoint_activations
        return saved_bytes(network, images, precision, device, self.text_length, recomputed)


def memory(work: Work) -> Memory:
    """The memory of one process at its peak, without scores (--fid-every)."""
    config, network, of_weights = work.config, work.config.network, 4 * work.parameters
    channels = network.channels + network.given_channels
    image = 4 * channels * network.size[0] * network.size[1]
    return Memory(
        # The teacher's passes (over twice the images where it is guided) keep nothing for a
        # gradient, and are over when the student's begins: their activations are taken to be fewer
        # than those that it keeps. Not measured.
        weights=of_weights * (2 if teacher.is_needed(config) else 1),
        average=of_weights * (1 if config.ema_every is None else 1 + len(TRACKED)),
        optimiser=2 * of_weights,
        gradient=of_weights,
        activations=round(_ALLOCATOR * work.saved_bytes(work.microbatch)),
        images=image * (3 * work.shard + 3 * work.microbatch) + work.resident,
        saving=0 if work.on_gpu else snapshot_size(config, work.parameters) + _FILE * of_weights,
        process=_CONTEXT if work.on_gpu else _resident() + _LIBRARIES,
        accumulates=work.microbatch < work.shard or work.processes > 1,  # or kept by buckets
    )


def _resident() -> int:
    """Bytes of this process in memory now; what is usual where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS and Windows
        return _USUAL


def check_memory(work: Work, needs: Memory) -> str | None:
    """A warning where the memory may not suffice; None where it does.

    Raises DdpmError where it does not, even if less is needed than estimated by its error.
    """
    device = work.execution.device
    total = devices.total_memory(device)
    if total is None:
        return None
    together = needs.total * (1 if work.on_gpu else work.beside)
    has = f"{device} has {in_words(total)}"
    if (1 - _TOLERANCE) * needs.total > total:
        raise DdpmError(
            f"{_task(work)} needs about {in_words(needs.total)} of memory, and {has}; "
            f"{_fix(work, needs, total)}"
        )
    if together > total:
        who = f"{work.beside} processes need" if together > needs.total else "this needs"
        return f"{who} about {in_words(together)} of memory, and {has}: {_fix(work, needs, total)}"
    return None


def _task(work: Work) -> str:
    return (
        f"a network of {work.parameters:,} parameters with {work.microbatch:,} images at once "
        "(--batch, --microbatch)"
    )


def _fix(work: Work, needs: Memory, total: int) -> str:
    """What to do where the memory is too small."""
    largest = largest_microbatch(work, needs, total)
    if largest < 1:
        without = largest_microbatch(work, replace(needs, images=0), total)
        return f"choose a smaller {'--batch' if without else '--preset, --width or --size'}"
    if largest >= work.microbatch:  # by the other processes on the CPU
        return "use fewer processes, or a smaller --microbatch"
    return f"--microbatch {largest} fits, with the same gradient{but_for_masks(work.config)}"


def fitting_microbatch(work: Work, needs: Memory) -> int | None:
    """The shard halved until the estimate fits; None where the whole does, or no image alone."""
    total = devices.total_memory(work.execution.device)
    if total is None:
        return None
    each = total if work.on_gpu else total // work.beside
    if needs.total <= each or not (largest := largest_microbatch(work, needs, each)):
        return None
    fitting = work.microbatch
    while fitting > largest:
        fitting = -(-fitting // 2)
    return fitting


def microbatch_in_words(work: Work, needs: Memory, fitting: int) -> str:
    """What was chosen, and why."""
    device = work.execution.device
    total = devices.total_memory(device) or 0
    each = "" if work.on_gpu or work.beside == 1 else f" for {work.beside} processes"
    return (
        f"Microbatch: {fitting:,} images at once, as {work.microbatch:,} need about "
        f"{in_words(needs.total)} of memory, and {device} has {in_words(total)}{each}; the "
        f"gradient is the same{but_for_masks(work.config)}"
    )


def largest_microbatch(work: Work, needs: Memory, total: int) -> int:
    """The largest microbatch whose estimate fits into `total` bytes; 0 if none does."""
    others = needs.total - (
        needs.gradient + needs.activations
        if needs.accumulates
        else max(needs.gradient, needs.activations)
    )
    room = (total - others - needs.gradient) / _ALLOCATOR
    one, all_images = work.saved_bytes(1), work.saved_bytes(work.microbatch)
    if room < one:
        return 0
    if work.microbatch == 1:
        return 1
    return 1 + int((room - one) * (work.microbatch - 1) / (all_images - one))


def disk(
    out: Path, config: RunConfig, parameters: int, images: int | None, cached: int
) -> dict[str, int]:
    """Bytes that a run of so many images (None: unknown) fills, by part, their total and the space.

    cached: bytes of the decoded images, which lie elsewhere and are not in the total.
    """
    snapshot, weights = snapshot_size(config, parameters), 4 * parameters
    for_good = (images or 0) // config.keep_every if config.keep_every else 0
    height, width = config.network.size
    grid = max(config.preview * height * width, 256**2) * config.network.channels
    previews = grid * (2 + (images or 0) // config.snapshot_every) if config.preview else 0
    parts = {
        "snapshots": (config.keep + for_good) * snapshot,
        "weights": 2 * weights,  # the newest and the best
        "teacher": weights if teacher.is_needed(config) else 0,
        "averages": averages_size(config, parameters, images),
        "previews": previews,
    }
    total = sum(parts.values())
    return parts | {"total": total, "free": free_space(out), "cache": cached}
