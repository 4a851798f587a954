"""What determines a sampled image, as it is recorded beside and within it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ddpm_cli import __version__
from ddpm_cli.core.conditioning.labels import label_name
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.config.serialisation import checked
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.starts.initial import InitialRequest
from ddpm_cli.core.runtime.files import dumps, read_json

SETTINGS = "sampling.json"  # the file of settings in a folder, and in a .zip
TEXT = "ddpm"  # the key of a PNG's text that holds its record
_NOT_IDENTITY = ("weights", "n", "provenance")
_ELSEWHERE = ("guide", "given", "cascade", "init", "mask", "noise")  # what has a hash may move
_GIVEN = ("given", "degrade", "given_noise", "cascade")  # of an image's record
_HASHES = {
    "guide_sha256": "--guide has other weights than those that guided that image",
    "given_sha256": "--given has other pixels than the image of which that one was made",
    "mask_sha256": "--mask has other pixels than that image's",
    "cascade_sha256": "--cascade has other weights than those that drew what that image was given",
}


@dataclass(frozen=True)
class _Record:
    """The types of what a PNG's text holds beside the settings of Sampling."""

    seed: int
    weights_sha256: str
    guide_sha256: str = ""
    prompt: str = ""
    given: str = ""
    given_sha256: str = ""
    degrade: bool = False
    given_noise: float = 0.0
    cascade: str = ""
    cascade_sha256: str = ""
    init: str = ""
    init_sha256: str = ""
    strength: float = 0.0
    mask: str = ""
    mask_sha256: str = ""
    resample: int = 1
    noise: str = ""


def settings_of(model: Model, request: GenerationRequest) -> dict[str, Any]:
    """Everything that determines the images, except their number, and the path of the weights."""
    names = model.config.network.classes
    return {
        "weights": str(model.path),
        "weights_sha256": model.sha256,
        "images_seen": model.images,
        **({} if model.sigma_rel is None else {"sigma_rel": model.sigma_rel}),
        "seed": request.seed,
        "classes": _compact([label_name(label, names) for label in request.conditions.labels]),
        "classes_at_random": request.conditions.at_random,
        "prompts": list(request.conditions.prompts),
        **request.sampling.document(),
        **model.guide_record,
        **request.inputs_record,
    }


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Of recorded settings those that tell images apart; newer ones have their defaults."""
    known = Sampling().document() | settings
    return {
        name: value for name, value in known.items() if name not in (*_NOT_IDENTITY, *_ELSEWHERE)
    }


def entry(model: Model, request: GenerationRequest, index: int) -> dict[str, Any]:
    """The seed of an image, and its class and prompt where it has them."""
    label, prompt = request.label_and_prompt(index)
    record: dict[str, Any] = {"seed": request.seed + index}
    record |= {} if request.init is None else {"init": request.init.name(index)}
    record |= {} if label is None else {"class": label_name(label, model.config.network.classes)}
    record |= {} if prompt is None else {"prompt": prompt}
    given = None if request.given is None else request.given.name(index)
    return record | ({} if given is None else {"given": given})


def manifest(model: Model, request: GenerationRequest) -> str:
    """A line of JSON for each image, in order."""
    return "".join(
        dumps({"file": request.file_names[index]} | entry(model, request, index), indent=None)
        + "\n"
        for index in range(request.count)
    )


def text_of(model: Model, request: GenerationRequest, index: int) -> dict[str, str]:
    """The text chunks of a PNG: the program, and all that draws this image again, as JSON."""
    document = {
        "weights_sha256": model.sha256,
        "images_seen": model.images,
        **request.inputs_record,
        **request.input_hashes(index),
        **entry(model, request, index),
        **request.sampling.document(),
        **model.guide_record,
    }
    return {"Software": f"ddpm {__version__}", TEXT: json.dumps(document, allow_nan=False)}


def read(path: Path) -> dict[str, Any]:
    """The record within a PNG that was sampled. Raises DdpmError where there is none."""
    try:
        text = files.text_of(path.read_bytes(), str(path)).get(TEXT)
        document = None if text is None else json.loads(text)
    except OSError as error:
        raise DdpmError(f"--like {path} cannot be read: {first_line(error)}") from error
    except (ValueError, RecursionError, files.UnreadableError):
        document = None
    if not isinstance(document, dict) or not {"seed", "weights_sha256"} <= document.keys():
        raise DdpmError(
            f"--like {path} has no record of how it was sampled: it was not written by ddpm "
            "sample, or a program that changed it has dropped its text"
        )
    where = f"--like {path}: its record"
    sampling = {"s_max": math.inf} | _typed(Sampling, _with_infinity(document), where)
    typed = _typed(_Record, document, where)
    if typed["seed"] < 0:
        raise DdpmError(f"{where}.seed should be 0 or more, not {typed['seed']}")
    classes = {name: str(document[name]) for name in ("class",) if name in document}
    return typed | classes | sampling


def _typed(kind: type[Any], document: dict[str, Any], where: str) -> dict[str, Any]:
    """Those values that are a dataclass's, but for None. Raises DdpmError for other types."""
    names = {field.name for field in fields(kind)}
    held = {name: value for name, value in document.items() if name in names and value is not None}
    return checked(kind, held, where)


@dataclass(frozen=True)
class Wanted:
    """What to sample, as options say it."""

    seed: int
    conditions: ConditionRequest
    sampling: Sampling
    count: int | None = None
    weights: Path | None = None  # of an image to draw again, where they are known
    weights_sha256: str | None = None
    given: dict[str, Any] = field(default_factory=dict)  # what is recorded of an image given
    initial: InitialRequest | None = None

    def notices(self, model: Model, request: GenerationRequest) -> list[str]:
        """That an image is drawn again with other weights, or of another image."""
        found = []
        if self.weights_sha256 not in (None, model.sha256):
            found.append(
                f"{model.path} are not the weights of that image (sha256 {model.sha256[:12]}, not "
                f"{str(self.weights_sha256)[:12]})"
            )
        now = model.guide_record | request.inputs_record | request.input_hashes(0)
        for name, changed in _HASHES.items():
            if name in self.given and self.given[name] != now.get(name, self.given[name]):
                found.append(f"{changed} (sha256 {now[name][:12]}, not {self.given[name][:12]})")
        return [f"{line}: the image will be another" for line in found]


def again(
    path: Path,
    seed: int | None,
    conditions: ConditionRequest,
    settings: dict[str, Any],
    initial: InitialRequest | None = None,
) -> Wanted:
    """The image of a PNG once more, but for what is given. Raises DdpmError."""
    document = read(path)
    if "init" in document and initial is None:
        raise DdpmError(
            f"--like {path} was made from an image: give --init {document['init']} again, or the "
            "folder or archive that it is in"
        )
    if "noise" in document:
        raise DdpmError(
            f"--like {path} was not drawn from a seed's noise but from {document['noise']}, "
            "which is not in it"
        )
    recorded = _recorded(document, other_sampler="sampler" in settings)
    if not conditions.classes and "class" in document:
        conditions = replace(conditions, classes=tuple(_compact([document["class"]])))
    if not conditions.prompts and "prompt" in document:
        conditions = replace(conditions, prompts=(document["prompt"],))
    return Wanted(
        document["seed"] if seed is None else seed,
        conditions,
        Sampling(**recorded | settings),
        1,
        _weights_beside(path, document["weights_sha256"]),
        document["weights_sha256"],
        {name: document[name] for name in (*_GIVEN, *_HASHES) if name in document},
        initial.again(document) if initial is not None and "init" in document else initial,
    )


def _weights_beside(path: Path, sha256: str) -> Path | None:
    """The weights that the folder of a sampled image names; None where they are not there."""
    try:
        settings = read_json(path.with_name(SETTINGS))
        weights = Path(settings["weights"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return weights if settings.get("weights_sha256") == sha256 and weights.is_file() else None


def _recorded(document: dict[str, Any], *, other_sampler: bool) -> dict[str, Any]:
    """The recorded settings of Sampling; for another sampler without the defaults of its own."""
    names = {field.name for field in fields(Sampling)}
    settings = {name: value for name, value in document.items() if name in names}
    if other_sampler:
        default = Sampling(sampler=settings.get("sampler", Sampling.sampler))
        settings = {
            name: value for name, value in settings.items() if value != getattr(default, name)
        }
    return settings


def _with_infinity(document: dict[str, Any]) -> dict[str, Any]:
    """With infinity, which is null in JSON, in lists."""
    return {
        name: [math.inf if item is None else item for item in value]
        if isinstance(value, list)
        else value
        for name, value in document.items()
    }


def _compact(names: Sequence[str]) -> list[str]:
    """Class names in the syntax of --class, with consecutive repeats counted: "cat:8"."""
    counted = ((name, len(list(group))) for name, group in itertools.groupby(names))
    return [f"{name}:{n}" if n > 1 or ":" in name else name for name, n in counted]
