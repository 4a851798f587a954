"""Options of one call of `ddpm train` that are not settings of the run (RunConfig)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_cli.core.config import paths
from ddpm_cli.core.config.choices import DINOV2_L, INCEPTION, LOCAL, METRICS
from ddpm_cli.core.config.fields import (
    Settings,
    above_zero,
    choice,
    choices,
    each,
    number,
    parse_duration,
    parse_names,
    parse_size,
    setting,
)
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.errors import UsageError


def _parse_resume(text: str) -> str:
    """`auto`, `never`, or a path with `~` expanded."""
    return str(paths.expanded(text))


DATA_SETS = (  # by name
    "shapes", "mnist", "fashion-mnist", "kmnist", "svhn", "stl10", "cifar10", "cifar100",
    "flowers102", "pets", "food101", "eurosat", "celeba", "imagenet8", "imagenet16", "imagenet32",
    "imagenet64",
)  # fmt: skip
_DATA, _CONDITIONS, _OPTIMISATION = "Data", "Conditions", "Optimisation"
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
_SAVING, _SCORING, _MACHINE = "Saving", "Scoring", "Machine"

OF_A_RUN = {  # the first fields of options of a call whose effect is in the run's settings
    *("data", "preset", "config", "size", "resize_to_power", "channels", "conditional"),
    *("captions", "init_from"),
}


@dataclass(frozen=True)
class ScoringRequest(Settings):
    """Scores of the averaged weights during training."""

    every: int | None = setting(
        None,
        "Images between scores: FID of sampled images against the training's, in scores.jsonl; the "
        "best weights are kept. Its cost is printed beforehand.",
        unit="images",
        panel=_SCORING,
        option="--fid-every",
        default_text="never",
        check=above_zero,
    )
    count: int | None = setting(
        None,
        "Images sampled for a score.",
        unit="images",
        panel=_SCORING,
        option="--fid-n",
        default_text="5,000 images",
        check=number(least=2),
    )
    weights: Path | None = setting(
        None,
        "A copy of the feature network's weights.",
        panel=_SCORING,
        option="--fid-weights",
        default_text="the published ones, downloaded once",
    )
    features: str | None = setting(
        None,
        "The feature network: inception, dinov2-l (FD-DINOv2), or a classifier of ddpm "
        "train-classifier, whose scores are labelled local.",
        panel=_SCORING,
        option="--fid-features",
        default_text="inception",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        others = (self.count, self.weights, self.features)
        if self.every is None and others != (None, None, None):
            raise UsageError("--fid-n, --fid-weights and --fid-features need --fid-every")
        if "fid" not in METRICS.get(self.features or INCEPTION, METRICS[LOCAL]):
            raise UsageError(
                f"--fid-features {self.features} has no Frechet distance, by which runs are scored;"
                f" choose {INCEPTION}, {DINOV2_L} or a classifier of ddpm train-classifier"
            )


@dataclass(frozen=True)
class TrainingRequest(Settings):
    """Which data, preset and run directory; None where the preset or the data decide."""

    data: str | None = setting(
        None,
        f"{IMAGE_FILES.capitalize()} (sub-folders are classes), the built-in shapes, or "
        "mnist, fashion-mnist, kmnist, svhn, stl10, cifar10, cifar100, flowers102, pets, food101, "
        "eurosat, celeba.",
        panel=_DATA,
        default_text="shapes",
    )
    data_root: Path | None = setting(
        None,
        "The folder in which data sets by name are looked for, and to which they are downloaded.",
        panel=_DATA,
        default_text="datasets/ in DDPM_CACHE",
    )
    preset: str | None = setting(
        None,
        f"Settings to start from: {choices(PRESETS)}; docs/presets.md says what for.",
        panel=_DATA,
        default_text="by the images and the device",
    )
    config: Path | None = setting(
        None,
        "A JSON or TOML file of settings over the preset's, such as a run's config.json, which "
        "trains as that run did; options replace its settings.",
        panel=_DATA,
    )
    size: tuple[int, int] | None = setting(
        None,
        "Image size in pixels, 64 or 64x128 (height x width), to which --fit brings images.",
        panel=_DATA,
        parse=parse_size,
        default_text="the images' own up to 64, else 64",
    )
    resize_to_power: str | None = setting(
        None,
        "Instead of --size: bring each side of the images' own size to the nearest power of two, "
        "up (200x160 to 256x256) or down (to 128x128); a side that is one stays.",
        panel=_DATA,
        default_text="no",
        check=choice("up", "down"),
    )
    channels: int | None = setting(
        None,
        "1 grey (0.299 R + 0.587 G + 0.114 B of colour images), 3 colour, 4 with alpha.",
        panel=_DATA,
        default_text="1 if all are grey, else 3",
    )
    cache: str = setting(
        "disk",
        "Where decoded images are kept. disk: all are decoded once, before the first step, into "
        "the cache that later runs share; ram: into the memory of each process, every time; none: "
        "nowhere, each batch is decoded while the step before it runs. The steps are the same.",
        panel=_DATA,
        check=choice("disk", "ram", "none"),
    )
    skip_bad: bool = setting(
        False,
        "Leave unreadable images out instead of stopping.",
        panel=_DATA,
        option="--skip-bad",
    )
    max_pixels: int | None = setting(
        None,
        "Let in larger images, of up to this many pixels: scans that you trust. By default those "
        "are refused, as a small file may unpack to fill the memory.",
        panel=_DATA,
        default_text="178,956,970",
        check=above_zero,
    )
    conditional: bool | None = setting(
        None,
        "Learn the classes, or ignore them.",
        panel=_CONDITIONS,
        option="--conditional/--unconditional",
        default_text="learn them, unless captions are learned or the preset says otherwise",
    )
    captions: bool | None = setting(
        None,
        "Learn captions, for --prompt: those of a .txt beside each image (a line a caption), or of "
        "a table: captions.csv (file,caption) or metadata.jsonl (file_name, text). The shapes "
        "have their own.",
        panel=_CONDITIONS,
        default_text="where they lie beside the images, unless the preset says otherwise",
    )
    init_from: Path | None = setting(
        None,
        "A run or weights file (of ddpm convert, too) to initialise the weights from. It brings "
        "its network, size and noise process; classes and captions may be others. A resume "
        "continues from its snapshot.",
        panel=_OPTIMISATION,
        default_text="random weights",
    )
    out: Path | None = setting(
        None,
        "The run directory. One that is there is resumed, with its settings where none are given. "
        "DDPM_RUNS names another folder than runs.",
        panel=_SAVING,
        default_text="runs/<data>-<size>",
    )
    resume: str = setting(
        "auto",
        "auto: resume from the newest snapshot if there is one; never: start a new run; or a run "
        "or snapshot to resume, whose settings hold where none are given.",
        panel=_SAVING,
        parse=_parse_resume,
    )
    log: tuple[str, ...] = setting(
        (),
        f"Experiment trackers that follow the run, by commas: {choices(TRACKERS)}. They get the "
        "columns of metrics.jsonl, previews, scores and settings, by images seen, in processes of "
        "their own; one that fails costs a line. A resumed run continues its record.",
        panel=_SAVING,
        parse=parse_names("--log", "trackers by commas, such as tensorboard,wandb"),
        check=each(choice(*TRACKERS)),
        default_text="none",
    )
    time_limit: float | None = setting(
        None,
        "Save and stop (exit code 75) before this time ends: 4h, 90m, 1d12h or seconds.",
        panel=_MACHINE,
        parse=parse_duration,
        default_text="when the SLURM job ends (SLURM_JOB_END_TIME), if it is one",
    )
    stall_timeout: float = setting(
        600.0,
        "Seconds without a finished step after which a process writes its stack traces into the "
        "run's logs/ and ends; 0: never.",
        unit="seconds",
        panel=_MACHINE,
        check=number(zero=True, most=10**6),
    )
    scoring: ScoringRequest = field(default_factory=ScoringRequest)
    teacher: Path | None = None  # the run or weights file that ddpm distill makes a student of
    settings: dict[str, Any] = field(default_factory=dict)  # of RunConfig, over preset and file

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.resize_to_power is not None:
            raise UsageError("--resize-to-power takes the images' own size, so it needs no --size")
