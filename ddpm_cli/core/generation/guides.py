"""Worse models of the same images, by which a model is guided (Karras et al. 2024b)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddpm_cli.core.checkpoints import post_hoc, snapshots
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.editing import Edit
from ddpm_cli.core.diffusion.sampling import levels
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.runtime.run_directory import find_weights, run_of

EARLY = "early"  # the name of an earlier state of the model's own training
_SHARE = 1 / 3  # of the model's images, to which it is chosen as near as there is one
_MOST = 1 / 2  # of them: later states are too much like the model
_ROUNDING = 1e-3  # relative: levels so near to a schedule's ends are within it


def with_guide(model: Model, name: str | None) -> Model:
    """The model with a guide as `Sampling.guide` names it, on its device; None: as it is.

    Raises DdpmError where there is no such guide, or it cannot guide the model.
    """
    if name is None:
        return model
    path = early(model) if name == EARLY else _found(name)
    return guided_by(model, load_model(path, model.device, model.precision))


def _found(name: str) -> Path:
    try:
        return find_weights(Path(name))
    except DdpmError as error:
        raise DdpmError(f"--guide {error}") from error


def guided_by(model: Model, guide: Model) -> Model:
    """The model with a guide. Raises DdpmError for one of other images or other conditions.

    Network, parameterisation and noise schedule may differ: a guide is any D(x, sigma). But both
    are denoised means, which the outputs of consistency models are not.
    """
    for one in (guide, model):
        if one.config.objective.consistency is not None:
            raise DdpmError(
                f"--guide {guide.path} cannot guide {model.path}: {one.path} is a consistency "
                "model of ddpm distill, whose output is no denoised mean; both have to be "
                "diffusion models"
            )
    ours, others = _task(model.config), _task(guide.config)
    for what, (value, shown) in others.items():
        own, own_shown = ours[what]
        if own != value:
            if what == "classes are" and sorted(own) == sorted(value):
                shown, own_shown = "in another order", listed(own)
            raise DdpmError(
                f"--guide {guide.path} cannot guide {model.path}, as it was trained for "
                f"something else: its {what} {shown}, and the model's {own_shown}"
            )
    return model._replace(guide=guide)


def check_guide(model: Model, sampling: Sampling, edit: Edit | None = None) -> None:
    """Raise DdpmError where sampling needs a guide at noise levels that its schedule lacks."""
    if model.guide is not None:
        check_levels(model, levels(model.denoiser.schedule, sampling, edit), sampling)


def check_levels(model: Model, sigmas: Iterable[float], sampling: Sampling) -> None:
    """Raise DdpmError where a guide is wanted at noise levels that its schedule lacks.

    Beyond the model's own, as churn goes, a guide with a schedule as long is what the model is.
    """
    guide = model.guide
    if guide is None or sampling.guide_weight == 1:
        return
    low, high = _ends(guide)
    first, last = _ends(model)
    for sigma in filter(sampling.is_guided_at, sigmas):
        if not low * (1 - _ROUNDING) <= max(first, min(sigma, last)) <= high * (1 + _ROUNDING):
            raise DdpmError(
                f"--guide {guide.path} has learned noise levels from {low:.3g} to {high:.3g} "
                f"and is wanted at {sigma:.3g}: guide where it has, with --guidance-interval "
                f"{0.99 * low:.3g},{0.99 * high:.3g}"
            )


def _ends(model: Model) -> tuple[float, float]:
    """The least and the most noise of a model's schedule."""
    sigma = model.denoiser.schedule.sigma
    return float(sigma[0]), float(sigma[-1])


def early(model: Model) -> Path:
    """The state that the model's training kept nearest to a third of the images it has seen.

    Of a snapshot and stored averages of as many images, the longest average. Raises DdpmError
    where its run kept none of the first half.
    """
    run = run_of(model.path)
    states = [(int(path.stem), 0.0, path) for path in snapshots.listed(run.snapshots)]
    states += [(*average.profile, average.path) for average in post_hoc.stored(run)]
    first = [state for state in states if 0 < state[0] <= _MOST * model.images]
    if not first:
        every = max(1, round(_SHARE * model.images))
        often = f" --snapshot-every {every}" if every < model.config.snapshot_every else ""
        raise DdpmError(
            f"--guide early: {run.path} has kept no state of the first half of the "
            f"{model.images:,} images that {model.path.name} has seen. Train with --keep-every "
            f"{every}{often}, or give as --guide a run of the same data "
            "with fewer --images or a smaller network"
        )
    aim = math.log(_SHARE * model.images)
    return min(first, key=lambda state: (abs(math.log(state[0]) - aim), -state[1]))[2]


def _task(config: RunConfig) -> dict[str, tuple[Any, str]]:
    """What a guide has in common with its model, and how each is told."""
    network, text, given = config.network, config.network.text, config.data.degradation
    encoder = None if text is None else (text.fingerprint or text.encoder, text.length)
    names = network.classes
    return {
        "images are": (network.size, "x".join(map(str, network.size))),
        "channels are": (network.channels, str(network.channels)),
        "classes are": (names, listed(names) if names else "none"),
        "labels are": (network.multi_label, "several" if network.multi_label else "one"),
        "captions are": (
            encoder,
            "none" if text is None else f"{text.length} tokens of {text.encoder}",
        ),
        "given images are": (
            (network.given_channels, network.given_noise, given),
            "none" if not network.given_channels else config.data.given or "files",
        ),
    }
