"""Worse models of the same images, by which a model is guided (Karras et al. 2024b)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_cli.core.checkpoints import post_hoc, snapshots
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, run_of_snapshot

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

    Network, parameterisation and noise schedule may differ: a guide is any D(x, sigma).
    """
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


def check_levels(model: Model, sigmas: Tensor, sampling: Sampling) -> None:
    """Raise DdpmError where a guide is wanted at noise levels that its schedule does not have."""
    if model.guide is None or sampling.guide_weight == 1:
        return
    low, high = (float(model.guide.denoiser.schedule.sigma[end]) for end in (0, -1))
    wanted = [sigma for sigma in sigmas.tolist() if sigma > 0 and sampling.is_guided_at(sigma)]
    for sigma in wanted:
        if not low * (1 - _ROUNDING) <= sigma <= high * (1 + _ROUNDING):
            raise DdpmError(
                f"--guide {model.guide.path} has learned noise levels from {low:.3g} to {high:.3g} "
                f"and is wanted at {sigma:.3g}: guide where it has, with --guidance-interval "
                f"{0.99 * low:.3g},{0.99 * high:.3g}"
            )


def early(model: Model) -> Path:
    """The state that the model's training kept nearest to a third of the images it has seen.

    Of a snapshot and stored averages of as many images, the longest average. Raises DdpmError
    where its run kept none of the first half.
    """
    run = run_of_snapshot(model.path) or RunDirectory(model.path.parent)
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
