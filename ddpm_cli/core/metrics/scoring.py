"""Features of both sides -> the requested scores, on one process."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.collect import InputFeatures
from ddpm_cli.core.metrics.inputs.classes import CommonClasses, Groups
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.scores.by_class import ByClass, HeldGaussians, Side, by_class
from ddpm_cli.core.metrics.scores.cmmd import cmmd, kernel_mean
from ddpm_cli.core.metrics.scores.fid import Fid, fid_floor, fid_resamples, standard_error
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.inception_score import SPLITS, score_logits
from ddpm_cli.core.metrics.scores.infinity import fid_infinity
from ddpm_cli.core.metrics.scores.kid import kid
from ddpm_cli.core.metrics.scores.mind import mind
from ddpm_cli.core.metrics.scores.prdc import MIN_IMAGES, prdc, squared_radii
from ddpm_cli.core.metrics.scores.score import Score
from ddpm_cli.core.metrics.scores.sfid import sfid
from ddpm_cli.core.metrics.worst.finding import Worst, find_worst
from ddpm_cli.core.runtime.reporting import Reporter


class RealSide:
    """The real images' features, against which any number of fakes are scored."""

    def __init__(self, collected: InputFeatures, extractor: Extractor | None) -> None:
        self.collected, self._extractor = collected, extractor
        # computed once for all fakes
        self._known_radii: Tensor | None = None
        self._known_kernel_mean: float | None = None
        self._known_floors: dict[int, tuple[float, int]] = {}  # by the number of fakes
        self._class_gaussians = HeldGaussians()
        self._gaussian = Gaussian(collected.statistics.mean, collected.statistics.covariance)

    def score(self, fake: InputFeatures, requested: RequestedMetrics, reporter: Reporter) -> Report:
        """Compute the requested scores from the collected features."""
        real, device = self.collected, self._device
        reals, fakes = real.statistics, fake.statistics
        scores: list[Score] = []
        fid = self._fid(fake, requested, reporter) if requested.has("fid") else None
        if fid is not None:
            scores.append(fid)
        if requested.has("sfid"):
            scores.append(sfid(reals, fakes))
        if requested.has("infinity") and fake.features is not None:
            spread = None if fid is None else fid.std
            scores.append(fid_infinity(self._gaussian, fake.features, reporter, spread))
        if real.features is not None and fake.features is not None:
            if requested.has("kid"):
                scores.append(kid(real.features, fake.features, reporter, device))
            if requested.has("mind"):
                scores.append(mind(real.features, fake.features, reporter, device))
            enough = min(len(real.features), len(fake.features)) >= MIN_IMAGES
            if requested.has("prdc") and (enough or len(requested.metrics or ()) == 1):
                radii = self._radii(reporter)
                scores.append(prdc(real.features, fake.features, reporter, device, radii))
            elif requested.has("prdc"):
                reporter.say(
                    f"precision and recall need {MIN_IMAGES} images in each input: left out"
                )
            if requested.has("cmmd"):
                of_real = self._kernel_mean(reporter)
                scores.append(cmmd(real.features, fake.features, reporter, device, of_real))
        if requested.has("is") and fake.logits is not None:
            splits = min(SPLITS, len(fake.logits) // 2)
            scores.append(score_logits(fake.logits, splits, reporter))
        if requested.classes is not None:
            scores.append(self._by_class(fake, requested.classes, requested.groups, reporter))
        named = (("REAL", reals), ("FAKE", fakes))
        return Report(
            reals.origin if reals.origin.protocol else fakes.origin,
            reals.n,
            fakes.n,
            reals.images,
            fakes.images,
            tuple(scores),
            feature_dim=len(reals.mean),
            unknown_origin=tuple(name for name, value in named if value.origin.protocol is None),
            real_fingerprint=reals.fingerprint,
        )

    def worst(self, fake: InputFeatures, count: int, reporter: Reporter) -> Worst:
        """The fakes that are farthest from the real images, and those that no fake covers."""
        real = self.collected.features
        if real is not None and len(real) < MIN_IMAGES:
            raise DdpmError(
                f"only {len(real)} images of REAL are readable; --worst needs {MIN_IMAGES}"
            )
        assert real is not None and fake.features is not None, "both are kept"
        radii = self._radii(reporter)
        return find_worst(real, fake.features, radii, count, reporter, self._device)

    def _radii(self, reporter: Reporter) -> Tensor:
        if self._known_radii is None:
            assert self.collected.features is not None, "they are kept"
            self._known_radii = squared_radii(self.collected.features, reporter, self._device)
        return self._known_radii

    def _kernel_mean(self, reporter: Reporter) -> float:
        if self._known_kernel_mean is None:
            features = self.collected.features
            assert features is not None, "they are kept"
            self._known_kernel_mean = kernel_mean(features, features, reporter, self._device)
        return self._known_kernel_mean

    def _floor(self, n_fake: int | None) -> tuple[float, int]:
        features = self.collected.features
        assert features is not None, "they are kept"
        n = n_fake or len(features)
        if n not in self._known_floors:
            self._known_floors[n] = fid_floor(features, n)
        return self._known_floors[n]

    def _fid(self, fake: InputFeatures, requested: RequestedMetrics, reporter: Reporter) -> Fid:
        statistics = fake.statistics
        value = self._gaussian.distance(statistics.mean, statistics.covariance)
        floor, n, resamples = None, None, tuple[float, ...]()
        if requested.spread and fake.features is not None:
            resamples = fid_resamples(self._gaussian, fake.features, reporter)
        if requested.floor and self.collected.features is not None:
            floor, n = self._floor(statistics.n)
        return Fid(value, standard_error(resamples), floor, n, resamples)

    def _by_class(
        self, fake: InputFeatures, classes: CommonClasses, groups: Groups, reporter: Reporter
    ) -> ByClass:
        real = self.collected
        assert real.features is not None and real.labels is not None, "kept for the classes"
        assert fake.features is not None and fake.labels is not None, "kept for the classes"
        if classes.notice:
            reporter.say(classes.notice)
        return by_class(
            Side(real.features, classes.of_real(real.labels)),
            Side(fake.features, classes.of_fake(fake.labels)),
            classes.names,
            groups,
            fake.logits,
            reporter,
            self._device,
            self._class_gaussians,
        )

    @property
    def _device(self) -> torch.device | None:
        device = self._extractor and self._extractor.device
        return device if device and device.type != "mps" else None
