"""Scores with everything they depend on: as lines, as notices and as a document for --json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ddpm_cli.core.metrics.statistics import FeatureOrigin


def digits(distance: float) -> str:
    """A Frechet distance: four decimals, or three digits where it is small, as of local features.

    Below 1e-6 there is nothing but rounding.
    """
    return f"{distance:.3g}" if 1e-6 < abs(distance) < 0.01 else f"{distance:.4f}"


@dataclass(frozen=True)
class Report:
    """The scores of FAKE against REAL. None: not requested, or unknown."""

    origin: FeatureOrigin
    local: bool  # features of a local classifier: not FID, and labelled so everywhere
    n_real: int | None  # None: the statistics file does not say
    n_fake: int | None
    real: str  # formats and sizes of the images: "png 32x32"
    fake: str
    fid: float | None = None
    fid_std: float | None = None  # block jackknife over the fakes
    fid_floor: float | None = None  # real against other real, of fid_floor_n images each
    fid_floor_n: int | None = None
    kid: float | None = None
    kid_std: float | None = None  # over the subsets
    kid_subset: int | None = None  # images in a subset
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    copies: int | None = None  # fakes that equal a real image, or nearly; of at most 50,000
    inception_score: float | None = None  # of FAKE
    inception_score_std: float | None = None
    splits: int | None = None  # of the Inception Score
    feature_dim: int = 0  # a covariance of fewer images is rank-deficient
    sampled: dict[str, Any] | None = None  # how FAKE was sampled, where it is a run
    unknown_origin: tuple[str, ...] = ()  # inputs whose statistics name no protocol: "REAL", "FAKE"

    @property
    def prefix(self) -> str:
        """Prefix of the scores' names: "local-" or nothing."""
        return "local-" if self.local else ""

    def lines(self) -> str:
        """One line for each score with its spread, the first with the protocol line."""
        scores = [line for line in (self._fid(), self._kid(), self._prdc(), self._is()) if line]
        return "\n".join([f"{scores[0]}  [{self.protocol_line()}]", *scores[1:]])

    def protocol_line(self) -> str:
        """Everything that must be equal for two reports to compare."""
        counts = f"n_real={self.n_real or 'unknown'} n_fake={self.n_fake or 'unknown'}"
        return f"{self.origin.describe()} | {counts} | real {self.real}, fake {self.fake}"

    def document(self) -> dict[str, object]:
        """The document for --json."""
        flat = asdict(self)
        origin = flat.pop("origin") | {"protocol": self.origin.name}
        for internal in ("local", "feature_dim", "unknown_origin"):
            flat.pop(internal)
        features = "local" if self.local else "inception"
        names = {"features": features, "label": f"{self.prefix}FID"}
        return {"fid": flat.pop("fid"), **names, **flat, **origin, "line": self.protocol_line()}

    def notices(self) -> list[str]:
        """What biases the scores, or could not be verified: a sentence each."""
        return [
            *self._unknown_origins(),
            *self._few_images(),
            *self._copies(),
            *self._below_the_floor(),
            *self._unlike_images(),
        ]

    def _unknown_origins(self) -> Iterator[str]:
        for name in self.unknown_origin:
            yield (
                f"the statistics given as {name} do not say which protocol and weights made them; "
                "they must be those of the other input"
            )

    def _few_images(self) -> Iterator[str]:
        counts = (("n_real", self.n_real), ("n_fake", self.n_fake))
        few = [f"{name}={n}" for name, n in counts if n is not None and n < self.feature_dim]
        if self.fid is not None and few:
            yield (
                f"{' and '.join(few)} {'is' if len(few) == 1 else 'are'} below {self.feature_dim}: "
                "the covariance is rank-deficient and FID is biased upward; compare it with FID at "
                "the same n alone" + ("" if self.kid is None else ", or look at KID, which is not")
            )

    def _copies(self) -> Iterator[str]:
        if self.copies:
            yield (
                f"{self.copies} of FAKE equal an image of REAL, or nearly: the scores are better "
                "than those of new images would be"
            )

    def _below_the_floor(self) -> Iterator[str]:
        """Why FID is less than its floor: the floor is of fewer images, or FAKE holds REAL's."""
        n = self.fid_floor_n
        if self.fid is None or self.fid_floor is None or not n or self.fid >= self.fid_floor:
            return
        n_real, n_fake = self.n_real or n, self.n_fake or n
        # FID's bias falls about as 1/n of each side (Chong and Forsyth 2020)
        expected = self.fid_floor * (n / n_real + n / n_fake) / 2
        copies = "; FAKE may hold images of REAL, or copies" if self.fid < expected / 2 else ""
        yield (
            f"{self.prefix}FID is below its floor, which is of {n} real images against {n} others "
            f"where FID is of {n_fake} against {n_real}: at that size unlike images as good as "
            f"real have about {digits(expected)}{copies}"
        )

    def _unlike_images(self) -> Iterator[str]:
        """File formats and sizes that move the scores, whatever the images show."""
        summaries = {"REAL": self.real, "FAKE": self.fake}
        formats = {name: summary.partition(" ")[0] for name, summary in summaries.items()}
        sizes = {name: summary.partition(" ")[2] for name, summary in summaries.items()}
        if "statistics" in formats.values():
            return
        jpeg = [name for name, value in formats.items() if "jp" in value]
        if len(jpeg) == 1:
            yield f"only {jpeg[0]} is JPEG, whose artefacts alone move the scores"
        if sizes["REAL"].split()[-1:] != sizes["FAKE"].split()[-1:]:
            yield (
                f"REAL is {sizes['REAL']}, FAKE {sizes['FAKE']}: each image is resized straight to "
                "the network's size"
            )

    def _fid(self) -> str:
        if self.fid is None:
            return ""
        spread = "" if self.fid_std is None else f" +/- {digits(self.fid_std)}"
        floor = ""
        if self.fid_floor is not None:
            floor = f" (real against real at n={self.fid_floor_n}: {digits(self.fid_floor)})"
        return f"{self.prefix}FID {digits(self.fid)}{spread}{floor}"

    def _kid(self) -> str:
        if self.kid is None:
            return ""
        return (
            f"{self.prefix}KID {self.kid:.6f} +/- {self.kid_std:.6f} (subsets of {self.kid_subset})"
        )

    def _prdc(self) -> str:
        names = ("precision", "recall", "density", "coverage")
        values = [(name, getattr(self, name)) for name in names]
        scores = [f"{name} {value:.4f}" for name, value in values if value is not None]
        return f"{self.prefix}{', '.join(scores)}" if scores else ""

    def _is(self) -> str:
        if self.inception_score is None:
            return ""
        return (
            f"{self.prefix}Inception Score {self.inception_score:.4f} "
            f"+/- {self.inception_score_std:.4f} (of the fakes, {self.splits} splits)"
        )


@dataclass(frozen=True)
class InceptionScoreReport:
    """An Inception Score with everything it depends on."""

    mean: float
    std: float  # population deviation over the splits
    n: int
    splits: int
    origin: FeatureOrigin
    local: bool
    images: str
    sampled: dict[str, Any] | None = None  # how they were sampled, where they are of a run

    def line(self) -> str:
        """The score and its protocol in one line."""
        score = f"Inception Score {self.mean:.4f} +/- {self.std:.4f}"
        counts = f"n={self.n} splits={self.splits} shuffled"
        prefix = "local-" if self.local else ""
        return f"{prefix}{score}  [{self.origin.describe()} | {counts} | {self.images}]"

    def document(self) -> dict[str, object]:
        """The document for --json."""
        flat = asdict(self)
        origin = flat.pop("origin") | {"protocol": self.origin.name}
        local = flat.pop("local")
        label = f"{'local-' if local else ''}Inception Score"
        names = {"features": "local" if local else "inception", "label": label}
        return {**flat, **names, **origin}
