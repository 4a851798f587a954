"""What pictures should show, one after the other: classes and prompts, asked for or in turn."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.conditioning.tokens import TokenisedText
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import is_number
from ddpm_cli.core.data.captions import is_text
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.reporting import Reporter

_ALL, _RANDOM = "all", "random"  # in a class's place
_MOST = 1_000_000  # pictures that classes may be asked for


@dataclass(frozen=True)
class ConditionRequest:
    """The user's words: `--class` cat, 3, cat:8, all or random, and prompts. Nothing: in turn."""

    classes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    one_each: bool = False  # the prompts came in a file: one picture of each unless -n is given
    encoder: str | None = None  # where the frozen text encoder lies now; None: where it did

    @classmethod
    def from_options(
        cls,
        classes: Sequence[str] | None,
        prompts: Sequence[str] | None,
        file: Path | None,
        encoder: str | None = None,
    ) -> ConditionRequest:
        """Put the options together; `file` has a prompt a line."""
        lines = () if file is None else _lines(file)
        found = (*(prompts or ()), *lines)
        for prompt in found:
            if not prompt.strip():
                raise UsageError("--prompt is empty; --guidance 0 draws without a prompt")
            if not is_text(prompt):
                raise UsageError(f"--prompt {prompt!r} is not UTF-8")
        stripped = tuple(map(str.strip, found))
        return cls(tuple(classes or ()), stripped, file is not None, encoder)


@dataclass(frozen=True)
class ConditionPlan:
    """What the picture of each seed shows: that of seed s is a function of s."""

    labels: tuple[int, ...] = ()  # classes in turn; empty where the model knows none
    prompts: tuple[str, ...] = ()  # in turn; empty where it knows no texts
    at_random: bool = False  # the classes come at random, not in turn
    count: int | None = None  # pictures, where the wishes say how many
    encoder: str | None = field(
        default=None, compare=False
    )  # where it lies now, as ConditionRequest
    tokens: TokenisedText | None = field(
        default=None, compare=False
    )  # the prompts as the network reads them

    def label(self, seed: int) -> int | None:
        """The class of the picture of a seed."""
        place = seeds.derive(seed, "class") if self.at_random else seed
        return self.labels[place % len(self.labels)] if self.labels else None

    def prompt(self, seed: int) -> str | None:
        """The prompt of the picture of a seed."""
        return self.prompts[seed % len(self.prompts)] if self.prompts else None

    def condition(self, of: Sequence[int], device: torch.device) -> Condition:
        """What the pictures of these seeds should show."""
        labels = torch.tensor([self.label(seed) for seed in of]) if self.labels else None
        text = None
        if self.tokens is not None:
            text = self.tokens.take(np.array([seed % len(self.prompts) for seed in of]))
        return Condition(labels, text).to(device)

    def encode_prompts(
        self, config: RunConfig, device: torch.device, reporter: Reporter
    ) -> ConditionPlan:
        """The same with the prompts read. Raises DdpmError for one that is too long."""
        if config.network.text is None:
            return self
        text = replace(config.network.text, encoder=self.encoder or config.network.text.encoder)
        return replace(self, tokens=tokens.tokenise(text, self.prompts, device, reporter))


def default_plan(config: RunConfig) -> ConditionPlan:
    """What a model draws unasked: its classes, or captions that it was trained on."""
    examples, data = config.data.examples, config.data
    if examples:
        return ConditionPlan(data.example_labels, examples)
    return ConditionPlan(tuple(range(len(config.network.classes))))


def plan_conditions(config: RunConfig, asked: ConditionRequest, name: str) -> ConditionPlan:
    """Check what was asked against the model `name`. Raises DdpmError with what it can do."""
    classes, knows_text = config.network.classes, config.network.text is not None
    if asked.classes and not classes:
        instead = "; it was trained on captions: use --prompt" if knows_text else ""
        raise DdpmError(
            f"{name} was trained without classes, so --class has no meaning for it{instead}"
        )
    if asked.prompts and not knows_text:
        instead = "; use --class" if classes else ""
        raise DdpmError(
            f"{name} was trained without captions, so --prompt has no meaning for it{instead}"
        )
    frozen = config.network.text is not None and config.network.text.encoder != "bytes"
    if asked.encoder is not None and not frozen:
        raise DdpmError(f"{name} has no frozen text encoder, so --text-encoder has no meaning")
    if not asked.classes and not asked.prompts:
        return replace(default_plan(config), encoder=asked.encoder)
    if classes and knows_text and not (asked.classes and asked.prompts):
        raise DdpmError(
            f"{name} learned classes and captions together: give both --class and --prompt, or "
            "neither"
        )
    counts = [len(asked.prompts)] if asked.one_each else []
    wishes = _of_classes(asked.classes, classes) if asked.classes else ConditionPlan()
    counts += [] if wishes.count is None else [wishes.count]
    count = max(counts, default=None)
    return replace(wishes, prompts=asked.prompts, count=count, encoder=asked.encoder)


def _of_classes(asked: Sequence[str], names: Sequence[str]) -> ConditionPlan:
    """The classes of wishes such as cat, 3, cat:8, all and random."""
    labels: list[int] = []
    numbered = False
    for wish in asked:
        name, colon, times = wish.rpartition(":")
        if not colon or wish in names or not is_number(times):
            name, times = wish, ""
        if times == "0" * len(times) and times:
            raise UsageError(f"--class {wish!r} asks for no picture")
        if len(times) > len(str(_MOST)) or int(times or 1) > _MOST:
            raise UsageError(f"--class {wish!r} asks for more than {_MOST:,} pictures")
        numbered = numbered or bool(times)
        if name == _RANDOM and name not in names:
            if len(asked) > 1:
                raise UsageError("--class random stands alone: it draws from all classes")
            everything = tuple(range(len(names)))
            return ConditionPlan(everything, at_random=True, count=int(times) if times else None)
        some = range(len(names)) if name == _ALL and name not in names else [_label(name, names)]
        labels += [label for label in some for _ in range(int(times or 1))]
    return ConditionPlan(tuple(labels), count=len(labels) if numbered else None)


def _label(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    if is_number(name) and len(name) <= len(str(_MOST)) and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or list(names[:10])
    raise DdpmError(
        f"--class {name!r} is unknown to this model; perhaps {' or '.join(near)}? "
        f"It has {len(names)} classes, numbered from 0"
    )


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DdpmError(f"--prompts {file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DdpmError(f"--prompts {file} is not a text file in UTF-8: {error}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DdpmError(f"--prompts {file} holds no prompts; write one a line")
    return prompts
