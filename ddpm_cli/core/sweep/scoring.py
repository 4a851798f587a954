"""One score of sampled images against the real ones, whose features are extracted once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_cli.core.config.choices import NEEDS_IMAGES
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics import feature_cache
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, ScoreInput
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.requested import (
    RequestedMetrics,
    check_before_loading,
    check_comparable,
    check_real,
    check_width,
)
from ddpm_cli.core.metrics.scores.fid import Fid, moments
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import SILENT, Reporter

SCORES = ("fid", "kid", "cmmd")  # of one number each, lower is better
_MOST = 4096  # made-up features of REAL, in trials


class Score(NamedTuple):
    """A score of images."""

    value: float
    std: float | None  # its standard error; None: unknown
    resamples: tuple[float, ...] = ()  # of FID, without a part of the seeds each


@dataclass(frozen=True)
class Scorer:
    """Images are scored against the same real ones by the same network."""

    real: ScoreInput
    extractor: Extractor
    requested: RequestedMetrics
    name: str  # of the score

    @classmethod
    def load(
        cls,
        real: ScoreInput,
        settings: ExtractorSettings,
        requested: RequestedMetrics,
        name: str,
        device: torch.device,
        reporter: Reporter,
    ) -> Scorer:
        """Load the network. Raises UsageError or DdpmError for real images that do not suit it."""
        if isinstance(real, Statistics) and "REAL" in NEEDS_IMAGES[name]:
            raise UsageError(f"--score {name} needs the images of --real, not their statistics")
        check_real(real, requested)
        check_before_loading(real, None, settings)
        extractor = settings.load(device, reporter)
        check_width(real, "REAL", extractor)
        check_comparable(real, None, requested, extractor)
        return cls(real, extractor, requested, name)

    @property
    def label(self) -> str:
        """The score's name in these features."""
        return self.extractor.origin.label(self.name.upper())

    @property
    def real_name(self) -> str:
        """The real images, in words."""
        return "statistics" if isinstance(self.real, Statistics) else self.real.label

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a score depends on beside the images sampled."""
        real, origin = self.real, self.extractor.origin
        content = real.fingerprint if isinstance(real, Statistics) else real.content()
        return {
            "score": self.name,
            "real": list(content) if isinstance(content, tuple) else content,
            "features": origin.network,
            "protocol": origin.protocol,
            "features_sha256": origin.weights_sha256,
            "arithmetic": origin.arithmetic,
        }

    def collect(self, reporter: Reporter) -> RealSide:
        """The real side: from the cache where it is there."""
        if isinstance(self.real, Statistics):
            return RealSide(InputFeatures(self.real), self.extractor)
        collected = feature_cache.collect_cached(
            self.real, self.extractor, self._keep_real, "real", reporter
        )
        return RealSide(collected, self.extractor)

    def score(self, side: RealSide, images: GeneratedImages) -> Score:
        """Score images, which are sampled as they are needed."""
        requested = self.requested.of(self.real, images)
        features = collect(images, self.extractor, requested.keep_fake, "fake", SILENT)
        return _score(side.score(features, requested, SILENT), self.name)

    def seconds_of_score(self, count: int) -> float:
        """Seconds of the score of so many images, by features that are made up."""
        width = self.extractor.network.width
        generator = torch.Generator().manual_seed(0)

        def made_up(n: int) -> InputFeatures:
            store = FeatureStore(width)
            store.append(torch.randn(n, width, generator=generator))
            rows = moments(store, np.arange(n))
            origin = self.extractor.origin
            statistics = Statistics(rows.mean, rows.covariance, n, origin, "made up")
            return InputFeatures(statistics, store)

        real, fake = made_up(min(_MOST, max(count, 2 * width))), made_up(count)
        requested = RequestedMetrics(self.requested.metrics, self.requested.network)
        side = RealSide(real, self.extractor)
        started = time.monotonic()
        side.score(fake, requested, SILENT)
        return time.monotonic() - started

    @property
    def waits_for_real(self) -> int:
        """Images of REAL whose features are extracted first; 0 where they are known."""
        if isinstance(self.real, Statistics):
            return 0
        known = feature_cache.is_cached(self.real, self.extractor, self._keep_real)
        return 0 if known else len(self.real)

    @property
    def _keep_real(self) -> Keep:
        return self.requested.keep_real


def requested(name: str, network: str) -> RequestedMetrics:
    """What a score needs. Raises UsageError where it is none, or none of these features."""
    if name not in SCORES:
        raise UsageError(f"--score {name}: choose one of {', '.join(SCORES)}")
    return RequestedMetrics.parse(name, network=network)


def _score(report: Report, name: str) -> Score:
    """A report's score. KID's standard error is from the deviation over its subsets, of fewer."""
    scores: dict[str, Any] = report.document()
    value, std = scores[name], scores.get(f"{name}_std")
    if name == "kid" and std is not None and report.n_fake:
        std *= math.sqrt(report.kid_subset / max(report.n_fake, report.kid_subset))
    resamples = next((s.resamples for s in report.scores if isinstance(s, Fid)), ())
    return Score(value, std or None, resamples)
