"""The files of a repository that are ours or diffusers', by name, and how large each may be."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.hub.client import RemoteFile
from ddpm_cli.core.runtime.files import in_words

MODEL, SETTINGS = "model.safetensors", "config.json"

_TEXT, _PICTURE, _WEIGHTS = 64 * 10**6, 64 * 10**6, 100 * 10**9  # bytes
_OURS = {
    MODEL: _WEIGHTS,
    SETTINGS: _TEXT,
    "README.md": _TEXT,
    "metrics.jsonl": _TEXT,
    "scores.jsonl": _TEXT,
    "statistics.json": _TEXT,
    "default-sampling.json": _TEXT,
    "samples.png": _PICTURE,
    "loss.png": _PICTURE,
    "holdout.png": _PICTURE,
    "scores.png": _PICTURE,
}
_TEXTS_OF_DIFFUSERS = re.compile(
    r"README\.md|model_index\.json|(?:scheduler/)?scheduler_config\.json"
    r"|(?:unet/|unet_ema/)?config\.json"
)
_WEIGHTS_OF_DIFFUSERS = re.compile(
    r"(?:unet/|unet_ema/)?diffusion_pytorch_model(?P<variant>\.[a-z]\w*)?(?:-\d+-of-\d+)?"
    r"\.safetensors"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def ours(files: Mapping[str, RemoteFile]) -> list[RemoteFile]:
    """The files of a run of ddpm that are there, in the order of their names here.

    Raises DdpmError for one that is larger than it may be.
    """
    return [_bounded(files[name], limit) for name, limit in _OURS.items() if name in files]


def of_diffusers(files: Mapping[str, RemoteFile]) -> list[RemoteFile]:
    """The files of a pipeline of diffusers; [] without weights in safetensors.

    Of an average beside its network it is the average, and of several precisions the full one.
    Raises DdpmError for a file that is larger than it may be.
    """
    texts = [
        _bounded(each, _TEXT) for each in files.values() if _TEXTS_OF_DIFFUSERS.fullmatch(each.name)
    ]
    weights = {name: match for name in files if (match := _WEIGHTS_OF_DIFFUSERS.fullmatch(name))}
    averages = {name: match for name, match in weights.items() if name.startswith("unet_ema/")}
    weights = averages or weights
    whole = {name: match for name, match in weights.items() if match["variant"] is None}
    chosen = [_bounded(files[name], _WEIGHTS) for name in whole or weights]
    return [*texts, *chosen] if chosen else []


def why_nothing(files: Mapping[str, RemoteFile]) -> str:
    """Why a repository holds no model that can be pulled."""
    pickles = [name for name in files if name.endswith(_PICKLES)]
    if pickles:
        return (
            f"its weights are pickles ({', '.join(pickles[:3])}), which may run any code when they "
            "are loaded: ddpm takes safetensors only"
        )
    held = ", ".join(sorted(files)[:8])
    return f"it has no {MODEL} of ddpm and no pipeline of diffusers; it holds {held or 'nothing'}"


def _bounded(file: RemoteFile, limit: int) -> RemoteFile:
    if not 0 <= file.size <= limit:
        raise DdpmError(
            f"{file.name} is of {in_words(file.size)}, and such a file has at most "
            f"{in_words(limit)}: it is not downloaded"
        )
    return file
