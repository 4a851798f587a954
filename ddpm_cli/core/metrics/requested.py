"""Which scores are computed, and whether the inputs allow them: before any network runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ddpm_cli.core.config.choices import INCEPTION, LOCAL, METRICS, NEEDS_IMAGES
from ddpm_cli.core.config.fields import did_you_mean
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.collect import Keep
from ddpm_cli.core.metrics.inputs.classes import (
    CommonClasses,
    Groups,
    common_classes,
    parse_groups,
    resolved_groups,
)
from ddpm_cli.core.metrics.inputs.opening import ScoreInput
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.scores.infinity import MIN_IMAGES as MIN_INFINITY
from ddpm_cli.core.metrics.scores.prdc import MIN_IMAGES
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics

_DEFAULT = frozenset({"fid", "kid", "prdc", "cmmd"})  # those of them that suit the inputs
_ENOUGH = ", which are enough for --metrics fid"
_GROUPS_OF_CLASSES = "--class-groups are of classes: add classes to --metrics"


@dataclass(frozen=True)
class WorstRequest:
    """How many of the worst images of each input to show, and the folder for them."""

    count: int
    folder: Path


@dataclass(frozen=True)
class RequestedMetrics:
    """Which scores to compute from the one pass over the images."""

    metrics: frozenset[str] | None = None  # None: all usual ones that suit network and inputs
    network: str = INCEPTION  # of the features of images
    spread: bool = True  # the standard error of FID
    floor: bool = False  # FID of real images against other real images
    cache: bool = True  # read and write the features of files in the cache
    groups: Groups = field(default_factory=dict)  # of classes, as they are named or numbered
    worst: WorstRequest | None = None  # the images of each input farthest from the other one
    classes: CommonClasses | None = None  # of the inputs that were given to `of`

    @classmethod
    def parse(
        cls,
        metrics: str | None,
        class_groups: str | None = None,
        *,
        network: str = INCEPTION,
        spread: bool = True,
        floor: bool = False,
        cache: bool = True,
    ) -> RequestedMetrics:
        """Read "fid,kid,prdc,is" and "animals=cat,dog;vehicles=car".

        Raises UsageError, also for the scores of other networks.
        """
        groups = {} if class_groups is None else parse_groups(class_groups)
        if metrics is None:
            if groups:
                raise UsageError(_GROUPS_OF_CLASSES)
            if floor:
                check_metric("fid", network)
            return cls(None, network, spread, floor, cache)
        names = frozenset(name.strip() for name in metrics.split(",") if name.strip())
        if not names or names - set(NEEDS_IMAGES):
            unknown = next(iter(sorted(names - set(NEEDS_IMAGES))), "")
            raise UsageError(
                f"--metrics {metrics}: choose from {','.join(METRICS[network])}"
                f"{did_you_mean(unknown, METRICS[network])}"
            )
        for name in sorted(names):
            check_metric(name, network)
        if names == {"is"}:
            raise UsageError("--metrics is needs no REAL: use ddpm inception-score FAKE")
        if floor and "fid" not in names:
            raise UsageError("--floor is of FID: leave fid among the --metrics")
        if groups and "classes" not in names:
            raise UsageError(_GROUPS_OF_CLASSES)
        return cls(names, network, spread, floor, cache, groups)

    def of(self, real: ScoreInput, fake: ScoreInput) -> RequestedMetrics:
        """Those of these inputs. Raises UsageError or DdpmError where they do not allow them."""
        inputs = {"REAL": real, "FAKE": fake}
        images = {name: x for name, x in inputs.items() if not isinstance(x, Statistics)}
        if self.worst is not None:
            for name in inputs.keys() - images.keys():
                raise UsageError(
                    f"--worst shows images: give those of {name}, not statistics{_ENOUGH} "
                    "without --worst"
                )
            if len(images["REAL"]) < MIN_IMAGES:
                raise DdpmError(f"--worst needs {MIN_IMAGES} images in REAL")
        statistics = [x for x in inputs.values() if isinstance(x, Statistics)]
        networks = {network for x in statistics if (network := x.origin.network)}
        if images:
            networks.add(self.network)
        if self.metrics is None:
            return replace(self, metrics=_usual(frozenset(images), networks))
        for name in sorted(self.metrics):
            for network in networks:
                check_metric(name, network)
            for required in NEEDS_IMAGES[name]:
                if required not in images:
                    raise UsageError(
                        f"--metrics {name} needs the images of {required}, not their statistics"
                        f"{_ENOUGH if 'fid' in METRICS[self.network] else ''}"
                    )
        if "prdc" in self.metrics and min(map(len, images.values())) < MIN_IMAGES:
            raise DdpmError(f"--metrics prdc needs {MIN_IMAGES} images in each input")
        if "infinity" in self.metrics and len(images["FAKE"]) < MIN_INFINITY:
            raise DdpmError(
                f"--metrics infinity needs {MIN_INFINITY} images in FAKE, which holds "
                f"{len(images['FAKE'])}: its line is fitted to FID of 15 numbers of them"
            )
        if "classes" not in self.metrics:
            return self
        classes = common_classes(images["REAL"], images["FAKE"])
        return replace(self, classes=classes, groups=resolved_groups(self.groups, classes.names))

    def has(self, *names: str) -> bool:
        """Whether any of these scores is computed, of inputs that were given to `of`."""
        return self.metrics is not None and not self.metrics.isdisjoint(names)

    @property
    def keep_real(self) -> Keep:
        """What to store of the real images."""
        features = self._of_both or self.floor or self.worst is not None
        return Keep(features=features, spatial=self.has("sfid"))

    @property
    def keep_fake(self) -> Keep:
        """What to store of the fakes."""
        spread = self.spread and self.has("fid")
        return Keep(
            features=self._of_both or spread or self.has("infinity") or self.worst is not None,
            logits=self.has("is") or bool(self.groups),
            spatial=self.has("sfid"),
        )

    @property
    def _of_both(self) -> bool:
        return self.has(*(name for name, needs in NEEDS_IMAGES.items() if "REAL" in needs))


def check_metric(metric: str, network: str) -> None:
    """Raise UsageError where a score means nothing in a network's features."""
    if metric in METRICS[network]:
        return
    others = [other for other, metrics in METRICS.items() if metric in metrics]
    of = " or ".join("a classifier's file" if name == LOCAL else name for name in others)
    raise UsageError(
        f"{metric} is no score of the features of {_named(network)}, which has "
        f"{', '.join(METRICS[network])}; it is one of --features {of}"
    )


def _named(network: str) -> str:
    return "a classifier" if network == LOCAL else network


def _usual(images: frozenset[str], networks: set[str]) -> frozenset[str]:
    """The scores that are computed where none is named. Raises DdpmError where there are none."""
    networks = networks or {INCEPTION}  # of another tool's statistics
    suited = _DEFAULT.intersection(*(METRICS[network] for network in networks))
    metrics = frozenset(name for name in suited if images.issuperset(NEEDS_IMAGES[name]))
    if not suited:
        raise DdpmError(
            f"not comparable: REAL and FAKE are of the features of {' and '.join(sorted(networks))}"
            "; make both with the same --features"
        )
    if not metrics:
        needed = " and ".join(sorted({name for metric in suited for name in NEEDS_IMAGES[metric]}))
        raise UsageError(
            f"the scores of {', '.join(sorted(networks))} ({', '.join(sorted(suited))}) need the "
            f"images of {needed}, not their statistics"
        )
    return metrics


def check_real(real: ScoreInput, requested: RequestedMetrics) -> None:
    """Raise now what would stop the scores after hours of feature extraction."""
    check_enough(real)
    if not requested.floor:
        return
    if isinstance(real, Statistics):
        raise UsageError(f"--floor needs the images of REAL, not their statistics{_ENOUGH}")
    if len(real) < 4:
        raise DdpmError(f"--floor needs at least 4 images in REAL, which holds {len(real)}")


def check_enough(score_input: ScoreInput) -> None:
    """Raise DdpmError for fewer than 2 images."""
    if not isinstance(score_input, Statistics) and len(score_input) < 2:
        raise DdpmError(
            f"{score_input.label} holds {counted(len(score_input))}; FID needs a covariance, "
            "so at least 2"
        )


def check_comparable(
    real: ScoreInput,
    fake: ScoreInput | None,
    requested: RequestedMetrics,
    extractor: Extractor | None,
) -> None:
    """Raise DdpmError where other features made the statistics given. fake: None for images.

    Raises UsageError where the network has no features for a score.
    """
    check_width(fake, "FAKE", extractor)
    if requested.has("sfid"):
        _check_spatial(real, fake)
    conflict = _origin(real, extractor).conflict(_origin(fake, extractor))
    if conflict:
        option, of_real, of_fake = conflict
        raise DdpmError(
            f"not comparable: {option} of REAL is {of_real}, of FAKE {of_fake}; "
            "make both with the same"
        )


def check_before_loading(
    real: ScoreInput, fake: ScoreInput | None, settings: ExtractorSettings
) -> None:
    """Raise DdpmError where the statistics of one input are not of the features that are asked for.

    That is, of those that images of the other one would have. fake: None for images.
    """
    sides = {"REAL": real, "FAKE": fake}
    of_statistics = {name: x.origin for name, x in sides.items() if isinstance(x, Statistics)}
    if len(of_statistics) == len(sides):
        return
    for name, origin in of_statistics.items():
        if (conflict := origin.conflict(settings.expected)) is None:
            continue
        option, own, other = conflict
        option = option.replace("--", settings.prefix)
        if option.endswith("features"):
            network = f"the classifier {origin.weights or ''}".strip() if origin.local else own
            sha256 = f" (sha256 {origin.weights_sha256[:8]}…)" if origin.weights_sha256 else ""
            raise DdpmError(
                f"the statistics given as {name} are features of {network}{sha256}, not of "
                f"{'a classifier' if other == LOCAL else other}: add {option} "
                f"{'with its file' if origin.local else own}"
            )
        fix = "with their file" if option.endswith("weights") else own
        raise DdpmError(
            f"not comparable: {option} of the statistics given as {name} is {own}, and {other} "
            f"is asked for: add {option} {fix}"
        )


def check_width(score_input: ScoreInput | None, name: str, extractor: Extractor | None) -> None:
    """Raise DdpmError for statistics of more or fewer features than the network has."""
    if not isinstance(score_input, Statistics) or extractor is None:
        return
    if len(score_input.mean) != extractor.network.width:
        raise DdpmError(
            f"the statistics given as {name} have {len(score_input.mean)} features, "
            f"this network {extractor.network.width}"
        )


def counted(images: int) -> str:
    """A number of images in words."""
    return "1 image" if images == 1 else f"{images} images"


def _check_spatial(real: ScoreInput, fake: ScoreInput | None) -> None:
    for name, value in (("REAL", real), ("FAKE", fake)):
        if isinstance(value, Statistics) and value.spatial is None:
            raise DdpmError(
                f"--metrics sfid: the statistics given as {name} have no spatial features (mu_s, "
                "sigma_s); make them again from the images, with --metrics fid,sfid --save-real"
            )


def _origin(score_input: ScoreInput | None, extractor: Extractor | None) -> FeatureOrigin:
    if isinstance(score_input, Statistics):
        return score_input.origin
    assert extractor is not None, "images need an extractor"
    return extractor.origin
