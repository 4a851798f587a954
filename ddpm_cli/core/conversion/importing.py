"""Weights of diffusers and of OpenAI -> a weights file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.config import paths
from ddpm_cli.core.config.choices import ATTENTION_ORDERS
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import DataConfig, OptimiserConfig, RunConfig, WeightsOrigin
from ddpm_cli.core.conversion import diffusers, openai, reference, scheduler
from ddpm_cli.core.conversion.checking import Compute, difference
from ddpm_cli.core.conversion.diffusers_folder import NetworkFiles, network_files, network_folder
from ddpm_cli.core.conversion.layout import DIFFUSERS, OPENAI, Layout, Tensors, import_tensors
from ddpm_cli.core.conversion.reference import AttentionHeads
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.files import new_file, read_json
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


@dataclass(frozen=True)
class ImportOptions:
    """Settings that the weights' files do not contain; None: not given."""

    size: tuple[int, int] | None = None  # height, width in pixels
    null_class: int | None = None  # the null class's number in the original
    schedule: str | None = None
    timesteps: int | None = None
    parameterisation: str | None = None
    rescale_timesteps: bool | None = None  # whether the network's input was t * 1000 / T
    heads: int | None = None
    head_width: int | None = None
    attention_order: str | None = None


class OriginalModel(NamedTuple):
    """A model of another library, parsed."""

    files: NetworkFiles
    network: NetworkConfig
    diffusion: DiffusionConfig
    state_dict: Tensors  # in our order of rows, under the original names
    layout: Layout
    compute: Compute  # from the original tensors
    folder_remark: str | None = None  # which of several networks it is

    @property
    def remarks(self) -> list[str]:
        """What has to be said of the choice of folder and files."""
        return [text for text in (self.folder_remark, self.files.remark) if text is not None]


def convert(
    source: Path,
    out: Path,
    options: ImportOptions,
    reporter: Reporter = SILENT,
    *,
    overwrite: bool = False,
    origin: str | None = None,
) -> dict[str, Any]:
    """Write the weights of another library as a weights file; returns the document for --json.

    overwrite: replace a file that is there. origin: what the config says they come from; default:
    the path. Raises DdpmError for unsupported networks, for files that hold more than tensors, and
    where the converted network's outputs differ from the original's: then nothing is written.
    """
    with new_file(out, overwrite=overwrite) as path:
        return _convert(source, path, options, origin or str(source), reporter)


def _convert(
    source: Path, out: Path, options: ImportOptions, origin: str, reporter: Reporter
) -> dict[str, Any]:
    original = _diffusers(source, options) if source.is_dir() else _openai(source, options)
    if out.resolve() in [path.resolve() for path in original.files.paths]:
        raise DdpmError(f"--out {out} is what is converted; choose another --out")
    for remark in original.remarks:
        reporter.say(remark)
    config = RunConfig(
        data=DataConfig(source=""),
        network=original.network,
        diffusion=original.diffusion,
        optimiser=OptimiserConfig(class_drop=0.0 if options.null_class is None else 0.1),
        origin=WeightsOrigin(origin, original.files.sha256),
    )
    config.check()
    schedules.from_config(config.diffusion)  # raises where no signal is left
    state_dict = _null_class_first(original.state_dict, original.layout, options.null_class)
    network = UNet(config.network)
    network.load_state_dict(import_tensors(state_dict, original.layout, network))
    largest = difference(network, original.compute, config.diffusion, options.null_class)
    weights.save(out, network.state_dict(), config, images=0)
    return {
        "out": str(out),
        "source": str(original.files.paths[0]),
        "parameters": parameter_count(network),
        "largest_difference": largest,
        "size": list(config.network.size),
        "channels": config.network.channels,
        "classes": len(config.network.classes),
        "schedule": config.diffusion.schedule,
        "timesteps": config.diffusion.timesteps,
        "parameterisation": config.diffusion.parameterisation,
    }


def _diffusers(source: Path, options: ImportOptions) -> OriginalModel:
    """Parse the folder of a UNet2DModel, or of a pipeline with one."""
    folder, remark = network_folder(source)
    path = folder / "config.json"
    document = _document(path)
    name = document.get("_class_name", "something else; to export a run of ddpm, add --to")
    if name != "UNet2DModel":
        raise DdpmError(f"{path} is not of diffusers' UNet2DModel but of {name}")
    _refuse_unused(options, f"{path} has it", "heads", "head_width", "attention_order")
    _refuse_unused(options, "diffusers' networks take plain timesteps", "rescale_timesteps")
    files = network_files(folder)
    theirs = diffusers.read(document, str(path))
    size = options.size or theirs.sample_size
    if size is None:
        raise UsageError(f"{path} does not contain the images' size: give --size")
    _check_null_class(options, theirs.num_class_embeds or 0)
    network = diffusers.to_network_config(theirs, size, options.null_class)
    network = replace(network, classes=_class_names(source, network.classes))
    diffusion = _scheduler_process(source, options, learned_variance=network.learned_variance)
    raw = {name: tensor for file in files.paths for name, tensor in _read_tensors(file).items()}
    state_dict = {_current_name(name): tensor for name, tensor in raw.items()}
    time = "time_embedding.linear_1.weight"
    if time in state_dict and diffusers.sin_cos_swapped(theirs):
        weight = state_dict[time]
        state_dict[time] = weight.roll(weight.shape[1] // 2, dims=1)
    compute = partial(reference.diffusers_unet, raw, theirs)
    return OriginalModel(files, network, diffusion, state_dict, DIFFUSERS, compute, remark)


def _class_names(source: Path, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the id2label of a pipeline, as DiTPipeline has it; else the numbers."""
    index = source / "model_index.json"
    labels = _document(index).get("id2label") if index.is_file() else None
    if not isinstance(labels, dict) or not all(isinstance(n, str) for n in labels.values()):
        return numbers
    names = tuple(labels.get(number, number) for number in numbers)
    return names if len(set(names)) == len(names) else numbers


def _openai(source: Path, options: ImportOptions) -> OriginalModel:
    """Parse a state dict of improved-diffusion or guided-diffusion."""
    raw = _read_tensors(source)
    if openai.FIRST not in raw:
        raise DdpmError(
            f"{source} holds {', '.join(list(raw)[:3])}, …: no network of improved- or "
            "guided-diffusion; of a model of diffusers give the folder, and to export weights of "
            "ddpm add --to"
        )
    if options.size is None:
        raise UsageError(f"{source} does not contain the images' size: give --size")
    if (options.heads is None) == (options.head_width is None):
        raise UsageError(
            f"{source} does not contain the number of attention heads: give either --heads "
            "(improved-diffusion's scripts take 4) or --head-width (guided-diffusion's models 64)"
        )
    if options.timesteps not in (None, 1000) and options.rescale_timesteps is None:
        raise UsageError(
            f"{source} does not contain whether the network's timesteps are plain or multiplied by "
            "1000 / T: give --no-rescale-timesteps or --rescale-timesteps (the default of "
            "improved-diffusion's scripts)"
        )
    order = options.attention_order or "legacy"
    one_of("--attention-order", order, ATTENTION_ORDERS)
    heads = AttentionHeads(options.heads, options.head_width, order == "legacy")
    _check_null_class(options, len(raw.get("label_emb.weight", ())))
    network = openai.to_network_config(raw, heads, options.size, options.null_class)
    diffusion = _noise_process(source, options)
    compute = partial(reference.openai_unet, raw, heads)
    state_dict = openai.split_interleaved_qkv(raw, heads)
    files = NetworkFiles((source,))
    return OriginalModel(files, network, diffusion, state_dict, OPENAI, compute)


def _scheduler_process(
    source: Path, options: ImportOptions, *, learned_variance: bool
) -> DiffusionConfig:
    """The noise process of a folder's scheduler, or else of the options."""
    paths = (source / "scheduler" / "scheduler_config.json", source / "scheduler_config.json")
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return _noise_process(source, options)
    _refuse_unused(options, f"{path} has it", "schedule", "timesteps", "parameterisation")
    theirs = scheduler.read(_document(path), str(path))
    if learned_variance and theirs.variance_type != "learned_range":
        raise DdpmError(
            f"{path}: variance_type {theirs.variance_type!r} is not supported for a network with "
            "learned variance; learned_range is"
        )
    return scheduler.to_diffusion(theirs)


def _noise_process(source: Path, options: ImportOptions) -> DiffusionConfig:
    if options.schedule is None or options.timesteps is None:
        raise UsageError(
            f"{source} does not contain the noise schedule: give --schedule and --timesteps, as in "
            "its training"
        )
    one_of("--schedule", options.schedule, schedules.BETAS)
    parameterisation = options.parameterisation or "eps"
    one_of("--parameterisation", parameterisation, ("eps", "x0", "v"))
    return DiffusionConfig(
        schedule=options.schedule,
        timesteps=options.timesteps,
        parameterisation=parameterisation,
        time_scale=1000 / options.timesteps if options.rescale_timesteps else 1.0,
    )


def _null_class_first(state_dict: Tensors, layout: Layout, null_class: int | None) -> Tensors:
    """Move the null class's embedding before the others, as in our network."""
    name = f"{layout.outer['embedding.classes']}.weight"
    if null_class is None or name not in state_dict:
        return state_dict
    rows = state_dict[name]
    others = [i for i in range(len(rows)) if i != null_class]
    return state_dict | {name: rows[[null_class, *others]]}


def _check_null_class(options: ImportOptions, classes: int) -> None:
    if options.null_class is not None and not 0 <= options.null_class < classes:
        raise UsageError(
            f"--null-class {options.null_class} is not one of the {classes} classes, counted from 0"
            if classes
            else "--null-class is for class-conditional networks, and this one has no classes"
        )


def _refuse_unused(options: ImportOptions, reason: str, *names: str) -> None:
    for name, value in asdict(options).items():
        if name in names and value is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning here: {reason}")


def _current_name(name: str) -> str:
    """The name of an attention layer in current versions of diffusers."""
    module, _, leaf = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    if ".attentions." in module and layer in _OLD_NAMES:
        return f"{parent}.{_OLD_NAMES[layer]}.{leaf}"
    return name


def _read_tensors(file: Path) -> Tensors:
    """The tensors of a file, without the prefixes of wrapper modules in their names."""
    if file.suffix in (".pkl", ".pickle"):
        raise DdpmError(
            f"{file} is a pickle, which may run any code when it is loaded, so ddpm does not "
            "load it. Where you trust it, load it with the code it came with, and save the "
            "network's tensors in the layout of diffusers or of guided-diffusion"
        )
    if not file.exists():
        raise DdpmError(f"{file}: no such file or folder{paths.near(file)}")
    try:
        state_dict = tensors.read_flat(file)
    except tensors.NotOnlyTensorsError as error:
        raise DdpmError(
            f"{error}; ddpm reads flat state dicts only: where you trust the file, load it with "
            "the code it came with and torch.save(network.state_dict(), …)"
        ) from error
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): t for name, t in state_dict.items()}
    return state_dict


def _document(path: Path) -> dict[str, Any]:
    """A JSON file of named settings. Raises DdpmError for anything else."""
    try:
        document = read_json(path)
    except FileNotFoundError as error:
        raise DdpmError(
            f"{path}: no such file; a folder of diffusers has one (to export a run of "
            "ddpm, name the run and add --to diffusers)"
        ) from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise DdpmError(f"{path} should hold named settings")
    return document
