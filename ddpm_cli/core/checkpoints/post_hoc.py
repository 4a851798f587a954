"""Post-hoc EMA: an average of any length, rebuilt from those that a training stored in `ema/`.

Karras et al. (2024), section 3.2 and appendix C.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import profiles, tensors, weights
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, track
from ddpm_cli.core.runtime.run_directory import RunDirectory

TRACKED = (0.05, 0.10)
"""The sigma_rel of the averages that a training keeps and stores, those of the paper."""

USUAL = (0.01, 0.02, 0.03, *TRACKED, 0.15, 0.20, 0.25)
"""Lengths of which is said, where none is asked for, how well they can be rebuilt."""

GOOD, USELESS = 0.05, 0.5  # errors of a fit: above the first it is said, above the other refused
_NEGLIGIBLE = 1e-9  # coefficients whose files are not read
_NAME = re.compile(r"(\d{12})-(0\.\d{3})")


class Stored(NamedTuple):
    """An average on the disk."""

    path: Path
    profile: Profile


class Rebuilt(NamedTuple):
    """An average as it would have been tracked in training, nearly."""

    tensors: dict[str, Tensor]  # by the names of the network's parameters, on the CPU
    profile: Profile
    error: float  # of its profile, relative (profiles.Fit)
    files: int  # that were read


def path_of(run: RunDirectory, profile: Profile) -> Path:
    """Where a training stores an average."""
    return run.power_averages / f"{profile.images:012d}-{profile.sigma_rel:.3f}.safetensors"


def _aside(run: RunDirectory, profile: Profile) -> Path:
    return path_of(run, profile).with_suffix(".superseded")


def stored(run: RunDirectory) -> list[Stored]:
    """The averages that a run has stored, fewest images first."""
    found = []
    for path in sorted(run.power_averages.glob("*.safetensors")):
        if name := _NAME.fullmatch(path.stem):
            found.append(Stored(path, Profile(int(name[1]), float(name[2]))))
    return found


def some_stored(run: RunDirectory) -> list[Stored]:
    """The averages that a run has stored. Raises DdpmError where there are none."""
    if there := stored(run):
        return there
    every = run.read_config().ema_every if run.config.is_file() else None
    none = f"{run.path} has stored no averages in {run.power_averages.name}/"
    if every is not None:
        raise DdpmError(f"{none} yet: it does after every {every:,} images, and at its end")
    raise DdpmError(f"{none}: lengths can be rebuilt of a run trained with --ema-every")


def store(
    run: RunDirectory,
    averages: Mapping[float, Mapping[str, Tensor]],
    config: RunConfig,
    images: int,
    statistics: Any,
) -> None:
    """Write averages, by sigma_rel, after so many images seen. statistics: as `weights.save`."""
    for sigma_rel, state in averages.items():
        profile = Profile(images, sigma_rel)
        weights.save(path_of(run, profile), state, config, images, statistics, sigma_rel)
        with suppress(OSError):
            _aside(run, profile).unlink()  # the same, of before a resume


def supersede_newer(run: RunDirectory, images: int) -> None:
    """Rename averages of more images: training resumes from before them, and stores them again."""
    try:
        for path, profile in stored(run):
            if profile.images > images:
                path.replace(_aside(run, profile))
    except OSError as error:
        raise DdpmError(f"cannot rename {error.filename}: {error.strerror}") from error


def superseded(run: RunDirectory) -> list[Path]:
    """The averages that were set aside."""
    return sorted(run.power_averages.glob("*.superseded"))


def poorly(length: float, error: float) -> str:
    """That an average is made poorly of those stored, in words."""
    return (
        f"sigma_rel {length:g}: the profile of what is rebuilt differs by {error:.0%} from the one "
        "asked for; more stored averages (a smaller --ema-every) make it better"
    )


def best_fit(
    run: RunDirectory, sigma_rel: float, images: int | None = None
) -> tuple[list[Stored], Profile, profiles.Fit]:
    """Which stored averages make the one wanted, and how well; images: None for the newest.

    Raises DdpmError where there are none, or those there are cannot make it.
    """
    there = some_stored(run)
    newest = there[-1].profile.images
    wanted = Profile(newest if images is None else images, sigma_rel)
    used = [one for one in there if one.profile.images <= wanted.images]
    if not used or wanted.images > newest:
        raise DdpmError(
            f"{run.path} has stored averages of {there[0].profile.images:,} to {newest:,} images "
            f"seen, so there is none after {wanted.images:,}"
        )
    fit = profiles.fit([one.profile for one in used], wanted)
    if fit.error > USELESS:
        raise DdpmError(
            f"{run.path}: the {len(used)} averages stored until {wanted.images:,} images cannot "
            f"make one of sigma_rel {sigma_rel:g}: its profile would differ by {fit.error:.0%} "
            f"from what it should be; {_better(there, wanted)}"
        )
    return used, wanted, fit


def _better(there: Sequence[Stored], wanted: Profile) -> str:
    """What to ask for in place of an average that cannot be made."""
    ends = sorted({one.profile.images for one in there}, key=lambda x: abs(x - wanted.images))
    if wanted.images not in ends:  # those of before it know nothing of the images since then
        for end in ends:
            known = [one.profile for one in there if one.profile.images <= end]
            if profiles.fit(known, wanted._replace(images=end)).error <= USELESS:
                nearest = listed([f"{x:,}" for x in sorted(ends[:4])])
                return f"averages are stored at {nearest} images: take --at {end}"
    nearer = " or ".join(map(str, TRACKED))
    return f"choose one nearer to {nearer}, or train with a smaller --ema-every"


def rebuilt(
    run: RunDirectory, sigma_rel: float, images: int | None = None, reporter: Reporter = SILENT
) -> Rebuilt:
    """The average of this length after so many images seen, as `all_rebuilt`."""
    (found,) = all_rebuilt(run, [sigma_rel], images, reporter)
    return found


def all_rebuilt(
    run: RunDirectory,
    lengths: Sequence[float],
    images: int | None = None,
    reporter: Reporter = SILENT,
) -> list[Rebuilt]:
    """The averages of these lengths after so many images seen; None: all that were stored.

    Each file is read once. In memory are one of them and a sum for each length, in float64, of
    which float32 copies are made one after the other. Raises DdpmError as `best_fit`, and for files
    that cannot be read or are of another network.
    """
    fits = [best_fit(run, sigma_rel, images) for sigma_rel in lengths]
    files = [one.path for one in fits[0][0]]  # which are the same of all lengths
    used = np.abs([fit.coefficients for *_, fit in fits]) > _NEGLIGIBLE  # (lengths, files)
    parts = [index for index in range(len(files)) if used[:, index].any()]
    sums: list[dict[str, Tensor]] = [{} for _ in lengths]
    for index in track(parts, reporter, "averages", len(parts), "files"):
        found = tensors.with_current_names(tensors.read(files[index]).tensors)
        for total, (*_, fit), is_used in zip(sums, fits, used[:, index], strict=True):
            if is_used:
                _add(total, found, float(fit.coefficients[index]), files[index])
    return [
        Rebuilt({name: total.pop(name).float() for name in [*total]}, profile, fit.error, count)
        for total, (_, profile, fit), count in zip(sums, fits, used.sum(1).tolist(), strict=True)
    ]


def name_of(profile: Profile, newest: int) -> str:
    """The file of a rebuilt average in its run, which `--weights` finds without the suffix."""
    after = "" if profile.images == newest else f"-{profile.images}"
    digits = max(3, len(f"{profile.sigma_rel:.9f}".rstrip("0")) - 2)
    return f"ema-{profile.sigma_rel:.{digits}f}{after}.safetensors"


def write(path: Path, run: RunDirectory, found: Rebuilt, *, overwrite: bool = False) -> str:
    """Write a rebuilt average as a weights file, atomically; what was there before, in words.

    The same average of fewer images is replaced, as it can be rebuilt again. Raises DdpmError
    where another file is there, unless it is overwritten.
    """
    newest = next(one.path for one in reversed(stored(run)))
    described = weights.read_description(newest, tensors.describe(newest))
    images, sigma_rel = found.profile
    if is_there(path, run, found, overwrite=overwrite):
        return "is there already, the same"
    there = replaced(path, run, found.profile, overwrite=overwrite)
    weights.save(path, found.tensors, described.config, images, described.statistics, sigma_rel)
    return "" if there is None else f"replaces that of {there:,} images"


def replaced(
    path: Path, run: RunDirectory, profile: Profile, *, overwrite: bool = False
) -> int | None:
    """The images of what `write` would replace: an average of this length, of at most as many.

    None where there is nothing, or anything may be replaced. Raises DdpmError for other files.
    """
    if overwrite or not path.exists():
        return None
    newest = stored(run)[-1].path
    network = weights.read_description(newest, tensors.describe(newest)).config.network
    try:
        there = weights.read_description(path, tensors.describe(path))
    except DdpmError as error:
        raise _unlike(path, run) from error
    same = there.config.network == network and there.sigma_rel == profile.sigma_rel
    if not same or there.images > profile.images:
        raise _unlike(path, run)
    return there.images


def is_there(path: Path, run: RunDirectory, found: Rebuilt, *, overwrite: bool = False) -> bool:
    """Whether a file is this average already. Raises DdpmError where `write` would refuse it."""
    if replaced(path, run, found.profile, overwrite=overwrite) != found.profile.images:
        return False
    if not holds(path, found):
        raise _unlike(path, run)
    return True


def _unlike(path: Path, run: RunDirectory) -> DdpmError:
    return DdpmError(
        f"{path} exists, and is no earlier average of {run.path}: move it away, or replace it "
        "with ddpm ema --overwrite"
    )


def holds(path: Path, found: Rebuilt) -> bool:
    """Whether a file's tensors are those of this average."""
    there = tensors.with_current_names(tensors.read(path).tensors)
    return there.keys() == found.tensors.keys() and all(
        torch.equal(x, found.tensors[name]) for name, x in there.items()
    )


def _add(
    total: dict[str, Tensor], found: Mapping[str, Tensor], coefficient: float, path: Path
) -> None:
    """Add the tensors of a file times a coefficient, in place."""
    if not total:
        total.update({name: torch.zeros_like(x, dtype=torch.float64) for name, x in found.items()})
    if wrong := tensors.mismatches(found, total):
        raise DdpmError(
            f"{path} is of another network than the averages before it: {listed(wrong)}"
        )
    for name, tensor in found.items():
        total[name].add_(tensor, alpha=coefficient)
