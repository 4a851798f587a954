"""Writing sampled images: which of them are missing, and which process samples which."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.fields import is_whole_number, one_of, shortened
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation.checks.findings import Finding, Inspection
from ddpm_cli.core.generation.generate import GenerationRequest, sample_batches
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.outputs import archive
from ddpm_cli.core.generation.outputs.archive import ImageArchive
from ddpm_cli.core.generation.outputs.folder import ImageFolder
from ddpm_cli.core.generation.pictures.arrangement import DEFAULT, GridLayout
from ddpm_cli.core.runtime import distributed, locks
from ddpm_cli.core.runtime.elastic import worker
from ddpm_cli.core.runtime.files import numbered_names
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.threads import cores

FORMATS = {"png": "", "npz": ".npz", "zip": ".zip"}  # the suffix of each
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


class Output(Protocol):
    """A place for the images of one request, which several processes may write to at once."""

    @property
    def path(self) -> Path:
        """The folder, or the file."""

    @property
    def model(self) -> Model:
        """What samples the images."""

    @property
    def request(self) -> GenerationRequest:
        """Which images."""

    def claim(self) -> bool:
        """Take the name, unless it has other contents: False then."""

    def prepare(self, *, overwrite: bool) -> None:
        """Make the place ready. Raises DdpmError rather than mix images of different settings."""

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of these images that are not written."""

    def tasks(self, indices: Sequence[int], images: NDArray[np.uint8]) -> list[Callable[[], None]]:
        """What writes images (B, C, H, W), whole or not at all, in parts that may run at once."""

    def recorded_count(self) -> int | None:
        """How many images are there, or are to be; None where nothing was sampled."""

    @property
    def locked(self) -> Path:
        """The file whose lock is held while what other processes read is changed."""

    @property
    def grid(self) -> Path | None:
        """A picture of the first images, where there is one."""

    def is_finished(self) -> bool:
        """Whether all images are there, and what goes with them."""

    def finish(self, reporter: Reporter) -> None:
        """Once all images are there: write what goes with them. A second call changes nothing."""


class Shard(NamedTuple):
    """Of the images of a request the k-th of n contiguous shards, whose sizes differ by at most 1.

    They are for jobs that know nothing of each other, such as those of a SLURM array.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """The value of --shard such as 3/16; None: the whole. Raises UsageError."""
        if text is None:
            return cls()
        number, slash, count = text.partition("/")
        if slash and is_whole_number(number) and is_whole_number(count):
            shard = cls(int(number[:9]), int(count[:9]))
            if 1 <= shard.number <= shard.of:
                return shard
        raise UsageError(f"--shard takes a shard such as 3/16, from 1/16 on, not {shortened(text)}")

    def indices(self, count: int) -> range:
        """The images of this shard, of `count`."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


WHOLE = Shard()


def at(
    path: Path, model: Model, request: GenerationRequest, layout: GridLayout = DEFAULT
) -> Output:
    """The place of that name: an archive by its suffix, else a folder with a grid of a layout."""
    if path.suffix.lower() in archive.FORMATS:
        return ImageArchive(path, model, request)
    return ImageFolder(path, model, request, layout)


def default_path(suffix: str, model: Model, request: GenerationRequest) -> Path:
    """`generated` beside the weights, or the first of `generated-2`, … that may take the images.

    It is created, so that another call does not choose it for other settings.
    """
    names = numbered_names(model.folder / f"generated{suffix}")
    return next(name for name in names if at(name, model, request).claim())


def destination(
    out: Path | None,
    suffix: str,
    more: int | None,
    model: Model,
    request: GenerationRequest,
    reporter: Reporter,
) -> tuple[Path, int]:
    """The path of the images, `out` or the default, and how many they will be.

    more: so many above those that are there; where these are not finished, they alone. Raises
    UsageError where there are none.
    """
    path = out or default_path(suffix, model, request)
    if more is None:
        return path, request.count
    count = at(path, model, request).recorded_count()
    if count is None:
        raise UsageError(f"--more adds to images that are there, but {path} has none; give -n")
    place = at(path, model, replace(request, count=count))
    with _locked(place, reporter):
        return path, count + more if place.is_finished() else count


def check(
    out: Path | None, shard: Shard, count: int | None, more: int | None, *, overwrite: bool
) -> None:
    """Raise UsageError for options that exclude each other."""
    if more is not None and (count is not None or out is None):
        raise UsageError("--more takes the place of -n, and needs the --out that it adds to")
    if more is not None and overwrite:
        raise UsageError("--more keeps the images that are there, and --overwrite deletes them")
    if shard.of > 1 and (overwrite or more is not None or out is None):
        raise UsageError(
            "--shard needs an --out, the same of all shards, no --overwrite and no --more"
        )


def suffix_of(out: Path | None, kind: str | None) -> str:
    """The suffix of --out by --format: "" for a folder of PNGs. Raises UsageError."""
    if kind is not None:
        one_of("--format", kind, FORMATS)
    named = "" if out is None else out.suffix.lower()
    named = named if named in archive.FORMATS else ""
    suffix = named if kind is None else FORMATS[kind]
    if out is not None and suffix != named:
        fix = f"end in {suffix}" if suffix else "be a folder"
        raise UsageError(f"--out {out} should {fix} with --format {kind}")
    if out is not None and out.suffix.lower() in _IMAGE_SUFFIXES and not out.exists():
        raise UsageError(
            f"--out {out} is named as an image, but is the folder of the images; "
            f"give --out {out.with_suffix('')}"
        )
    if out is not None and not suffix and not out.exists() and _is_file_name(out):
        raise UsageError(
            f"--out {out} is named as a file; give a folder, such as {out.with_suffix('')}, or "
            "a name in .npz or .zip"
        )
    return suffix


def _is_file_name(path: Path) -> bool:
    """Whether a name ends as files' do: in .txt or .tar, not in .5 or .v2-final."""
    return re.fullmatch(r"\.[a-z][a-z0-9]{1,3}", path.suffix.lower()) is not None


class Written(NamedTuple):
    """What was sampled."""

    images: int  # by all processes, without those that were there
    missing: int  # images of the request that other shards have not written yet
    seconds: float  # that sampling and writing them took
    findings: list[Finding]  # what is odd about them


def write(
    output: Output,
    batch: int | None,
    reporter: Reporter,
    *,
    shard: Shard = WHOLE,
    overwrite: bool = False,
    compiled: bool | None = False,
) -> Written:
    """Sample the images of a shard that are missing, by all processes, and finish if none is.

    batch, compiled: as those of `sample_batches`. Raises DdpmError where the place has other
    contents, unless `overwrite` is set.
    """
    request, every = output.request, range(output.request.count)

    def prepared() -> list[int]:
        with _locked(output, reporter):
            output.prepare(overwrite=overwrite and not worker.restarted())
            return output.missing(shard.indices(request.count))

    missing = distributed.broadcast_from_rank0(prepared)
    own = missing[distributed.shard(len(missing))]
    started = time.monotonic()
    inspection = Inspection(output.model, request)
    ranks = distributed.world_size()
    batches = sample_batches(output.model, request, own, batch, reporter, compiled, ranks)
    _write_images(output, inspection.watch(batches))
    distributed.barrier()
    seconds = time.monotonic() - started

    def finished() -> int:
        with _locked(output, reporter):
            left = len(output.missing(every))
            if not left:
                output.finish(reporter)
        return left

    left = distributed.broadcast_from_rank0(finished)
    inspection.add_those_of_all_ranks()
    return Written(len(missing), left, seconds, inspection.findings())


def _locked(output: Output, reporter: Reporter) -> AbstractContextManager[None]:
    """Within it no other process prepares or finishes the place."""
    fix = "choose another --out"
    return locks.lock_writing(output.locked, reporter.say, "writing", fix, kept=False)


def _write_images(
    output: Output, batches: Iterable[tuple[Sequence[int], NDArray[np.uint8]]]
) -> None:
    """Write batches of images in threads, each while the next is sampled.

    Those of two batches are in memory at most. What is sampled is written, also where sampling is
    stopped or fails.
    """
    with ThreadPoolExecutor(min(8, cores()), "png") as pool:
        pending: list[Future[None]] = []
        for indices, images in batches:
            _finish(pending)
            pending = [pool.submit(task) for task in output.tasks(indices, images)]
        _finish(pending)


def _finish(pending: Iterable[Future[None]]) -> None:
    """Wait until images are written, and raise what went wrong."""
    for future in pending:
        future.result()
