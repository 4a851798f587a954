"""What was found, with all that it depends on: as lines to read and as a document for --json."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ddpm_cli.core.metrics.statistics import FeatureOrigin


@dataclass(frozen=True)
class Report:
    """The scores of FAKE against REAL. None: not asked for, or not known."""

    origin: FeatureOrigin
    local: bool  # in a local classifier's features: no FID, and labelled so everywhere
    n_real: int | None  # None: the statistics file does not say
    n_fake: int | None
    real: str  # what the pictures were: "png 32x32"
    fake: str
    fid: float | None = None
    fid_std: float | None = None  # block jackknife over the fakes
    fid_floor: float | None = None  # real against other real, of fid_floor_n pictures each
    fid_floor_n: int | None = None
    kid: float | None = None
    kid_std: float | None = None  # over the subsets
    kid_subset: int | None = None  # pictures in a subset
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    inception_score: float | None = None  # of FAKE
    inception_score_std: float | None = None
    splits: int | None = None  # of the Inception Score

    @property
    def prefix(self) -> str:
        """What stands before the scores' names."""
        return "local-" if self.local else ""

    def lines(self) -> str:
        """Every score with its spread, the first with the protocol line."""
        scores = [
            line for line in (self._fid(), self._kid(), self._neighbours(), self._is()) if line
        ]
        return "\n".join([f"{scores[0]}  [{self.protocol_line()}]", *scores[1:]])

    def protocol_line(self) -> str:
        """All that must be equal for two reports to compare."""
        counts = f"n_real={self.n_real or 'unknown'} n_fake={self.n_fake or 'unknown'}"
        return f"{self.origin.words()} | {counts} | real {self.real}, fake {self.fake}"

    def document(self) -> dict[str, object]:
        """The same for --json."""
        flat = asdict(self)
        origin = flat.pop("origin")
        flat.pop("local")
        features = "local" if self.local else "inception"
        names = {"features": features, "label": f"{self.prefix}FID"}
        return {"fid": flat.pop("fid"), **names, **flat, **origin, "line": self.protocol_line()}

    def _fid(self) -> str:
        if self.fid is None:
            return ""
        spread = "" if self.fid_std is None else f" +/- {self.fid_std:.4f}"
        floor = ""
        if self.fid_floor is not None:
            floor = f" (real against real at n={self.fid_floor_n}: {self.fid_floor:.4f})"
        return f"{self.prefix}FID {self.fid:.4f}{spread}{floor}"

    def _kid(self) -> str:
        if self.kid is None:
            return ""
        return (
            f"{self.prefix}KID {self.kid:.6f} +/- {self.kid_std:.6f} (subsets of {self.kid_subset})"
        )

    def _neighbours(self) -> str:
        names = ("precision", "recall", "density", "coverage")
        values = [(name, getattr(self, name)) for name in names]
        found = [f"{name} {value:.4f}" for name, value in values if value is not None]
        return f"{self.prefix}{', '.join(found)}" if found else ""

    def _is(self) -> str:
        if self.inception_score is None:
            return ""
        return (
            f"{self.prefix}Inception Score {self.inception_score:.4f} "
            f"+/- {self.inception_score_std:.4f} (of the fakes, {self.splits} splits)"
        )


@dataclass(frozen=True)
class InceptionScoreReport:
    """An Inception Score and all that it depends on."""

    mean: float
    std: float  # population deviation over the splits
    n: int
    splits: int
    origin: FeatureOrigin
    local: bool
    images: str

    def line(self) -> str:
        """The score and its protocol in one line."""
        how = f"n={self.n} splits={self.splits} shuffled"
        score = f"Inception Score {self.mean:.4f} +/- {self.std:.4f}"
        prefix = "local-" if self.local else ""
        return f"{prefix}{score}  [{self.origin.words()} | {how} | {self.images}]"

    def document(self) -> dict[str, object]:
        """The same for --json."""
        flat = asdict(self)
        origin = flat.pop("origin")
        local = flat.pop("local")
        label = f"{'local-' if local else ''}Inception Score"
        names = {"features": "local" if local else "inception", "label": label}
        return {**flat, **names, **origin}
