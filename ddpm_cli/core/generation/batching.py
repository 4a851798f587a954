"""How many images are sampled at a time: a number of the user's, or what fits into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ddpm_cli.core.config.fields import is_whole_number, shortened
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, Warned

T = TypeVar("T")

DEFAULT = 64  # images at a time where memory is the machine's
_MOST = 512  # on a GPU, which these keep busy: more only delay the first images
_DIGITS = 18  # of a number that torch's 64 bits hold
_TRIAL = 8  # images of the step by which the memory of each is measured
_SHARE = 0.8  # of the free memory: kernels of larger batches may need more space to work in


@dataclass
class BatchSize:
    """Images at a time. Unless the user gave the number, it is halved where memory runs out."""

    images: int
    given: bool

    def attempt(self, count: int, work: Callable[[], T], reporter: Reporter) -> T | None:
        """What the work with `count` images returns; None where that is to be tried with fewer.

        Raises DdpmError where memory runs out and there is no smaller number to try.
        """
        if self.given or count == 1:
            fix = "use a smaller --batch, or --batch auto" if self.given else "use --device cpu"
            with devices.enough_memory(fix):
                return work()
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
        # Only now have the error's frames let go of their tensors.
        self.images = math.ceil(count / 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        reporter.say(
            Warned(
                f"there is too little free memory for {count} images at a time: "
                f"continuing with {self.images}"
            )
        )
        return None


Batch = int | BatchSize | None
"""Images at a time: as the user gave them, as they may be halved, or None: what fits."""


def parse_batch(text: str) -> int | None:
    """The option --batch: None for "auto". Raises UsageError for anything but that or a number."""
    if text.strip() == "auto":
        return None
    if not is_whole_number(text) or len(text) > _DIGITS or int(text) < 1:
        shown = shortened(text)
        raise UsageError(f"--batch takes auto or a whole number of images from 1, not {shown}")
    return int(text)


def choose(
    batch: Batch, count: int, device: torch.device, trial: Callable[[int], object]
) -> BatchSize:
    """The number given, or for None one that the device's memory allows, for `count` images.

    trial: takes one step with so many images. On a GPU the memory that it takes is measured.
    """
    if isinstance(batch, BatchSize):
        return replace(batch)
    if batch is not None:
        return BatchSize(batch, given=True)
    if device.type != "cuda" or count <= _TRIAL:
        return BatchSize(DEFAULT, given=False)
    try:
        each = taken(device, lambda: trial(_TRIAL)) / _TRIAL
    except RuntimeError as error:
        if not devices.is_out_of_memory(error):
            raise
        return BatchSize(_TRIAL // 2, given=False)
    return BatchSize(fitting(count, each, free(device)), given=False)


def fitting(count: int, each: float, space: int) -> int:
    """Images at a time that fit into `space` bytes with `each` of them; all parts of equal size."""
    most = max(1, min(_MOST, int(_SHARE * space / max(each, 1))))
    return math.ceil(count / math.ceil(count / most))


def taken(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes of a GPU's memory that the work takes at its peak, beyond what is taken already."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return int(torch.cuda.max_memory_allocated(device)) - before


def free(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process may still take, or that torch holds unused."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + int(held)
