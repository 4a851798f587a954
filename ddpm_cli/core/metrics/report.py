"""Scores with everything they depend on: as lines, as notices and as a document for --json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ddpm_cli.core.config.choices import CLIP_L336, INCEPTION
from ddpm_cli.core.metrics.scores.by_class import ByClass
from ddpm_cli.core.metrics.scores.fid import Fid
from ddpm_cli.core.metrics.scores.infinity import FidInfinity
from ddpm_cli.core.metrics.scores.kid import Kid
from ddpm_cli.core.metrics.scores.prdc import Prdc
from ddpm_cli.core.metrics.scores.score import Score, digits
from ddpm_cli.core.metrics.scores.sfid import Sfid
from ddpm_cli.core.metrics.statistics import FeatureOrigin

_NEXT_TO_NOTHING = 50  # images
_KEYS = (  # of every document, None where they were not requested
    *("fid", "fid_std", "fid_floor", "fid_floor_n", "kid", "kid_std", "kid_subset"),
    "cmmd",
    *("precision", "recall", "density", "coverage", "copies"),
    *("inception_score", "inception_score_std", "splits"),
    *("sfid", "fid_infinity", "fid_infinity_std", "fid_infinity_fit_std"),
    *("fid_infinity_sizes", "fid_infinity_fids", "mind", "mind_n"),
    *("classes", "worst_class", "groups", "worst"),
)


@dataclass(frozen=True)
class Report:
    """The scores of FAKE against REAL."""

    origin: FeatureOrigin
    n_real: int | None  # None: the statistics file does not say
    n_fake: int | None
    real: str  # formats and sizes of the images: "png 32x32"
    fake: str
    scores: tuple[Score, ...] = ()  # in the order of their lines
    feature_dim: int = 0  # a covariance of fewer images is rank-deficient
    sampled: dict[str, Any] | None = None  # how FAKE was sampled, where it is a run
    unknown_origin: tuple[str, ...] = ()  # inputs whose statistics name no protocol: "REAL", "FAKE"
    real_fingerprint: tuple[float, ...] = ()  # `Statistics.fingerprint` of REAL

    @property
    def fid(self) -> float | None:
        """FID, or the Frechet distance in other features; None: not requested."""
        return next((score.value for score in self.scores if isinstance(score, Fid)), None)

    def __getattr__(self, name: str) -> Any:
        """A score by its key in the document, such as `report.kid`; None: not requested."""
        if name in _KEYS:
            return self.document()[name]
        raise AttributeError(f"a report has no {name!r}")

    def lines(self) -> str:
        """A line for each score, the first with the protocol line."""
        first, *rest = (score.line(self.origin.label) for score in self.scores)
        return "\n".join([f"{first}  [{self.protocol_line()}]", *rest])

    def protocol_line(self) -> str:
        """Everything that must be equal for two reports to compare."""
        counts = f"n_real={self.n_real or 'unknown'} n_fake={self.n_fake or 'unknown'}"
        return f"{self.origin.describe()} | {counts} | real {self.real}, fake {self.fake}"

    def document(self) -> dict[str, object]:
        """The document for --json."""
        scores = dict.fromkeys(_KEYS) | {
            key: value for score in self.scores for key, value in score.document().items()
        }
        return {
            "fid": scores.pop("fid"),
            "features": self.origin.network or INCEPTION,
            "label": "CMMD" if self.origin.network == CLIP_L336 else self.origin.label("FID"),
            **{name: getattr(self, name) for name in ("n_real", "n_fake", "real", "fake")},
            **scores,
            "sampled": self.sampled,
            "unknown_origin": list(self.unknown_origin),
            "real_fingerprint": list(self.real_fingerprint),
            **_origin_keys(self.origin),
            "line": self.protocol_line(),
            "notices": self.notices(),
        }

    def notices(self) -> list[str]:
        """What biases the scores, or could not be verified: a sentence each."""
        notices = [*self._unknown_origins(), *self._few_images()]
        for score in self.scores:
            if isinstance(score, Prdc):
                notices += self._copies(score)
        for score in self.scores:
            if isinstance(score, Fid):
                notices += self._below_the_floor(score)
        for score in self.scores:
            if isinstance(score, FidInfinity | ByClass):
                notices += score.notices(self.origin.label)
        return [*notices, *self._unlike_images()]

    def _unknown_origins(self) -> Iterator[str]:
        for name in self.unknown_origin:
            yield (
                f"the statistics given as {name} do not say which protocol and weights made them; "
                "they must be those of the other input"
            )

    def _few_images(self) -> Iterator[str]:
        counts = (("n_real", self.n_real), ("n_fake", self.n_fake))
        has_kid = any(isinstance(score, Kid) for score in self.scores)
        of_covariances = [("FID", self.feature_dim) for s in self.scores if isinstance(s, Fid)]
        of_covariances += [("sFID", s.width) for s in self.scores if isinstance(s, Sfid)]
        for name, width in of_covariances:
            few = [f"{count}={n}" for count, n in counts if n is not None and n < width]
            label = self.origin.label(name)
            advice = f"compare it with {label} at the same n alone"
            if any(n is not None and n < _NEXT_TO_NOTHING for _, n in counts):
                advice = f"below {_NEXT_TO_NOTHING} images no score says more than noise; give more"
            elif has_kid:
                advice += ", or look at KID, which is not"
            if few:
                yield (
                    f"{' and '.join(few)} {'is' if len(few) == 1 else 'are'} below {width}: the "
                    f"covariance is rank-deficient and {label} is biased upward; {advice}"
                )

    def _copies(self, prdc: Prdc) -> Iterator[str]:
        if prdc.copies:
            yield (
                f"{prdc.copies} of FAKE equal an image of REAL, or nearly: the scores are better "
                "than those of new images would be"
            )

    def _below_the_floor(self, fid: Fid) -> Iterator[str]:
        """Why FID is less than its floor: the floor is of fewer images, or FAKE holds REAL's."""
        n = fid.floor_n
        if fid.floor is None or not n:
            return
        if fid.value >= fid.floor:
            if self.n_fake and n < self.n_fake:
                yield (
                    f"the floor is of {n} images, half of REAL, and {self.origin.label('FID')} of "
                    f"{self.n_fake}: of fewer images it is higher, so it is too high for that"
                )
            return
        n_real, n_fake = self.n_real or n, self.n_fake or n
        # FID's bias falls about as 1/n of each side (Chong and Forsyth 2020)
        expected = fid.floor * (n / n_real + n / n_fake) / 2
        copies = "; FAKE may hold images of REAL, or copies" if fid.value < expected / 2 else ""
        yield (
            f"{self.origin.label('FID')} is below its floor, which is of {n} real images against "
            f"{n} others where FID is of {n_fake} against {n_real}: at that size unlike images as "
            f"good as real have about {digits(expected)}{copies}"
        )

    def _unlike_images(self) -> Iterator[str]:
        """File formats and sizes that move the scores, whatever the images show."""
        summaries = {"REAL": self.real, "FAKE": self.fake}
        formats = {name: summary.partition(" ")[0] for name, summary in summaries.items()}
        sizes = {name: summary.partition(" ")[2] for name, summary in summaries.items()}
        if "statistics" in formats.values():
            return
        jpeg = {name: _jpeg(value) for name, value in formats.items()}
        if len(set(jpeg.values())) > 1:
            shares = [f"{share} of {name}" for name, share in jpeg.items() if share != "none"]
            said = f"{' and '.join(shares)} are"
            if len(shares) == 1 and shares[0].startswith("all of "):
                said = f"only {shares[0].removeprefix('all of ')} is"
            yield f"{said} JPEG, whose artefacts alone move the scores"
        if sizes["REAL"].split()[-1:] != sizes["FAKE"].split()[-1:]:
            yield (
                f"REAL is {sizes['REAL']}, FAKE {sizes['FAKE']}: each image is resized straight to "
                "the network's size"
            )


@dataclass(frozen=True)
class InceptionScoreReport:
    """An Inception Score with everything it depends on."""

    mean: float
    std: float  # population deviation over the splits
    n: int
    splits: int
    origin: FeatureOrigin
    images: str
    sampled: dict[str, Any] | None = None  # how they were sampled, where they are of a run

    def line(self) -> str:
        """The score and its protocol in one line."""
        score = f"Inception Score {self.mean:.4f} +/- {self.std:.4f}"
        counts = f"n={self.n} splits={self.splits} shuffled"
        return f"{self.origin.label(score)}  [{self.origin.describe()} | {counts} | {self.images}]"

    def document(self) -> dict[str, object]:
        """The document for --json."""
        flat = asdict(self)
        del flat["origin"]
        features = self.origin.network or INCEPTION
        names = {"features": features, "label": self.origin.label("Inception Score")}
        return {**flat, **names, **_origin_keys(self.origin)}


def _jpeg(formats: str) -> str:
    """How many of the images are JPEG, by their formats, such as "png/jpeg"."""
    kinds = ["jp" in kind for kind in formats.split("/")]
    return "all" if all(kinds) else "some" if any(kinds) else "none"


def _origin_keys(origin: FeatureOrigin) -> dict[str, object]:
    """How the features were computed, without the network's name, which has a key of its own."""
    keys = asdict(origin) | {"protocol": origin.name}
    return {name: value for name, value in keys.items() if name != "features"}
