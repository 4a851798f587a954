"""Post-hoc EMA: an average of any length, rebuilt from those that a training stored in `ema/`.

Karras et al. (2024), section 3.2 and appendix C.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

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
    return run.averages / f"{profile.images:012d}-{profile.sigma_rel:.3f}.safetensors"


def _aside(run: RunDirectory, profile: Profile) -> Path:
    return path_of(run, profile).with_suffix(".superseded")


def stored(run: RunDirectory) -> list[Stored]:
    """The averages that a run has stored, fewest images first."""
    found = []
    for path in sorted(run.averages.glob("*.safetensors")):
        if name := _NAME.fullmatch(path.stem):
            found.append(Stored(path, Profile(int(name[1]), float(name[2]))))
    return found


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
    return sorted(run.averages.glob("*.superseded"))


def best_fit(
    run: RunDirectory, sigma_rel: float, images: int | None = None
) -> tuple[list[Stored], Profile, profiles.Fit]:
    """Which stored averages make the one wanted, and how well; images: None for the newest.

    Raises DdpmError where there are none, or those there are cannot make it.
    """
    there = stored(run)
    if not there:
        raise DdpmError(
            f"{run.path} has stored no averages in {run.averages.name}/: other lengths can be "
            "rebuilt of a run that was trained with --ema-every"
        )
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
    """The average of this length after so many images seen; None: all that were stored.

    The files are read one after the other: in memory are one of them and the sum, in float64.
    Raises DdpmError as `best_fit`, and for files that cannot be read or are of another network.
    """
    used, wanted, fit = best_fit(run, sigma_rel, images)
    parts = [
        (one.path, float(x))
        for one, x in zip(used, fit.coefficients, strict=True)
        if abs(x) > _NEGLIGIBLE
    ]
    total: dict[str, Tensor] = {}
    for path, x in track(parts, reporter, f"sigma_rel {sigma_rel:g}", len(parts), "files"):
        _add(total, path, x)
    return Rebuilt(
        {name: tensor.float() for name, tensor in total.items()}, wanted, fit.error, len(parts)
    )


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
    there = None if overwrite or not path.exists() else _earlier(path, found, described.config)
    if there == images and _holds(path, found):
        return "is there already, the same"
    if there == images or (there is None and path.exists() and not overwrite):
        raise DdpmError(
            f"{path} exists, and is no earlier average of {run.path}: move it away, or replace it "
            "with ddpm ema --overwrite"
        )
    weights.save(path, found.tensors, described.config, images, described.statistics, sigma_rel)
    return "" if there is None else f"replaces that of {there:,} images"


def _earlier(path: Path, found: Rebuilt, config: RunConfig) -> int | None:
    """The images of a file of this length and network, at most as many; None for any other."""
    try:
        there = weights.read_description(path, tensors.describe(path))
    except DdpmError:
        return None
    same = there.config.network == config.network and there.sigma_rel == found.profile.sigma_rel
    return there.images if same and there.images <= found.profile.images else None


def _holds(path: Path, found: Rebuilt) -> bool:
    """Whether a file's tensors are those of this average."""
    there = tensors.read(path).tensors
    return there.keys() == found.tensors.keys() and all(
        torch.equal(x, found.tensors[name]) for name, x in there.items()
    )


def _add(total: dict[str, Tensor], path: Path, coefficient: float) -> None:
    """Add the tensors of a file times a coefficient, in place."""
    found = tensors.read(path).tensors
    if not total:
        total.update({name: torch.zeros_like(x, dtype=torch.float64) for name, x in found.items()})
    if wrong := tensors.mismatches(found, total):
        raise DdpmError(
            f"{path} is of another network than the averages before it: {listed(wrong)}"
        )
    for name, tensor in found.items():
        total[name].add_(tensor, alpha=coefficient)
