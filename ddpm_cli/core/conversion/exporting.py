"""A run or weights file -> a pipeline folder of diffusers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.conversion import diffusers, reference, scheduler
from ddpm_cli.core.conversion.checking import difference
from ddpm_cli.core.conversion.layout import DIFFUSERS, Tensors, export_tensors
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.files import cannot_write, read_json

_VERSION = "0.30.0"  # the first version of diffusers that reads these files
_CONSISTENCY = "a consistency model, which a DDPMPipeline would sample as a diffusion model"
_MODEL = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": _VERSION,
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}

_ONLY_UNETS = "{} has no counterpart in diffusers; a U-Net has (--network unet)"


def why_not_exportable(config: RunConfig) -> str | None:
    """Why diffusers has no counterpart for a run, with the setting to change; None: it has one."""
    if config.network.family != "unet":
        return _ONLY_UNETS.format(config.network.of_family.SPELLED)
    with torch.device("meta"):
        network = UNet(config.network)
    learned = config.network.learned_variance
    reasons = [] if config.objective.consistency is None else [_CONSISTENCY]
    for counterpart in (
        partial(diffusers.from_network, network),
        partial(scheduler.from_diffusion, config.diffusion, learned_variance=learned),
    ):
        try:
            counterpart()
        except DdpmError as error:
            reasons.append(str(error))
    return "; ".join(reasons) or None


def export(source: Path, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a weights file as a DDPMPipeline's folder; returns the document for --json.

    overwrite: replace the folder of an earlier export. Raises DdpmError for what has no counterpart
    in diffusers, and where the exported network's outputs differ from ours: then no folder is left.
    """
    if out.exists() and not _is_export(out):
        raise DdpmError(
            f"{out} exists and is not a folder of an earlier export, so --overwrite does not "
            "delete it; choose another --out"
        )
    if out.exists() and not overwrite:
        raise DdpmError(f"{out} exists; choose another --out, or add --overwrite")
    model = weights.load(source)
    ours, network = model.config.network, model.network
    if not isinstance(network, UNet):
        raise DdpmError(f"{source}: {_ONLY_UNETS.format(ours.of_family.SPELLED)}")
    if model.config.objective.consistency is not None:
        raise DdpmError(f"{source}: {_CONSISTENCY}")
    unet = diffusers.from_network(network)
    noise = scheduler.from_diffusion(model.config.diffusion, learned_variance=ours.learned_variance)
    with _new_folder(out) as folder:
        labels = {str(index): name for index, name in enumerate(ours.classes)}
        _write(folder / "model_index.json", _MODEL | ({"id2label": labels} if labels else {}))
        _write(
            folder / "scheduler" / "scheduler_config.json",
            {"_class_name": "DDPMScheduler", "_diffusers_version": _VERSION, "clip_sample": True}
            | to_dict(noise),
        )
        header = {"_class_name": "UNet2DModel", "_diffusers_version": _VERSION}
        _write(folder / "unet" / "config.json", header | diffusers.document(unet))
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors.write(file, _exported_tensors(network, ours), "format", "pt")

        document = read_json(folder / "unet" / "config.json")
        written = diffusers.read(document, "the written config")
        compute = partial(reference.diffusers_unet, tensors.read(file).tensors, written)
        null_class = len(ours.classes) if ours.null_class else None
        largest = difference(network, compute, model.config.diffusion, null_class)
    return {
        "out": str(out),
        "source": str(source),
        "parameters": parameter_count(network),
        "largest_difference": largest,
        "size": list(ours.size),
        "channels": ours.channels,
        "classes": len(ours.classes),
        "schedule": noise.beta_schedule if noise.trained_betas is None else "trained_betas",
        "timesteps": noise.num_train_timesteps,
        "parameterisation": noise.prediction_type,
    }


def _exported_tensors(network: UNet, config: NetworkConfig) -> Tensors:
    """The network's tensors as a UNet2DModel's, with the null class, if any, last."""
    ours = network.state_dict()
    ours.pop("embedding.augmented.weight", None)  # sampling has no augmentation
    if config.classes and config.null_class:
        ours["embedding.classes.weight"] = ours["embedding.classes.weight"].roll(-1, dims=0)
    return {
        name: tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor
        for name, tensor in export_tensors(ours, DIFFUSERS, config).items()
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _is_export(folder: Path) -> bool:
    """Whether a folder holds a pipeline as `export` writes it, and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names == {"model_index.json", "scheduler", "unet"}


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `out` on success and is removed on an error."""
    partial_folder: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield partial_folder
        partial_folder.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        partial_folder.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        if partial_folder is not None:
            shutil.rmtree(partial_folder, ignore_errors=True)
