"""What an inspection found, as lines of a label and a sentence, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ddpm_cli.core.config.diffusion import ObjectiveConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import DataConfig, OptimiserConfig, RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.runs import listing
from ddpm_cli.core.runs.inspection import RUN, Inspection
from ddpm_cli.core.runtime import quantities
from ddpm_cli.core.runtime.files import in_words

Fact = tuple[str, str]  # a label, and what there is to say
_CLASSES = 12  # that are named
_HASH = 12  # digits of a fingerprint


def facts(found: Inspection) -> Iterator[Fact]:
    """Everything but the network's parts, in the order in which it is read."""
    yield "What", found.what
    if found.classifier is not None:
        yield from _of_classifier(found)
    config = found.config
    if config is not None:
        yield "Images", _images(config.network)
    if config is not None and found.is_ours:
        yield "Data", _data(config.data)
        yield "Condition", _condition(config)
        yield "Noise", _noise(config)
        yield "Objective", _objective(config)
        yield "Training", _training(found, config)
        yield "Average", _average(found, config.optimiser)
        if found.kind == RUN and (text := _sampling(found)):
            yield "Sampling", text
        yield "Origin", _origin(found, config)
        if versions := _versions(found):
            yield "Versions", versions
    yield from _of_file(found)


def _sampling(found: Inspection) -> str:
    """How the run is sampled by default, where a sweep found it."""
    try:
        default = default_sampling.of_run(found.path)
    except DdpmError as error:
        return str(error)
    return "" if default.path is None else default.described


def _of_classifier(found: Inspection) -> Iterator[Fact]:
    config = found.classifier
    assert config is not None
    height, width = config.size
    yield "Images", f"{height}x{width}, {quantities.colours(config.channels)}"
    yield "Data", config.data
    yield "Classes", f"{len(config.labels)}: {listed(config.labels, _CLASSES)}"
    yield "Accuracy", f"{100 * config.accuracy:.1f} % of held-out images"
    yield "Features", f"{4 * config.width} of its last hidden layer"


def _images(network: NetworkConfig) -> str:
    height, width = network.size
    patch = f", in patches of {network.patch}x{network.patch} pixels" if network.patch > 1 else ""
    return f"{height}x{width}, {quantities.colours(network.channels)}{patch}"


def _data(data: DataConfig) -> str:
    if not data.source and not data.fingerprint:
        return "unknown: the weights come from another library"
    mark = data.fingerprint
    shown = f"{mark[:_HASH]}…" if len(mark) == 64 else mark  # a SHA-256
    flips = ", flipped at random" if data.flip else ""
    held = f", {data.holdout:,} held out" if data.holdout else ""
    return f"{data.source} (fingerprint {shown or 'none'}){flips}{held}"


def _condition(config: RunConfig) -> str:
    network, data = config.network, config.data
    words = []
    if network.classes:
        kind = "attributes" if network.multi_label else "classes"
        null = "" if network.null_class else ", without a null class: no guidance"
        names = listed(network.classes, _CLASSES)
        words.append(f"{len(network.classes)} {kind} ({names}){null}")
    if network.text is not None:
        encoder = "a transformer over bytes" if network.text.encoder == "bytes" else "the encoder "
        encoder += "" if network.text.encoder == "bytes" else network.text.encoder
        example = f", as {data.examples[0]!r}" if data.examples else ""
        words.append(f"captions by {encoder}{example}")
    if data.given or data.given_data:
        words.append(f"a given image: {data.given or data.given_data}")
    return "; ".join(words) or "none: unconditional"


def _noise(config: RunConfig) -> str:
    diffusion = config.diffusion
    levels = _levels(config)
    span = f", sigma {levels[0]:.3g} to {levels[1]:,.5g}" if levels else ""
    return f"schedule {diffusion.schedule}, {diffusion.timesteps:,} timesteps{span}"


def _levels(config: RunConfig) -> tuple[float, float] | None:
    try:
        sigma = schedules.from_config(config.diffusion).sigma
    except DdpmError:
        return None
    return float(sigma[0]), float(sigma[-1])


def _objective(config: RunConfig) -> str:
    objective = config.objective
    words = [f"parameterisation {config.diffusion.parameterisation}", f"loss {objective.loss}"]
    words.append(f"{objective.weighting} weighting{_gamma(objective)}")
    normal = objective.noise_mean is not None or objective.noise_std is not None
    shape = f" (mean {objective.noise_mean}, std {objective.noise_std})" if normal else ""
    words.append(f"noise levels {objective.noise_levels}{shape}")
    if config.network.learned_variance:
        words.append("learned variance")
    return ", ".join(words)


def _gamma(objective: ObjectiveConfig) -> str:
    gamma = objective.weighting_gamma
    return "" if gamma is None else f" (gamma {gamma:g})"


def _training(found: Inspection, config: RunConfig) -> str:
    if found.images is None:
        return "unknown"
    if not found.images and config.origin is not None and found.summary is None:
        return "none here: the weights come from another library"
    optimiser = config.optimiser
    limits = quantities.limits(config.budget)
    budget = f" of a budget of {limits}" if limits else ""
    words = [f"{found.images:,} images seen{budget}"]
    words.append(f"batch {optimiser.batch}, learning rate {optimiser.lr:g}, seed {optimiser.seed}")
    run = found.summary
    if run is not None and found.progress == {} and run.loss is not None:
        words.append(f"loss {run.loss:.4f}")
    if run is not None and found.progress == {} and run.score is not None:
        words.append(f"best {run.score.label} {run.score.value:.4g}")
    return "; ".join(words)


def _average(found: Inspection, optimiser: OptimiserConfig) -> str:
    if found.sigma_rel is not None:
        return f"power profile, sigma_rel {found.sigma_rel:g}"
    share = f"{100 * optimiser.ema_rampup:g} %"
    stored = f"; {found.averages} with power profiles in ema/" if found.averages else ""
    usual = f"half-life {optimiser.ema_halflife:,} images, at most {share} of the images seen"
    return usual + stored


def _origin(found: Inspection, config: RunConfig) -> str:
    if config.origin is None:
        return "random weights"
    began = "converted from" if not found.images and found.summary is None else "began with"
    return f"{began} {config.origin.path} (sha256 {config.origin.sha256[:_HASH]}…)"


def _versions(found: Inspection) -> str:
    """Those of the last start, and how many starts there were."""
    if not found.starts:
        return ""
    last = found.starts[-1]
    versions = [f"{name} {last[name]}" for name in ("ddpm", "torch") if last.get(name)]
    on = f" on {last['device']}" if last.get("device") else ""
    times = f"; {len(found.starts)} starts, this is the last" if len(found.starts) > 1 else ""
    preset = f"; preset {last['preset']}" if last.get("preset") else ""
    return f"{', '.join(versions)}{on}, {last.get('date', 'at an unknown time')}{preset}{times}"


def _of_file(found: Inspection) -> Iterator[Fact]:
    progress = found.progress
    if progress:
        steps, seconds = progress.get("steps"), progress.get("seconds")
        words = [] if steps is None else [f"{steps:,} steps"]
        words += [] if seconds is None else [f"{quantities.duration(seconds)} of training"]
        words += [f"{progress['processes']} processes"] if progress.get("processes", 1) != 1 else []
        yield "Progress", ", ".join(words)
    if found.stored is not None:
        stored = found.stored
        yield (
            "File",
            f"{stored.count:,} tensor{'s' * (stored.count != 1)}, {stored.parameters:,} numbers in "
            f"{', '.join(stored.dtypes)}, {in_words(stored.bytes)}",
        )
    if found.summary is not None and found.kind == "run":
        yield "Run", f"{in_words(found.summary.bytes)} in all"
    for line in found.mismatches[:3]:
        yield "Fault", f"does not fit its own config: {line}"
    if found.next:
        yield "Next", found.next


def _of_config(found: Inspection, config: RunConfig) -> dict[str, Any]:
    """What the config says, as JSON values."""
    network = {"size": list(config.network.size), "channels": config.network.channels}
    if not found.is_ours:
        return network
    levels = _levels(config)
    return network | {
        "data": {
            "source": config.data.source,
            "fingerprint": config.data.fingerprint,
            "labels": config.data.labels,
            "captions": config.data.captions,
        },
        "classes": list(config.network.classes),
        "captions": config.network.text is not None,
        "schedule": {
            "name": config.diffusion.schedule,
            "timesteps": config.diffusion.timesteps,
            "sigma_min": levels and levels[0],
            "sigma_max": levels and levels[1],
        },
        "objective": {"parameterisation": config.diffusion.parameterisation}
        | asdict(config.objective),
        "ema": {
            "halflife": config.optimiser.ema_halflife,
            "rampup": config.optimiser.ema_rampup,
            "sigma_rel": found.sigma_rel,
            "stored": found.averages,
        },
        "origin": config.origin and asdict(config.origin),
        "config": to_dict(config),
    }


def document(found: Inspection) -> dict[str, Any]:
    """What is known as JSON values."""
    return {
        "path": str(found.path),
        "kind": found.kind,
        "what": found.what,
        "images": found.images,
        "stored": found.stored and vars(found.stored) | {"dtypes": list(found.stored.dtypes)},
        "network": found.network and found.network.document(),
        **({} if found.config is None else _of_config(found, found.config)),
        "run": found.summary and listing.document(found.summary),
        "starts": list(found.starts),
        "progress": dict(found.progress) or None,
        "classifier": found.classifier and to_dict(found.classifier),
        "mismatches": list(found.mismatches),
        "next": found.next or None,
        **({"sampling": _sampling(found)} if found.kind == RUN and _sampling(found) else {}),
    }
