"""Other people's weights -> a weights file of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import (
    DataConfig,
    DiffusionConfig,
    OptimiserConfig,
    RunConfig,
    WeightsOrigin,
)
from ddpm_cli.core.config.serialisation import one_of
from ddpm_cli.core.conversion import diffusers, openai, reference, scheduler
from ddpm_cli.core.conversion.checking import Compute, difference
from ddpm_cli.core.conversion.layout import DIFFUSERS, OPENAI, Layout, Tensors, import_tensors
from ddpm_cli.core.conversion.reference import Heads
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet, parameter_count
from ddpm_cli.core.runtime.downloads import sha256_of

_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about weights, where their files do not; None: nothing."""

    size: tuple[int, int] | None = None  # height, width in pixels
    null_class: int | None = None  # their number of the class that means none
    schedule: str | None = None
    timesteps: int | None = None
    parameterisation: str | None = None
    rescale_timesteps: bool | None = None  # whether the network was told t * 1000 / T
    heads: int | None = None
    head_width: int | None = None
    attention_order: str | None = None


class Foreign(NamedTuple):
    """Other people's weights, understood."""

    file: Path
    network: NetworkConfig
    diffusion: DiffusionConfig
    state: Tensors  # theirs, in our order, under their names
    layout: Layout
    compute: Compute  # from their tensors as they are


def convert(source: Path, out: Path, told: ImportOptions) -> dict[str, Any]:
    """Write other people's weights as a weights file of ours; what there is to say about it.

    Raises DdpmError for what our network cannot be, for files that hold more than tensors, and
    where the result computes something else: then nothing is written.
    """
    if out.exists():
        raise DdpmError(f"{out} is there already; choose another --out")
    foreign = _diffusers(source, told) if source.is_dir() else _openai(source, told)
    config = RunConfig(
        data=DataConfig(source=""),
        network=foreign.network,
        diffusion=foreign.diffusion,
        optimiser=OptimiserConfig(class_drop=0.0 if told.null_class is None else 0.1),
        origin=WeightsOrigin(str(source), sha256_of(foreign.file)),
    )
    config.check()
    schedules.from_config(config.diffusion)  # refuses one that leaves no signal
    state = _null_first(foreign.state, foreign.layout, told.null_class)
    network = UNet(config.network)
    network.load_state_dict(import_tensors(state, foreign.layout, network))
    largest = difference(network, foreign.compute, config.diffusion, told.null_class)
    weights.save(out, network.state_dict(), config, images=0)
    return {
        "out": str(out),
        "source": str(foreign.file),
        "parameters": parameter_count(network),
        "largest_difference": largest,
        "size": list(config.network.size),
        "channels": config.network.channels,
        "classes": len(config.network.classes),
        "schedule": config.diffusion.schedule,
        "timesteps": config.diffusion.timesteps,
        "parameterisation": config.diffusion.parameterisation,
    }


def _diffusers(source: Path, told: ImportOptions) -> Foreign:
    """A UNet2DModel's folder, or that of a pipeline around one."""
    folder = source / "unet" if (source / "unet").is_dir() else source
    place = folder / "config.json"
    document = _document(place)
    kind = document.get("_class_name", "something else; to hand out a run of ddpm, add --to")
    if kind != "UNet2DModel":
        raise DdpmError(f"{place} is not of diffusers' UNet2DModel but of {kind}")
    _refuse_idle(told, f"{place} says it", "heads", "head_width", "attention_order")
    _refuse_idle(told, "diffusers' networks are told plain timesteps", "rescale_timesteps")
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise DdpmError(f"{folder} holds neither {' nor '.join(_FILES)}")
    theirs = diffusers.read(document, str(place))
    size = told.size or theirs.sample_size
    if size is None:
        raise UsageError(f"{place} does not say how large the pictures are: give --size")
    _check_null_class(told, theirs.num_class_embeds or 0)
    network = diffusers.recipe(theirs, size, told.null_class)
    diffusion = _scheduled(source, told, learned_variance=network.learned_variance)
    raw = _plain(file)
    state = {_respelt(name): tensor for name, tensor in raw.items()}
    time = "time_embedding.linear_1.weight"
    if time in state and diffusers.swapped(theirs):
        state[time] = state[time].roll(state[time].shape[1] // 2, dims=1)
    compute = partial(reference.diffusers_unet, raw, theirs)
    return Foreign(file, network, diffusion, state, DIFFUSERS, compute)


def _openai(source: Path, told: ImportOptions) -> Foreign:
    """A state dict of improved-diffusion or guided-diffusion."""
    raw = _plain(source)
    if openai.FIRST not in raw:
        raise DdpmError(
            f"{source} holds {', '.join(list(raw)[:3])}, …: no network of improved- or "
            "guided-diffusion; of a model of diffusers give the folder, and to hand out weights of "
            "ddpm add --to"
        )
    if told.size is None:
        raise UsageError(f"{source} does not say how large the pictures are: give --size")
    if (told.heads is None) == (told.head_width is None):
        raise UsageError(
            f"{source} does not say how attention is split: give either --heads (improved-"
            "diffusion's scripts take 4) or --head-width (guided-diffusion's models take 64)"
        )
    if told.timesteps not in (None, 1000) and told.rescale_timesteps is None:
        raise UsageError(
            f"{source} does not say whether the network is told the timesteps as they are or times "
            "1000 / T: give --no-rescale-timesteps or --rescale-timesteps (the default of "
            "improved-diffusion's scripts)"
        )
    order = told.attention_order or "legacy"
    one_of("--attention-order", order, ("legacy", "new"))
    heads = Heads(told.heads, told.head_width, order == "legacy")
    _check_null_class(told, len(raw.get("label_emb.weight", ())))
    network = openai.recipe(raw, heads, told.size, told.null_class)
    diffusion = _noise_process(source, told)
    compute = partial(reference.openai_unet, raw, heads)
    return Foreign(
        source, network, diffusion, openai.split_interleaved_qkv(raw, heads), OPENAI, compute
    )


def _scheduled(source: Path, told: ImportOptions, *, learned_variance: bool) -> DiffusionConfig:
    """The noise process that a folder's scheduler describes, or else the user."""
    places = (source / "scheduler" / "scheduler_config.json", source / "scheduler_config.json")
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        return _noise_process(source, told)
    _refuse_idle(told, f"{place} says it", "schedule", "timesteps", "parameterisation")
    theirs = scheduler.read(_document(place), str(place))
    if learned_variance and theirs.variance_type != "learned_range":
        raise DdpmError(
            f"{place}: variance_type {theirs.variance_type!r} has no counterpart where a network "
            "learned its variance; learned_range has"
        )
    return scheduler.noise_process(theirs)


def _noise_process(source: Path, told: ImportOptions) -> DiffusionConfig:
    if told.schedule is None or told.timesteps is None:
        raise UsageError(
            f"{source} does not say how noise grows: give --schedule and --timesteps, as in its "
            "training"
        )
    one_of("--schedule", told.schedule, schedules.BETAS)
    parameterisation = told.parameterisation or "eps"
    one_of("--parameterisation", parameterisation, ("eps", "x0", "v"))
    return DiffusionConfig(
        schedule=told.schedule,
        timesteps=told.timesteps,
        parameterisation=parameterisation,
        time_scale=1000 / told.timesteps if told.rescale_timesteps else 1.0,
    )


def _null_first(state: Tensors, layout: Layout, null_class: int | None) -> Tensors:
    """The state with the null class's embedding before the others, as ours has it."""
    name = f"{layout.outer['embedding.classes']}.weight"
    if null_class is None or name not in state:
        return state
    rows = state[name]
    others = [i for i in range(len(rows)) if i != null_class]
    return state | {name: rows[[null_class, *others]]}


def _check_null_class(told: ImportOptions, classes: int) -> None:
    if told.null_class is not None and not 0 <= told.null_class < classes:
        raise UsageError(
            f"--null-class {told.null_class} is none of the {classes} classes, counted from 0"
            if classes
            else "--null-class is for networks that know classes, and this one knows none"
        )


def _refuse_idle(told: ImportOptions, why: str, *names: str) -> None:
    for name, value in asdict(told).items():
        if name in names and value is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning here: {why}")


def _respelt(name: str) -> str:
    """The name of an attention's layer as newer versions of diffusers spell it."""
    place, _, leaf = name.rpartition(".")
    front, _, layer = place.rpartition(".")
    if ".attentions." in place and layer in _OLD_NAMES:
        return f"{front}.{_OLD_NAMES[layer]}.{leaf}"
    return name


def _plain(file: Path) -> Tensors:
    """The tensors of a file, without what training wrapped around their names."""
    if file.suffix in (".pkl", ".pickle"):
        raise DdpmError(
            f"{file} is a pickle, which may run any code when it is read, so ddpm does not read "
            "it. Where you trust it, load it with the code it came with, and save the network's "
            "tensors in the layout of diffusers or of guided-diffusion"
        )
    if not file.exists():
        raise DdpmError(f"{file}: no such file or folder")
    try:
        state = tensors.read_flat(file)
    except DdpmError as error:
        raise DdpmError(
            f"{error}; ddpm reads tensors by name alone: where you trust the file, load it there "
            "and torch.save(network.state_dict(), …)"
        ) from error
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def _document(path: Path) -> dict[str, Any]:
    """A JSON file of named settings. Raises DdpmError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file; a folder of diffusers has one") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise DdpmError(f"{path} should hold named settings")
    return document
