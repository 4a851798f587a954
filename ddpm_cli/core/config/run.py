"""Everything that defines a run, as frozen dataclasses that become config.json."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from ddpm_cli.core.config.consistency import PLAIN
from ddpm_cli.core.config.diffusion import (
    BETA_RANGED,
    CONSISTENCY,
    CONTINUOUS,
    NORMALS,
    WEIGHTINGS,
    DiffusionConfig,
    ObjectiveConfig,
)
from ddpm_cli.core.config.fields import (
    LARGEST_INTEGER,
    Settings,
    above_zero,
    at_least_zero,
    choice,
    did_you_mean,
    each,
    fraction,
    images_above_zero,
    images_from_zero,
    number,
    parse_names,
    setting,
    shortened,
)
from ddpm_cli.core.config.given import Degradation, check_given, parse_given
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.errors import UsageError

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
FITS = ("crop", "pad", "stretch")
OPTIMISERS = {"adamw": "AdamW", "muon": "Muon and AdamW"}  # in words
IMAGE_FILES = "a folder, .zip, .tar, .parquet, .npy or .npz of images"

_DATA, _CONDITIONS, _LENGTH = "Data", "Conditions", "Length"
_OPTIMISATION, _SAVING = "Optimisation", "Saving"


def parse_colour(text: str) -> tuple[int, int, int]:
    """Read "white", "black", "grey" or "#rrggbb" as red, green and blue. Raises ValueError."""
    if text in BACKGROUNDS:
        return BACKGROUNDS[text]
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(text)
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _colour(name: str, value: str) -> None:
    try:
        parse_colour(value)
    except ValueError as error:
        raise UsageError(
            f"{name} {shortened(value)} is no colour; give {', '.join(BACKGROUNDS)} or #rrggbb, "
            f'such as "#ff8800"{did_you_mean(value, BACKGROUNDS)}'
        ) from error


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which images, and how they are prepared."""

    source: str = setting("shapes", f"As given to --data: {IMAGE_FILES}, or a data set's name.")
    fingerprint: str = setting("", "Hash of the images: a resume with others is refused.")
    labels: str = setting("", "Hash of the labels, where a table gives them; empty: folders do.")
    flip: bool = setting(True, "Mirror half of the images left to right.", panel=_DATA)
    augment: float = setting(
        0.0,
        "Probability of each transformation of non-leaky augmentation (mirror, scale, rotate, "
        "stretch, translate). The network is conditioned on it, so samples are not transformed. "
        "Against overfitting: 0.12 for CIFAR-10 (Karras et al. 2022, appendix F.2).",
        panel=_DATA,
        check=fraction,
    )
    balance: bool = setting(
        False,
        "Draw all classes equally often, however many images they have: in rounds of one image of "
        "each class.",
        panel=_DATA,
    )
    shuffle: str = setting(
        "images",
        "images: a new order of all images each epoch; blocks: of sources that are read in large "
        "blocks (parquet), the blocks in a new order, and images mixed within four of them.",
        panel=_DATA,
        default_text="blocks for such a source with --cache none, else images",
        check=choice("images", "blocks"),
    )
    fit: str = setting(
        "crop",
        "How images of another shape than --size are brought to it, antialiased: crop (around the "
        "centre, then resize), pad (resize to fit inside, then fill with --background) or stretch.",
        panel=_DATA,
        check=choice(*FITS),
    )
    background: str = setting(
        "white",
        "Colour beneath transparent pixels (unless --channels is 4) and of padding: white, black, "
        "grey (#808080) or #rrggbb.",
        panel=_DATA,
        check=_colour,
    )
    holdout: int = setting(
        0,
        "Images held out of training to measure a validation loss on.",
        unit="images",
        panel=_DATA,
        check=images_from_zero,
    )
    attributes: tuple[str, ...] = setting(
        (),
        "Attributes of CelebA to learn: Smiling gives two classes; Smiling,Male and more, or all, "
        "a multi-label condition, where an image has any number of them (--class Smiling+Male).",
        panel=_CONDITIONS,
        parse=parse_names("--attributes", "names such as Smiling,Male, or all"),
        default_text="none",
    )
    captions: str = setting("", "Fingerprint of the captions learned; empty: none.")
    templates: tuple[str, ...] = setting(
        (),
        'Make captions of class names: "a photo of a {class}". Repeat for several; each time an '
        "image is seen, one of them is used.",
        panel=_CONDITIONS,
        option="--caption",
        default_text="captions beside the images",
    )
    examples: tuple[str, ...] = setting((), "Captions to sample where no prompt is given.")
    example_labels: tuple[int, ...] = setting((), "Their images' classes, if both are learned.")
    combinations: tuple[str, ...] = setting(
        (),
        "Of a multi-label network: what to sample without --class, as Smiling+Male; the most "
        "frequent combinations of attributes, or those of the examples' images.",
    )
    given: str = setting(
        "",
        "Condition on an image that is made of each one trained on: lowres:4 (a quarter of its "
        "sides: super-resolution), grey (colourisation), blur:2 (a deviation of 2 pixels), mask "
        "(boxes are cut out: inpainting) or edges. ddpm sample takes such an image with --given.",
        panel=_CONDITIONS,
        parse=parse_given,
        default_text="none",
        check=check_given,
    )
    given_data: str = setting(
        "",
        "Condition on the images of this folder or archive instead: the one of the same name as "
        "the image trained on, but for the suffix.",
        panel=_CONDITIONS,
        parse=parse_given,
        default_text="none",
    )
    given_fingerprint: str = setting("", "Hash of the images of --given-data.")
    given_noise: float | None = setting(
        None,
        "Deviation, at most, of noise that is added to a low-resolution image in training, where "
        "grey levels are from -1 to 1; the network is told how much. So a model can go on from "
        "images that another has sampled (Ho et al. 2022, cascaded diffusion). 0: none.",
        panel=_CONDITIONS,
        default_text="0.2 with --given lowres",
        check=number(zero=True, most=2),
    )

    @property
    def degradation(self) -> Degradation | None:
        """What makes the given image of an image; None without, and for pairs of files."""
        return Degradation.parse(self.given) if self.given else None

    @property
    def given_level(self) -> float:
        """The deviation of the noise in the given image, at most."""
        degradation = self.degradation
        if degradation is None or self.given_noise is not None:
            return self.given_noise or 0.0
        return degradation.noise


@dataclass(frozen=True)
class OptimiserConfig(Settings):
    """The optimiser, its learning rate and the moving average.

    Lengths are in images, so that neither the batch size nor the number of processes changes them.
    """

    batch: int = setting(
        128,
        "Global batch size: images per optimiser step, over all processes together.",
        unit="images",
        panel=_OPTIMISATION,
        check=number(most=10**6),
    )
    method: str = setting(
        "adamw",
        "adamw; or muon, which makes the updates of the hidden layers' matrices orthogonal, and "
        "leaves the rest to AdamW.",
        panel=_OPTIMISATION,
        option="--optimiser",
        check=choice(*OPTIMISERS),
    )
    lr: float = setting(2e-4, "Highest learning rate.", panel=_OPTIMISATION, check=above_zero)
    warmup: int = setting(
        640_000,
        "Images over which the learning rate rises linearly from 0.",
        unit="images",
        check=images_from_zero,
    )
    decay: float = setting(
        0.0, "Last fraction of the budget over which the rate falls to 0.", check=fraction
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "AdamW's betas.", check=each(number(zero=True, below=1))
    )
    weight_decay: float = setting(0.0, "Decoupled weight decay.", check=at_least_zero)
    clip: float | None = setting(
        1.0, "Largest norm of the gradient, as DDPM; none: not clipped.", check=above_zero
    )
    ema_halflife: int = setting(
        887_000,
        "Half-life of the weights' moving average; 0.9999 a step at batch 128.",
        unit="images",
        check=images_above_zero,
    )
    ema_rampup: float = setting(
        0.05, "The half-life is at most this fraction of the images seen.", check=above_zero
    )
    class_drop: float = setting(
        0.1,
        "Fraction of classes and captions replaced by the null condition in training, which "
        "--guidance needs.",
        panel=_CONDITIONS,
        check=fraction,
    )
    seed: int = setting(
        0,
        "Seed of weights, order, augmentation and noise.",
        panel=_OPTIMISATION,
        check=number(zero=True, most=LARGEST_INTEGER),
    )


@dataclass(frozen=True)
class Budget(Settings):
    """When training ends: at whichever limit is reached first. At least one is set."""

    images: int | None = setting(
        None,
        "Stop after this many images seen.",
        unit="images",
        panel=_LENGTH,
        check=images_above_zero,
    )
    steps: int | None = setting(
        None,
        "Stop after this many optimiser steps.",
        unit="steps",
        panel=_LENGTH,
        check=images_above_zero,
    )
    epochs: float | None = setting(
        None,
        "Stop after this many passes over the data.",
        unit="epochs",
        panel=_LENGTH,
        check=number(most=10**9),
    )
    minutes: float | None = setting(
        None,
        "Stop after this many minutes of training.",
        unit="minutes",
        panel=_LENGTH,
        check=number(most=10**9),
    )

    @property
    def is_limited(self) -> bool:
        """Whether any limit is set."""
        return any(value is not None for value in dataclasses.asdict(self).values())

    def in_images(self, batch: int, images: int) -> int | None:
        """The tightest limit that counts images, with `images` an epoch; None if only time is."""
        limits = [
            self.images,
            None if self.steps is None else self.steps * batch,
            None if self.epochs is None else max(1, round(self.epochs * images)),
        ]
        return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class WeightsOrigin(Settings):
    """The weights that a training was initialised with, or that were converted."""

    path: str  # as given
    sha256: str  # of the file


@dataclass(frozen=True)
class RunConfig(Settings):
    """config.json. The first five parts are fixed once a run has begun, the rest may change."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    budget: Budget = field(default_factory=lambda: Budget(images=102_400_000))
    snapshot_every: int = setting(
        1_000_000,
        "Images between snapshots: the most that is lost in a crash. A first one comes after a "
        "tenth of them; each with a preview. It is about saving alone: no loss depends on it.",
        unit="images",
        panel=_SAVING,
        check=above_zero,
    )
    validate_every: int = setting(
        1_000_000,
        "Images between validations, and one at the end: the loss of the averaged weights on the "
        "images of --holdout is measured, and the best weights so far are kept.",
        unit="images",
        panel=_LENGTH,
        check=above_zero,
    )
    holdout_data: str = setting(
        "",
        "Images to measure the validation loss on instead of some of the training's: a source as "
        "--data takes, such as cifar10:test or photos/test, with the same classes.",
        panel=_DATA,
        default_text="those of --holdout",
    )
    log_every: int = setting(
        10_000,
        "Images between rows of metrics.jsonl, each with the mean training loss since the last.",
        unit="images",
        panel=_SAVING,
        check=images_above_zero,
    )
    keep: int = setting(
        2,
        "Newest snapshots kept; older ones are deleted, but for those of --keep-every.",
        unit="snapshots",
        panel=_SAVING,
        check=number(most=10**9),
    )
    keep_every: int | None = setting(
        None,
        "Keep the first snapshot after every multiple of this many images for good.",
        unit="images",
        panel=_SAVING,
        default_text="none is kept for good",
        check=images_above_zero,
    )
    ema_every: int | None = setting(
        None,
        "Keep two more averages of the weights and store both every this many images, so that "
        "ddpm ema can make averages of other lengths afterwards: a 32nd of the training is good. "
        "Each time as much disk as two files of weights.",
        unit="images",
        panel=_SAVING,
        default_text="none are kept",
        check=images_above_zero,
    )
    preview: int = setting(
        16,
        "Images in a preview grid, sampled at every snapshot; 0: none.",
        unit="images",
        panel=_SAVING,
        check=number(zero=True, most=10**5),
    )
    patience: int = setting(
        0,
        "Stop early after this many validations in a row (--validate-every) with no lower loss: "
        "held out, or smoothed training loss without --holdout; 0: never.",
        unit="validations",
        panel=_LENGTH,
        check=number(zero=True, most=10**9),
    )
    stop_at_gap: float | None = setting(
        None,
        "Stop early where the model begins to copy: once, in a quarter of the noise levels, the "
        "held-out loss is above that of images trained on by this share, for certain. 1: twice "
        "their loss. Needs --holdout or --holdout-data.",
        panel=_LENGTH,
        default_text="never",
        check=above_zero,
    )
    origin: WeightsOrigin | None = None  # None: random weights

    def check(self) -> None:
        """Raise UsageError where settings of different parts contradict each other."""
        self.network.check()
        schedule, objective = self.diffusion.schedule, self.objective
        default = DiffusionConfig()
        betas = (self.diffusion.beta_min, self.diffusion.beta_max)
        normal, gamma = objective.noise_levels in NORMALS, WEIGHTINGS[objective.weighting]
        learned, discrete = self.network.learned_variance, schedule not in CONTINUOUS
        bound = objective.loss == "vlb" or objective.weighting == "vlb"
        given, consistency = self.data.degradation, objective.consistency
        student = consistency is not None
        calls = 0 if consistency is None else consistency.calls
        guided = consistency is not None and bool(consistency.guidance)
        contradictions = {
            "--loss consistency is that of a student, which ddpm distill RUN makes": (
                objective.loss == CONSISTENCY and not student
            ),
            f"a student of ddpm distill has the loss {CONSISTENCY}, and no other": (
                objective.loss != CONSISTENCY and student
            ),
            "network.guidance is true of a student that learns its teacher's guidance, and of no "
            "other network: ddpm distill --guidance sets it": self.network.guidance and not guided,
            "objective.consistency.guidance is a condition of the network: network.guidance has to "
            "be true": guided and not self.network.guidance,
            "--guidance 1 is the teacher without guidance, which --calls learns by default: "
            "leave it out, or give --calls 0": (
                consistency is not None and calls > 0 and consistency.guidance == PLAIN
            ),
            f"--calls {calls} is more than the model's {self.diffusion.timesteps} timesteps": (
                calls > self.diffusion.timesteps
            ),
            "a student is trained at the noise levels of its calls: objective.noise_levels "
            f"{objective.noise_levels} needs --calls 0": (
                calls > 0 and objective.noise_levels != "uniform"
            ),
            "a consistency model has no variance: it cannot be one with --learned-variance": (
                learned and student
            ),
            "--given makes the condition, and --given-data names images that are it: give one": (
                given is not None and bool(self.data.given_data)
            ),
            "--given grey is of colour images, and --channels is 1": (
                given is not None and given.kind == "grey" and self.network.channels == 1
            ),
            "--given-noise is added to low-resolution images: it needs --given lowres": (
                bool(self.data.given_noise) and (given is None or given.kind != "lowres")
            ),
            "--balance draws from all classes, so it needs --shuffle images": (
                self.data.balance and self.data.shuffle == "blocks"
            ),
            f"--schedule {schedule} has no --beta-min and --beta-max; it is not defined by them": (
                schedule not in BETA_RANGED and betas != (default.beta_min, default.beta_max)
            ),
            "--class-drop replaces classes by the null class, which the network lacks: give 0": (
                self.optimiser.class_drop > 0
                and bool(self.network.classes)
                and not self.network.null_class
            ),
            "--holdout keeps images out of training, and --holdout-data names others: give one": (
                self.data.holdout > 0 and bool(self.holdout_data)
            ),
            "--stop-at-gap compares with images held out: it needs --holdout or --holdout-data": (
                self.stop_at_gap is not None and not (self.data.holdout or self.holdout_data)
            ),
            f"--schedule {schedule} has no timesteps for time_scale to scale": (
                not discrete and self.diffusion.time_scale != 1
            ),
            f"--noise-levels {objective.noise_levels} needs a schedule of continuous noise levels; "
            f"choose --schedule {' or '.join(CONTINUOUS)}, not {schedule}": (
                normal and discrete and not student
            ),
            f"--noise-levels importance counts timesteps, and --schedule {schedule} has none": (
                objective.noise_levels == "importance" and not discrete
            ),
            f"the variational bound is one of timesteps, and --schedule {schedule} has none": (
                (bound or learned) and not discrete
            ),
            "--vlb-weight trains the variance, which needs --learned-variance": (
                objective.vlb_weight is not None and not learned
            ),
            "--loss vlb is the bound itself: it takes no --weighting and no --vlb-weight": (
                objective.loss == "vlb"
                and (objective.weighting != "plain" or objective.vlb_weight is not None)
            ),
            "--weighting learned is of one loss, and --learned-variance adds another": (
                objective.weighting == "learned" and learned
            ),
            f"--weighting {objective.weighting} has no --weighting-gamma": (
                objective.weighting_gamma is not None and gamma is None
            ),
            f"--noise-levels {objective.noise_levels} has no --noise-mean and --noise-std": (
                not normal and (objective.noise_mean, objective.noise_std) != (None, None)
            ),
        }
        for contradiction, present in contradictions.items():
            if present:
                raise UsageError(contradiction)

    @property
    def guidable(self) -> bool:
        """Whether guidance is possible: with conditions and, in training, the null condition."""
        network = self.network
        nullable = network.null_class or not network.classes
        return network.conditioned and nullable and self.optimiser.class_drop > 0

    def differences(self, other: RunConfig) -> list[str]:
        """What a resume would change though it may not: lines such as "optimiser.lr 0.1 -> 0.2"."""
        fixed = ("data", "network", "diffusion", "objective", "optimiser")
        return [
            f"{part}.{name} {old} -> {new}"
            for part in fixed
            for name, old, new in _changes(getattr(self, part), getattr(other, part))
            if (part, name) not in _COVERED_BY_FINGERPRINTS
        ]


_COVERED_BY_FINGERPRINTS = {
    *(("data", name) for name in ("source", "examples", "example_labels", "combinations")),
    ("data", "given_data"),
    ("network", "text.encoder"),
}


def _changes(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """Settings that differ, with both values; of nested dataclasses as "text.width"."""
    changes: list[tuple[str, Any, Any]] = []
    for name in (f.name for f in dataclasses.fields(one)):
        old, new = getattr(one, name), getattr(other, name)
        if dataclasses.is_dataclass(old) and type(old) is type(new):
            changes += ((f"{name}.{inner}", *values) for inner, *values in _changes(old, new))
        elif old != new:
            changes.append((name, old, new))
    return changes
