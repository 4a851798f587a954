"""What a call of `ddpm train` would do: data, preset, file and options merged into a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.conditioning.requests import ConditionPlan, default_plan
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.config.network import refuse_others
from ddpm_cli.core.config.preset_choice import Choice, choices, choose
from ddpm_cli.core.config.presets import merged
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import given
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.files import allow_pixels
from ddpm_cli.core.data.pairs import pair
from ddpm_cli.core.data.sources import Source, open_source, with_class_order
from ddpm_cli.core.data.transform import power_of_two
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.families import parameters_of
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, runs_folder
from ddpm_cli.core.training import initial_weights
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.preparation import (
    beginning,
    captioning,
    conditions,
    labelling,
    origins,
    saved_settings,
)
from ddpm_cli.core.training.preparation.forecast import Memory, disk
from ddpm_cli.core.training.preparation.origins import Origin
from ddpm_cli.core.training.preparation.saved_settings import SavedSettings
from ddpm_cli.core.training.state import Progress
from ddpm_cli.core.training.trainer import Execution

_BUILT_IN = "shapes"


@dataclass(frozen=True)
class TrainingPlan:
    """A run that could start: the source of its images, its config and its directory."""

    source: Source
    captions: Captions | None  # those that are learned
    config: RunConfig
    preset: str  # "" where the settings are those of a run that is there
    out: Path
    notices: tuple[str, ...] = ()  # what of the data is left out or not read, one line each
    init_from: Path | None = None  # where the weights start from, unless the run is resumed
    cache: str = "disk"  # where decoded images are kept, as --cache says
    preset_because: str = ""  # why this preset, where it was not named, or what is in its place
    memory: Memory | None = None  # estimated, on rank 0 once it was checked
    microbatch: int | None = None  # images in a forward pass, where a whole shard does not fit
    pairs: Source | None = None  # the images of --given-data
    recorded: WeightsOrigin | None = None  # the same as init_from, where a config names it
    origins: dict[str, Origin] = field(default_factory=dict)  # of each setting, by dotted names

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        return parameters_of(self.config.network)

    @property
    def whole_config(self) -> RunConfig:
        """The config with the weights that the training starts from, as --config FILE takes it."""
        origin = self.recorded
        if origin is None and self.init_from is not None:
            digest = sha256_of(find_weights(self.init_from))
            origin = WeightsOrigin(str(self.init_from), digest)
        return replace(self.config, origin=origin)

    def fitted(self, execution: Execution) -> Execution:
        """The execution with a microbatch that fits, unless it has one; of tuning in float32.

        Its two outputs differ by less than bfloat16 rounds, so that needs to be asked for.
        """
        exact = self.config.objective.is_tuning and not execution.precision_given
        return replace(
            execution,
            microbatch=execution.microbatch or self.microbatch,
            precision=torch.float32 if exact else execution.precision,
        )

    def default_conditions(self) -> ConditionPlan:
        """What previews show: the classes or example captions in turn."""
        return default_plan(self.config)

    @property
    def training_images(self) -> int:
        """Images of an epoch."""
        return len(self.source) - self.config.data.holdout

    @property
    def images(self) -> int | None:
        """Images seen when the training ends; None where only time ends it."""
        return BudgetTracker(self.config, self.training_images, Progress()).images

    @property
    def text_length(self) -> int:
        """Bytes or tokens of the longest caption, at most; 0 without captions."""
        text = self.config.network.text
        if text is None or self.captions is None:
            return 0
        if text.encoder != "bytes":
            return text.length
        return max(len(sentence.encode()) for sentence in self.captions.sentences)

    @property
    def decoded(self) -> int:
        """Bytes of the decoded images."""
        network = self.config.network
        return len(self.source) * network.channels * network.size[0] * network.size[1]

    @property
    def in_memory(self) -> int:
        """Bytes of the decoded images where they are in memory, not in the cache."""
        unmapped = self.cache == "ram" or not self.source.cache_key
        return self.decoded if unmapped and self.cache != "none" else 0

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` reports."""
        config, images = self.config, self.images
        batch = config.optimiser.batch
        given_to = config.data.given or config.data.given_data
        cached = 0 if self.in_memory or self.cache == "none" else self.decoded
        return {
            "out": str(self.out),
            "preset": self.preset or None,
            "preset_because": self.preset_because or None,
            "microbatch": self.microbatch,
            "memory_bytes": self.memory and self.memory.by_part(),
            "disk_bytes": disk(self.out, config, self.parameters, images, cached),
            "parameters": self.parameters,
            "pictures": len(self.source),
            "classes": list(config.network.classes),
            "no_classes_because": self.source.why_no_classes or None,
            "labels": labelling.labels_in_words(config),
            **({"given": given_to} if given_to else {}),
            "notices": list(self.notices),
            "captions": 0 if self.captions is None else len(self.captions.sentences),
            "captions_from": None if self.captions is None else self.captions.origin,
            "caption": None if self.captions is None else self.captions.sentences[0],
            "text_encoder": None if config.network.text is None else config.network.text.encoder,
            "size": list(config.network.size),
            "channels": config.network.channels,
            "batch": batch,
            "images": images,
            "steps": images and images // batch,
            "epochs": images and images / self.training_images,
            "minutes": config.budget.minutes,
            "clipped_betas": _clipped_betas(config.diffusion),
        }


def plan_training(
    request: TrainingRequest, reporter: Reporter, device: str, images: Source | None = None
) -> TrainingPlan:
    """Merge, each over the one before: defaults, preset, initial weights, file, options.

    A run that is continued takes the place of the first three. device: its type, by which a preset
    is chosen where none is named. images: those that request.data is the name of; None: they are
    opened by it. Nothing is written. Raises DdpmError or UsageError where they do not make a run.
    """
    allow_pixels(request.max_pixels)
    saved = saved_settings.read(request)
    source = _open_source(request, saved, reporter) if images is None else images
    _check_images(request, saved, source)
    asked, request = request, with_size(request, source)
    channels = request.channels or saved.get("network", "channels") or source.native_channels
    size = request.size or saved.get("network", "size") or source.native_size
    out = request.out or runs_folder() / _run_name(source.name, size)
    resumes = RunDirectory(out).config.exists() and request.resume != "never"
    names = saved.get("network", "classes")
    if resumes and names is None:
        names = RunDirectory(out).read_config().network.classes
    source = _in_order_of(source, names or ())
    pairs = _open_pairs(request, saved, reporter)

    def planned(choice: Choice) -> beginning.Planned:
        config, learn_conditions = beginning.base(saved, choice)
        return choice, *_with_options(
            config,
            request,
            saved,
            source,
            size,
            channels,
            pairs,
            learn_conditions=learn_conditions,
        )

    if saved.base is not None or request.preset:
        planned_run = planned(Choice(request.preset or "", "", {}))
    elif resumes:
        possible = choices(beginning.image_set(request, source, saved), device)
        planned_run = beginning.as_begun(RunDirectory(out), possible, planned)
    else:
        planned_run = planned(choose(beginning.image_set(request, source, saved), device))
    choice, config, captions = planned_run
    if pairs is not None:
        pair(source, pairs, f"--given-data {config.data.given_data}")
    saved.check_against_data(config, request)
    _check(config, source)
    if saved.run is None and not resumes:
        _check_initial_weights(saved, config)
    notices = (*_notices(request, saved, source, captions), *_seldom_kept(config))
    origin, cache = saved.init_from, request.cache
    name, because = choice.preset, choice.because
    if saved.run is None and request.teacher is not None:
        because = f"settings of {request.teacher}, for distillation"
    plan = TrainingPlan(source, captions, config, name, out, notices, origin, cache, because)
    traced = origins.trace(config, asked, saved, choice)
    if saved.file is not None and not request.preset and origins.without_preset(traced):
        plan = replace(plan, preset="", preset_because=f"settings of {saved.file}")
    return replace(plan, pairs=pairs, recorded=saved.recorded, origins=traced)


def _open_pairs(
    request: TrainingRequest, saved: SavedSettings, reporter: Reporter
) -> Source | None:
    """The images of --given-data, or those that the saved settings name; None without."""
    chosen = request.settings.get("data", {})
    recorded = None if chosen.get("given") else saved.get("data", "given_data")
    named = chosen.get("given_data", recorded)
    if not named:
        return None
    try:
        return open_source(named, reporter, training=True, root=request.data_root)
    except DdpmError as error:
        raise DdpmError(f"--given-data {error}") from error


def _open_source(request: TrainingRequest, saved: SavedSettings, reporter: Reporter) -> Source:
    """The images of --data, or those that the saved settings name, or the built-in shapes."""
    recorded, attributes = saved.get("data", "source"), conditions.attributes(request, saved)
    root = request.data_root
    if request.data is not None or recorded is None:
        named = request.data or _BUILT_IN
        return open_source(named, reporter, training=True, attributes=attributes, root=root)
    try:
        return open_source(recorded, reporter, training=True, attributes=attributes, root=root)
    except DdpmError as error:
        raise DdpmError(
            f"{saved.where} is of the images in {shortened(recorded)} (data.source), which cannot "
            f"be used: {error}; --data says where they are"
        ) from error


def _check_images(request: TrainingRequest, saved: SavedSettings, source: Source) -> None:
    """Raise DdpmError for a teacher's images that are others now, unless --data names them."""
    if saved.run is not None or request.teacher is None or request.data is not None:
        return
    if source.fingerprint != saved.get("data", "fingerprint"):
        name = saved.get("data", "source")
        raise DdpmError(
            f"the images of {name} are not the ones that {request.teacher} was trained on: give "
            f"--data {name} to tune it on them as they are"
        )


def with_size(request: TrainingRequest, source: Source) -> TrainingRequest:
    """The request with the --size that --resize-to-power comes to, if it is given."""
    if (direction := request.resize_to_power) is None:
        return request
    if source.image_size is None:
        raise UsageError(
            f"--resize-to-power {direction} is of images of one size, and those of {source.name} "
            "differ; give --size"
        )
    height, width = (power_of_two(side, direction) for side in source.image_size)
    return replace(request, size=(height, width), resize_to_power=None)


def _check_initial_weights(saved: SavedSettings, config: RunConfig) -> None:
    """Raise DdpmError for weights of another network, or other ones than a config names."""
    if saved.init_from is None:
        return
    found = initial_weights.read(saved.init_from, config.network).origin
    if saved.recorded is not None and saved.recorded.sha256 != found.sha256:
        raise DdpmError(
            f"{saved.where}: origin.sha256 is not that of {saved.init_from}, whose weights have "
            f"changed; --init-from {saved.init_from} starts from those that are there now"
        )


def _notices(
    request: TrainingRequest, saved: SavedSettings, source: Source, captions: Captions | None
) -> tuple[str, ...]:
    """What of the data, and of a file's settings for other data, is left out or not read."""
    other = saved.overruled_images(request)
    if saved.file is not None and other is not None:
        overruled = (
            f"--data {request.data} replaces {other} of {saved.file}: its images' classes and "
            "captions are not taken"
        )
    else:
        overruled = ""
    beside = "" if request.captions is False else source.unread(captions)
    read = () if captions is None else captions.notices
    return tuple(filter(None, (overruled, *source.notices, *read, beside)))


def _seldom_kept(config: RunConfig) -> tuple[str, ...]:
    """That snapshots are written less often than --keep-every would keep them, where they are."""
    if not config.keep_every or config.keep_every >= config.snapshot_every:
        return ()
    return (
        f"--keep-every {config.keep_every:,} keeps snapshots that are written, which is one every "
        f"{config.snapshot_every:,} images: for more, give --snapshot-every {config.keep_every}",
    )


def _in_order_of(source: Source, names: Sequence[str]) -> Source:
    """The source with its classes in this order, if they are the same names.

    Earlier versions sorted names that are numbers as text.
    """
    ours = source.classes
    same = names and sorted(names) == sorted(ours)
    return with_class_order(source, names) if same and tuple(names) != ours else source


def plan_on_source(
    config: RunConfig,
    source: Source,
    out: Path,
    size: tuple[int, int] | None,
    named: str | None = None,
) -> TrainingPlan:
    """A run of this config on a source given as an object; its classes are learned, if it has any.

    named: the images as --data names them, where other commands find them; None: they have none.
    Raises DdpmError or UsageError where they do not make a run.
    """
    network = {
        "size": list(size or source.native_size),
        "channels": source.native_channels,
        "augmented": config.data.augment > 0,
        **labelling.network_settings(source, learned=bool(source.classes)),
        **captioning.network_settings(config.network, {}, None),
    }
    data = {"source": named or source.name, "fingerprint": source.fingerprint}
    data |= captioning.data_settings(None, ())
    data |= labelling.data_settings(source, None, learned=bool(source.classes))
    config = given.with_settings(updated(config, {"network": network, "data": data}), None)
    _check(config, source)
    return TrainingPlan(source, None, config, "", out)


def _with_options(
    config: RunConfig,
    request: TrainingRequest,
    saved: SavedSettings,
    source: Source,
    size: tuple[int, int],
    channels: int,
    pairs: Source | None,
    *,
    learn_conditions: bool,
) -> tuple[RunConfig, Captions | None]:
    """The config under the request's options and what follows from the data; captions to learn."""
    options = dict(request.settings)
    of_network = options.get("network", {})
    refuse_others(of_network.get("family", config.network.family), of_network)
    follows, captions = conditions.to_learn(
        request, saved, config, source, options, learn_conditions=learn_conditions
    )
    for part, settings in follows.items():
        options[part] = options.get(part, {}) | settings
    options["network"] |= {"size": list(size), "channels": channels}
    options["data"] |= {
        "source": request.data or saved.get("data", "source") or _BUILT_IN,
        "fingerprint": source.fingerprint,
        "shuffle": _shuffle(request, saved, source),
    }
    for one, other in (("given", "given_data"), ("given_data", "given")):
        if options["data"].get(one) and other not in options["data"]:
            options["data"][other] = ""  # which it replaces
    config = given.with_settings(merged(config, options), pairs)
    augmented = {"network": {"augmented": config.data.augment > 0}}
    return updated(config, augmented), captions


def _clipped_betas(diffusion: DiffusionConfig) -> str | None:
    """A sentence where the schedule's betas are cut, as `inspect-schedule` says it."""
    beta = schedules.from_config(diffusion).beta
    return schedules.clipping_notice(diffusion.schedule, beta, diffusion.beta_cap)


def _shuffle(request: TrainingRequest, saved: SavedSettings, source: Source) -> str:
    """The order of images: as chosen or recorded, else the one that suits how they are read."""
    same_images = saved.overruled_images(request) is None
    recorded = saved.get("data", "shuffle") if same_images else None
    chosen: str | None = request.settings.get("data", {}).get("shuffle") or recorded
    return chosen or ("blocks" if request.cache == "none" and source.blocks else "images")


def _check_order(config: RunConfig, source: Source) -> None:
    """Raise UsageError for an order that these images do not have."""
    if config.data.balance and not source.classes:
        why = source.why_no_classes or f"{source.name} has no classes"
        raise UsageError(f"--balance draws classes equally often, but {why}")
    if config.data.balance and source.labels.ndim == 2:
        raise UsageError(
            f"--balance draws images of one class each, and those of {source.name} have several "
            "at once"
        )
    if config.data.shuffle == "blocks" and not source.blocks:
        raise UsageError(
            f"--shuffle blocks: {source.name} has no blocks that are read as a whole; use images"
        )


def _check(config: RunConfig, source: Source) -> None:
    config.check()
    _check_order(config, source)
    images = len(source)
    schedules.from_config(config.diffusion)  # refuses one that leaves no signal
    if not config.budget.is_limited:
        raise UsageError("no budget: give --images, --steps, --epochs or --minutes")
    if config.data.holdout >= images:
        raise UsageError(
            f"--holdout {config.data.holdout} leaves nothing of {images} images to train on"
        )


def _run_name(source: str, size: tuple[int, int]) -> str:
    return f"{source}-{size[0]}" if size[0] == size[1] else f"{source}-{size[0]}x{size[1]}"
