"""Everything that defines a run, as frozen dataclasses that become config.json."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ddpm_cli.core.errors import DdpmError, UsageError

T = TypeVar("T")

NULL_CLASS = -1  # the label that means "no condition"


@dataclass(frozen=True)
class NetworkConfig:
    """The U-Net F(x, c_noise, condition); by default the CIFAR-10 network of Ho et al. (2020)."""

    size: tuple[int, int] = (32, 32)  # height, width in pixels
    channels: int = 3
    classes: tuple[str, ...] = ()  # names; empty: unconditional
    width: int = 128  # channels of the first level
    multipliers: tuple[int, ...] = (
        1,
        2,
        2,
        2,
    )  # of the width, one a level; each level halves the sides
    blocks: int = 2  # residual blocks a level on the way down (one more on the way up)
    attention_levels: tuple[int, ...] = (1,)  # levels with self-attention; 0 is the finest
    heads: int = 1
    time: str = "add"  # how time and class enter a block: "add" (DDPM) or "scale-shift" (FiLM)
    patch: int = 1  # pixels are folded into channels in patch x patch squares
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _one_of("time", self.time, ("add", "scale-shift"))
        _one_of("channels", self.channels, (1, 3, 4))
        for name in ("width", "blocks", "heads", "patch"):
            _positive(name, getattr(self, name))
        if not self.multipliers or min(*self.multipliers, *self.size) < 1:
            raise UsageError("multipliers and size must be whole numbers of at least 1")
        _positive("dropout", self.dropout, zero=True, below=1)
        if any(level not in range(len(self.multipliers)) for level in self.attention_levels):
            raise UsageError(
                f"attention_levels {self.attention_levels} name levels that do not exist"
            )
        for channels in (self.width * m for m in self.multipliers):
            if channels % 4 or channels % self.heads:
                raise UsageError(
                    f"a level of {channels} channels cannot be split into groups of 4 and into "
                    f"{self.heads} heads; use a width that is a multiple of both"
                )
        self._check_size()

    @property
    def granularity(self) -> int:
        """Both sides of a picture must be multiples of this many pixels."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))

    def _check_size(self) -> None:
        step = self.granularity
        if any(side % step for side in self.size):
            near = sorted({max(step, (s // step + up) * step) for s in self.size for up in (0, 1)})
            raise UsageError(
                f"pictures of {self.size[0]}x{self.size[1]} do not fit this network: both sides "
                f"must be multiples of {step}; use --size {' or '.join(map(str, near))}, or "
                "another --preset"
            )


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process and what the network's output means."""

    schedule: str = "linear"
    timesteps: int = 1000
    parameterisation: str = "eps"

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, ("linear", "cosine"))
        _one_of("parameterisation", self.parameterisation, ("eps", "x0", "v"))
        _positive("timesteps", self.timesteps)


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are shown."""

    source: str = "shapes"  # as given: a folder, a .zip, or a data set's name
    fingerprint: str = ""  # of the files' names and sizes, to notice that they changed
    flip: bool = True  # mirror half of the pictures left to right
    holdout: int = 0  # pictures kept out of training for the validation loss

    def __post_init__(self) -> None:
        _positive("holdout", self.holdout, zero=True)


@dataclass(frozen=True)
class OptimiserConfig:
    """How the weights move. Lengths are in images: neither batch nor processes change them."""

    batch: int = 128  # images an optimiser step, over all processes together
    lr: float = 2e-4
    warmup: int = 640_000  # images over which the learning rate rises from 0
    decay: float = 0.0  # the last share of the budget over which it falls to 0, linearly
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    ema_halflife: int = 887_000  # images; 0.9999 a step at batch 128
    ema_rampup: float = 0.05  # the half-life is at most this share of the images seen
    class_drop: float = 0.1  # share of labels replaced by the null class, for guidance
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "lr", "clip", "ema_halflife", "ema_rampup"):
            _positive(name, getattr(self, name))
        for name in ("warmup", "decay", "weight_decay", "class_drop"):
            _positive(name, getattr(self, name), zero=True)
        for name in ("decay", "class_drop"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        for beta in self.betas:
            _positive("betas", beta, zero=True, below=1)


@dataclass(frozen=True)
class Budget:
    """When training ends: at whichever limit is reached first. At least one is set."""

    images: int | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None:
                _positive(name, value)

    @property
    def given(self) -> bool:
        """Whether any limit is set."""
        return any(value is not None for value in dataclasses.asdict(self).values())

    def in_images(self, batch: int, pictures: int) -> int | None:
        """The tightest limit that counts images, or None if only time is limited."""
        limits = [
            self.images,
            None if self.steps is None else self.steps * batch,
            None if self.epochs is None else max(1, round(self.epochs * pictures)),
        ]
        return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class RunConfig:
    """config.json. The first four parts are fixed once a run has begun, the rest may change."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    budget: Budget = field(default_factory=lambda: Budget(images=102_400_000))
    snapshot_every: int = 1_000_000  # images
    keep: int = 2  # snapshots kept
    preview: int = 16  # pictures in a preview grid; 0: none
    patience: int = 0  # snapshots without a better loss after which training ends; 0: never

    def __post_init__(self) -> None:
        _positive("snapshot-every", self.snapshot_every)
        _positive("keep", self.keep)
        _positive("preview", self.preview, zero=True)
        _positive("patience", self.patience, zero=True)

    def differences(self, other: RunConfig) -> list[str]:
        """What a resume would change though it may not: lines such as "optimiser.lr 0.1 -> 0.2"."""
        fixed = ("data", "network", "diffusion", "optimiser")
        return [
            f"{part}.{name} {was} -> {now}"
            for part in fixed
            for name, was, now in _changed(getattr(self, part), getattr(other, part))
            if (part, name) != ("data", "source")  # the fingerprint tells whether they are the same
        ]


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Any, where: str = "config") -> T:
    """Build a dataclass from nested plain values, checking names and types.

    Missing fields keep their defaults. Raises DdpmError that names the field.
    """
    if not isinstance(values, dict):
        raise DdpmError(f"{where} should hold named settings, not {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise DdpmError(
            f"{where} has an unknown setting {unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    return kind(
        **{name: _cast(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    )


def updated(config: T, changes: dict[str, Any], where: str = "config") -> T:
    """The same dataclass with some nested values replaced; the rest stays."""
    return from_dict(type(config), _merged(to_dict(config), changes), where)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merged(base[name], value) if deeper else value
    return merged


def _cast(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    options = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return None if value is None else _cast(value, options[0], where)
    if typing.get_origin(hint) is tuple:
        return _cast_tuple(value, options, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise DdpmError(f"{where} should be of type {hint.__name__}, not {value!r}")
    return value


def _cast_tuple(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DdpmError(f"{where} should be a list, not {value!r}")
    kinds = (options[0],) * len(value) if options[-1] is Ellipsis else options
    if len(kinds) != len(value):
        raise DdpmError(f"{where} should hold {len(kinds)} values, not {value!r}")
    return tuple(_cast(item, kind, where) for item, kind in zip(value, kinds, strict=True))


def _changed(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    names = [f.name for f in dataclasses.fields(one)]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(
            f"{name} {value!r} is unknown; choose one of {', '.join(map(str, allowed))}"
        )


def _positive(name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> None:
    if not ((value >= 0 if zero else value > 0) and value < below):  # also catches NaN
        low = "at least 0" if zero else "more than 0"
        high = "finite" if below == math.inf else f"less than {below}"
        raise UsageError(f"{name} must be {low} and {high}, not {value}")
