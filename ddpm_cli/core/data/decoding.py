"""Many images of a source decoded at once, in order: by threads, or by processes where it pays.

Decoding a small image is mostly Python, of which one thread runs at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddpm_cli.core.data.decoded import image_or_error
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime.threads import cores

_PART = 16  # images that a thread decodes in one go
_PART_OF_PROCESS = 128
_WORTH_PROCESSES = 10_000  # images: fewer are decoded before processes have begun

Failures = list[tuple[int, str]]  # rows that cannot be read, and why
Part = tuple[range, NDArray[np.uint8], Failures]


def decode(source: Source, transform: Transform, chunks: Sequence[range]) -> Iterator[Part]:
    """The images of these rows, chunk after chunk, each in parts: (rows, (B, C, H, W), failures).

    Images that cannot be read are zeros.
    """
    assert transform.size is not None
    work = _Work(source, transform)
    if _processes_pay(sum(map(len, chunks))) and not source.sequential:
        yield from _by_processes(work, _parts(chunks, _PART_OF_PROCESS))
    else:
        yield from _by_threads(work, _parts(chunks, _PART))


class _Work:
    """Decodes some rows."""

    def __init__(self, source: Source, transform: Transform) -> None:
        self._source, self._transform = source, transform

    def __call__(self, rows: range) -> tuple[NDArray[np.uint8], Failures]:
        assert self._transform.size is not None
        pixels = np.zeros((len(rows), self._transform.channels, *self._transform.size), np.uint8)
        failures: Failures = []
        for place, row in enumerate(rows):
            item = image_or_error(self._source, row, self._transform)
            if isinstance(item, UnreadableError):
                failures.append((row, str(item)))
            else:
                pixels[place] = item
        return pixels, failures


def _parts(chunks: Sequence[range], size: int) -> list[range]:
    return [chunk[i : i + size] for chunk in chunks for i in range(0, len(chunk), size)]


def _by_threads(work: _Work, parts: Sequence[range]) -> Iterator[Part]:
    waiting: deque[tuple[range, Future[tuple[NDArray[np.uint8], Failures]]]] = deque()
    pool = ThreadPoolExecutor(cores(), "decode")
    try:
        for part in parts:
            waiting.append((part, pool.submit(work, part)))
            if len(waiting) > 4 * cores():
                rows, future = waiting.popleft()
                yield rows, *future.result()
        for rows, future in waiting:
            yield rows, *future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # an error, or a signal, does not wait for the rest


def _processes_pay(count: int) -> bool:
    """Whether to start processes, by fork: they need no import of torch, nor a copy of the names.

    A daemon, as multiprocessing calls it, may have no processes of its own.
    """
    daemon = multiprocessing.current_process().daemon
    return count >= _WORTH_PROCESSES and cores() > 1 and sys.platform == "linux" and not daemon


class _Parts(Dataset[tuple[Tensor, Failures]]):
    """What a process of the DataLoader decodes: its item i are the images of part i."""

    def __init__(self, work: _Work, parts: Sequence[range]) -> None:
        self._work, self._parts = work, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> tuple[Tensor, Failures]:
        pixels, failures = self._work(self._parts[index])
        return torch.from_numpy(pixels), failures  # a tensor is passed on in shared memory


def _by_processes(work: _Work, parts: Sequence[range]) -> Iterator[Part]:
    """As `_by_threads`; torch's DataLoader sees to processes that die, and to our own death."""
    loader = DataLoader(
        _Parts(work, parts),
        batch_size=None,
        num_workers=cores(),
        multiprocessing_context="fork",
        worker_init_fn=_begin_process,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        results = iter(loader)
    try:
        for part in parts:
            pixels, failures = next(results)
            yield part, pixels.numpy(), failures
    except RuntimeError as error:  # killed, for lack of memory, say
        raise DdpmError(f"a process that decoded images died: {first_line(error)}") from error
    finally:
        del results  # which ends them


def _begin_process(worker: int) -> None:
    """Leave signals and messages to the parent: Ctrl-C reaches all, and errors go to it as such.

    Where the parent is killed, Python would print the traceback of a pipe that broke.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
