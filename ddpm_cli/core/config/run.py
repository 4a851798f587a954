"""Everything that defines a run, as frozen dataclasses that become config.json."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.serialisation import one_of, positive
from ddpm_cli.core.errors import UsageError

NULL_CLASS = -1  # the label that means "no condition"

BETA_RANGED = ("linear", "linear-fixed", "quadratic", "sigmoid")  # from beta_min to beta_max
CONTINUOUS = ("edm", "flow")  # schedules without timesteps: networks see any noise level
SCHEDULES = (*BETA_RANGED, "cosine", "sigmoid-abar", *CONTINUOUS)
PARAMETERISATIONS = ("eps", "x0", "v", "edm", "flow")
LOSSES = ("l2", "l1", "huber", "vlb")
WEIGHTINGS = {"plain": None, "min-snr": 5.0, "p2": 1.0, "edm": None, "vlb": 50.0}  # their gamma
NORMALS = {"log-normal": (-1.2, 1.2), "logit-normal": (0.0, 1.0)}  # mean, deviation of ln sigma
NOISE_LEVELS = ("uniform", *NORMALS, "importance")


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process and what the network's output means."""

    schedule: str = "linear"
    timesteps: int = 1000  # levels that a sampler can choose from
    parameterisation: str = "eps"
    beta_min: float = 1e-4  # of the first and the last timestep; "linear" scales both by 1000 / T
    beta_max: float = 0.02
    cosine_offset: float = 0.008  # s of Nichol & Dhariwal: keeps the first betas from vanishing
    beta_cap: float = 0.999  # no beta is larger, which keeps abar above zero
    time_scale: float = 1.0  # networks are told timesteps times this; 1000 / T in improved DDPM

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("parameterisation", self.parameterisation, PARAMETERISATIONS)
        positive("timesteps", self.timesteps)
        positive("beta_min", self.beta_min)
        positive("cosine_offset", self.cosine_offset)
        positive("time_scale", self.time_scale)
        if not self.beta_min <= self.beta_max <= 1:
            raise UsageError(
                f"betas go up from beta_min to beta_max, at most 1; not from {self.beta_min:g} to "
                f"{self.beta_max:g}"
            )
        if not 0 < self.beta_cap < 1:
            raise UsageError(
                f"beta_cap must be more than 0 and less than 1, not {self.beta_cap:g}: a beta of 1 "
                "leaves no signal at all (zero terminal SNR, sigma = infinity)"
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """What training makes small, and at which noise levels."""

    loss: str = "l2"  # of the network's output; vlb: the bound in bits/dim
    weighting: str = "plain"
    weighting_gamma: float | None = None  # its gamma; None: its paper's
    weighting_k: float = 1.0  # P2's k
    vlb_weight: float | None = None  # of the bound where a variance is learned; None: 0.001
    noise_levels: str = "uniform"
    noise_mean: float | None = None  # of ln sigma, for the normal ones; None: their paper's
    noise_std: float | None = None

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        one_of("weighting", self.weighting, tuple(WEIGHTINGS))
        one_of("noise-levels", self.noise_levels, NOISE_LEVELS)
        positive("weighting_k", self.weighting_k)
        for name in ("weighting_gamma", "vlb_weight", "noise_std"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.noise_mean is not None and not math.isfinite(self.noise_mean):
            raise UsageError(f"noise_mean must be finite, not {self.noise_mean}")

    @property
    def gamma(self) -> float:
        """The weighting's gamma, given or its paper's."""
        return self.weighting_gamma or WEIGHTINGS[self.weighting] or 0.0

    @property
    def bound_weight(self) -> float:
        """The bound's weight, given or that of Nichol & Dhariwal (2021)."""
        return 0.001 if self.vlb_weight is None else self.vlb_weight

    @property
    def normal(self) -> tuple[float, float]:
        """Mean and deviation of ln sigma where training's noise levels are normal."""
        mean, std = NORMALS[self.noise_levels]
        return (
            mean if self.noise_mean is None else self.noise_mean,
            std if self.noise_std is None else self.noise_std,
        )


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are shown."""

    source: str = "shapes"  # as given: a folder, a .zip, or a data set's name
    fingerprint: str = ""  # of the pictures, to notice that they are others
    flip: bool = True  # mirror half of the pictures left to right
    augment: float = 0.0  # probability of each of the moves of non-leaky augmentation; 0: none
    holdout: int = 0  # pictures kept out of training for the validation loss
    captions: str = ""  # fingerprint of the captions learned; empty: none
    templates: tuple[
        str, ...
    ] = ()  # that captions are made of; empty: they lie beside the pictures
    examples: tuple[str, ...] = ()  # some captions, for pictures that are drawn unasked
    example_labels: tuple[int, ...] = ()  # their pictures' classes, where both are learned

    def __post_init__(self) -> None:
        positive("holdout", self.holdout, zero=True)
        if not 0 <= self.augment <= 1:
            raise UsageError(f"augment is a probability between 0 and 1, not {self.augment}")


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
            positive(name, getattr(self, name))
        for name in ("warmup", "decay", "weight_decay", "class_drop"):
            positive(name, getattr(self, name), zero=True)
        for name in ("decay", "class_drop"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        for beta in self.betas:
            positive("betas", beta, zero=True, below=1)


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
                positive(name, value)

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
class WeightsOrigin:
    """The weights that a training began with, or that were converted."""

    path: str  # as given
    sha256: str  # of the file


@dataclass(frozen=True)
class RunConfig:
    """config.json. The first five parts are fixed once a run has begun, the rest may change."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    budget: Budget = field(default_factory=lambda: Budget(images=102_400_000))
    snapshot_every: int = 1_000_000  # images
    keep: int = 2  # snapshots kept
    keep_every: int | None = None  # images after each of which one snapshot is kept for good
    preview: int = 16  # pictures in a preview grid; 0: none
    patience: int = 0  # snapshots without a better loss after which training ends; 0: never
    origin: WeightsOrigin | None = None  # None: random weights

    def __post_init__(self) -> None:
        positive("snapshot-every", self.snapshot_every)
        positive("keep", self.keep)
        if self.keep_every is not None:
            positive("keep-every", self.keep_every)
        positive("preview", self.preview, zero=True)
        positive("patience", self.patience, zero=True)

    def check(self) -> None:
        """Raise UsageError where settings of different parts contradict each other."""
        self.network.check()
        schedule, objective = self.diffusion.schedule, self.objective
        default = DiffusionConfig()
        betas = (self.diffusion.beta_min, self.diffusion.beta_max)
        normal, gamma = objective.noise_levels in NORMALS, WEIGHTINGS[objective.weighting]
        learned, steps = self.network.learned_variance, schedule not in CONTINUOUS
        bound = objective.loss == "vlb" or objective.weighting == "vlb"
        contradictions = {
            f"--schedule {schedule} has no --beta-min and --beta-max; it is a curve of its own": (
                schedule not in BETA_RANGED and betas != (default.beta_min, default.beta_max)
            ),
            "--class-drop hides classes, and a network without a null class cannot: give 0": (
                self.optimiser.class_drop > 0
                and bool(self.network.classes)
                and not self.network.null_class
            ),
            f"--schedule {schedule} has no timesteps for time_scale to scale": (
                not steps and self.diffusion.time_scale != 1
            ),
            f"--noise-levels {objective.noise_levels} needs a schedule of continuous noise levels; "
            f"choose --schedule {' or '.join(CONTINUOUS)}, not {schedule}": normal and steps,
            f"--noise-levels importance counts timesteps, and --schedule {schedule} has none": (
                objective.noise_levels == "importance" and not steps
            ),
            f"the variational bound is one of timesteps, and --schedule {schedule} has none": (
                (bound or learned) and not steps
            ),
            "--vlb-weight trains the variance, which needs --learned-variance": (
                objective.vlb_weight is not None and not learned
            ),
            "--loss vlb is the bound itself: it takes no --weighting and no --vlb-weight": (
                objective.loss == "vlb"
                and (objective.weighting != "plain" or objective.vlb_weight is not None)
            ),
            f"--weighting {objective.weighting} has no --weighting-gamma": (
                objective.weighting_gamma is not None and gamma is None
            ),
            f"--noise-levels {objective.noise_levels} has no --noise-mean and --noise-std": (
                not normal and (objective.noise_mean, objective.noise_std) != (None, None)
            ),
        }
        for contradiction, seen in contradictions.items():
            if seen:
                raise UsageError(contradiction)

    def differences(self, other: RunConfig) -> list[str]:
        """What a resume would change though it may not: lines such as "optimiser.lr 0.1 -> 0.2"."""
        fixed = ("data", "network", "diffusion", "objective", "optimiser")
        return [
            f"{part}.{name} {was} -> {now}"
            for part in fixed
            for name, was, now in _changed(getattr(self, part), getattr(other, part))
            if (part, name) not in _TOLD_BY_FINGERPRINTS
        ]


_TOLD_BY_FINGERPRINTS = {
    *(("data", name) for name in ("source", "examples", "example_labels")),
    ("network", "text.encoder"),
}


def _changed(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """The settings of two alike that differ, and their values; of parts within as "text.width"."""
    found: list[tuple[str, Any, Any]] = []
    for name in (f.name for f in dataclasses.fields(one)):
        was, now = getattr(one, name), getattr(other, name)
        if dataclasses.is_dataclass(was) and type(was) is type(now):
            found += ((f"{name}.{inner}", *values) for inner, *values in _changed(was, now))
        elif was != now:
            found.append((name, was, now))
    return found
