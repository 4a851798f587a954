"""Class and prompt requests, and the plan that assigns a condition to the seed of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

import numpy as np
import torch

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.class_names import is_number, same_number
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.conditioning.labels import Label, multi_hot
from ddpm_cli.core.conditioning.tokens import TokenisedText
from ddpm_cli.core.config import paths
from ddpm_cli.core.config.fields import is_whole_number, near_names
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import JOIN, NO_ATTRIBUTE
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.files import read_text
from ddpm_cli.core.runtime.reporting import Reporter

_ALL, _RANDOM = "all", "random"  # values of --class that are not class names
_MAX_IMAGES = 1_000_000  # that --class may request


@dataclass(frozen=True)
class ConditionRequest:
    """What the user requested; without classes and prompts: the model's default plan."""

    classes: tuple[str, ...] = ()  # values of --class: cat, 3, cat:8, Smiling+Male, all or random
    prompts: tuple[str, ...] = ()
    one_image_per_prompt: bool = False  # unless -n is given: the prompts come from a file
    text_encoder: str | None = None  # folder or name of the frozen one; None: as in training

    @classmethod
    def from_options(
        cls,
        classes: Sequence[str] | None,
        prompts: Sequence[str] | None,
        file: Path | None,
        text_encoder: str | None = None,
    ) -> ConditionRequest:
        """Combine the options; `file` has one prompt per line. Raises UsageError or DdpmError."""
        requested = (*(prompts or ()), *(() if file is None else _read_prompts(file)))
        for prompt in requested:
            if not prompt.strip():
                raise UsageError("--prompt is empty; --guidance 0 samples without a prompt")
            if not tokens.is_valid_utf8(prompt):
                raise UsageError(f"--prompt {prompt!r} is not UTF-8")
        stripped = tuple(map(str.strip, requested))
        return cls(tuple(classes or ()), stripped, file is not None, text_encoder)


@dataclass(frozen=True)
class ConditionPlan:
    """The condition of each image, as a function of the image's seed."""

    labels: tuple[Label, ...] = ()  # cycled through; empty for a model without classes
    prompts: tuple[str, ...] = ()  # cycled through; empty for a model without captions
    at_random: bool = False  # labels are drawn at random instead of cycled through
    count: int | None = None  # images, where the request says how many
    text_encoder: str | None = field(default=None, compare=False)  # as in ConditionRequest
    tokens: TokenisedText | None = field(default=None, compare=False)  # of the prompts

    def label(self, seed: int) -> Label | None:
        """The class, or combination of attributes, of the image of a seed."""
        position = seeds.derive(seed, "class") if self.at_random else seed
        return self.labels[position % len(self.labels)] if self.labels else None

    def prompt(self, seed: int) -> str | None:
        """The prompt of the image of a seed."""
        return self.prompts[seed % len(self.prompts)] if self.prompts else None

    def condition(self, image_seeds: Sequence[int], device: torch.device) -> Condition:
        """The condition of a batch, from the seeds of its images."""
        labels = torch.tensor([self.label(seed) for seed in image_seeds]) if self.labels else None
        text = None
        if self.tokens is not None:
            text = self.tokens.take(np.array([seed % len(self.prompts) for seed in image_seeds]))
        return Condition(labels, text).to(device)

    def encode_prompts(
        self, config: RunConfig, device: torch.device, reporter: Reporter
    ) -> ConditionPlan:
        """The plan with its prompts tokenised. Raises DdpmError for one that is too long."""
        if config.network.text is None:
            return self
        encoder = self.text_encoder or config.network.text.encoder
        text = replace(config.network.text, encoder=encoder)
        return replace(self, tokens=tokens.tokenise(text, self.prompts, device, reporter))


def default_plan(config: RunConfig) -> ConditionPlan:
    """The plan without a request: all classes, or captions of the training set.

    Of a multi-label model the combinations that were recorded, or else each class alone.
    """
    data, network = config.data, config.network
    if network.multi_label:
        recorded = tuple(_combination(name, network.classes) for name in data.combinations)
        return ConditionPlan(recorded or _every_label(network), data.examples)
    if data.examples:
        return ConditionPlan(data.example_labels, data.examples)
    return ConditionPlan(_every_label(network))


def plan_conditions(config: RunConfig, request: ConditionRequest, name: str) -> ConditionPlan:
    """Resolve a request for the model `name`. Raises DdpmError where it cannot be met."""
    _check_support(config, request, name)
    if not request.classes and not request.prompts:
        return replace(default_plan(config), text_encoder=request.text_encoder)
    plan = ConditionPlan()
    if request.classes:
        plan = _plan_classes(request.classes, config)
    counts = [len(request.prompts)] if request.one_image_per_prompt else []
    counts += [] if plan.count is None else [plan.count]
    return replace(
        plan,
        prompts=request.prompts,
        count=max(counts, default=None),
        text_encoder=request.text_encoder,
    )


def _check_support(config: RunConfig, request: ConditionRequest, name: str) -> None:
    """Raise DdpmError where the model was not trained on what is requested."""
    classes, text = config.network.classes, config.network.text
    if request.classes and not classes:
        instead = "; it was trained on captions: use --prompt" if text is not None else ""
        raise DdpmError(
            f"{name} was trained without classes, so --class has no meaning for it{instead}"
        )
    if request.prompts and text is None:
        instead = "; use --class" if classes else ""
        raise DdpmError(
            f"{name} was trained without captions, so --prompt has no meaning for it{instead}"
        )
    if request.text_encoder is not None and (text is None or text.encoder == "bytes"):
        raise DdpmError(f"{name} has no frozen text encoder, so --text-encoder has no meaning")
    if classes and text is not None and bool(request.classes) != bool(request.prompts):
        raise DdpmError(
            f"{name} was trained on classes and captions together: give both --class and "
            "--prompt, or neither"
        )


def _plan_classes(requested: Sequence[str], config: RunConfig) -> ConditionPlan:
    """Parse values of --class such as cat, 3, cat:8, Smiling+Male, all and random."""
    names, labels, counted = config.network.classes, list[Label](), False
    for value in requested:
        name, count = _parse_class(value, names)
        counted = counted or count is not None
        if name == _RANDOM and name not in names:
            if len(requested) > 1:
                raise UsageError("--class random excludes other classes: it draws from all of them")
            return ConditionPlan(default_plan(config).labels, at_random=True, count=count)
        chosen: Sequence[Label]
        if name == _ALL and name not in names:
            chosen = _every_label(config.network)
        elif config.network.multi_label:
            chosen = [_combination(name, names)]
        else:
            chosen = [_index(name, names)]
        labels += [label for label in chosen for _ in range(count or 1)]
    return ConditionPlan(tuple(labels), count=len(labels) if counted else None)


def _parse_class(value: str, names: Sequence[str]) -> tuple[str, int | None]:
    """Split "cat:8" into the class and the number of images, None where it has none."""
    name, colon, count = value.rpartition(":")
    if not colon or value in names or not is_whole_number(count):
        return value, None
    if not count.strip("0"):
        raise UsageError(f"--class {value!r} requests 0 images")
    if len(count) > len(str(_MAX_IMAGES)) or int(count) > _MAX_IMAGES:
        raise UsageError(f"--class {value!r} requests more than {_MAX_IMAGES:,} images")
    return name, int(count)


def _every_label(network: NetworkConfig) -> tuple[Label, ...]:
    """The classes in turn; of a multi-label model each alone."""
    indices = range(len(network.classes))
    return tuple(multi_hot([i], len(indices)) if network.multi_label else i for i in indices)


def _combination(value: str, names: Sequence[str]) -> Label:
    """The multi-label of "Smiling+Male", by names or indices; "none" has no class."""
    parts = [] if value == NO_ATTRIBUTE else value.split(JOIN)
    return multi_hot([_index(part, names) for part in parts], len(names))


def _index(name: str, names: Sequence[str]) -> int:
    """The index of a class given by its name, or by its index where no name is a number."""
    if name in names:
        return names.index(name)
    numbered = any(map(is_number, names))
    if len(same := same_number(name, names)) == 1:
        return names.index(same[0])
    is_index = is_whole_number(name) and len(name) <= len(str(_MAX_IMAGES)) and not numbered
    if is_index and int(name) < len(names):
        return int(name)
    near = near_names(name, names)
    meant = (
        f"; did you mean {' or '.join([*dict.fromkeys([*same, *near])][:3])}?"
        if near or same
        else ""
    )
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and set(parts) <= set(names):
        meant = f"; did you mean {' '.join(f'--class {quote(part)}' for part in parts)}?"
    how = "given by their names" if numbered else f"numbered from 0 to {len(names) - 1}"
    raise DdpmError(
        f"--class {name[:80]!r} is not a class of this model{meant}{';' if not meant else ''} "
        f"it has {len(names)} classes, {how}: {listed(names, 10)}"
    )


def _read_prompts(file: Path) -> list[str]:
    try:
        lines = read_text(file).splitlines()
    except FileNotFoundError as error:
        raise DdpmError(f"--prompts {file}: no such file{paths.near(file)}") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"--prompts {file} is not a text file in UTF-8: {error}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DdpmError(f"--prompts {file} contains no prompts; write one per line")
    return prompts
