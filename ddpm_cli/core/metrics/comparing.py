"""Scores of several fakes beside each other, also of other days: sorted, and their table.

Of documents of `ddpm fid --json` alone, without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from ddpm_cli.core.config.choices import score_name
from ddpm_cli.core.runtime.json_lines import number
from ddpm_cli.core.runtime.run_directory import FOLDERS_OF_WEIGHTS

# Of `sampled`: not how, but from what.
OF_WEIGHTS = ("weights", "weights_sha256", "images_seen", "sigma_rel")


class Column(NamedTuple):
    """A score: its keys in a document, and its name in a table."""

    key: str
    title: str
    spread: str = ""  # the key of its standard error
    higher: bool = False  # is better
    digits: int = 4  # after the point
    of_n: bool = True  # whether its expected value depends on the number of fakes


COLUMNS = (  # in a table; results are sorted by the first that all of them have
    Column("fid", "FID", "fid_std"),
    Column("sfid", "sFID"),
    Column("fid_infinity", "FID-infinity", "fid_infinity_std", of_n=False),
    Column("kid", "KID", "kid_std", digits=6, of_n=False),
    Column("mind", "MIND"),
    Column("cmmd", "CMMD"),
    Column("precision", "precision", higher=True, of_n=False),  # a mean over fakes, as density
    Column("recall", "recall", higher=True),
    Column("density", "density", higher=True, of_n=False),
    Column("coverage", "coverage", higher=True),
    Column("inception_score", "IS", "inception_score_std", higher=True),
)


@dataclass(frozen=True)
class Result:
    """The document of one fake."""

    name: str
    document: dict[str, Any]
    place: str = ""  # the file that it was read from

    def value(self, key: str) -> float | None:
        """A score; None where it was not computed."""
        return number(self.document.get(key))

    @property
    def n(self) -> int | None:
        """Images of the fake."""
        return self.document.get("n_fake")

    @property
    def sampled(self) -> dict[str, Any]:
        """How the fake was sampled; empty where it is no run."""
        return self.document.get("sampled") or {}

    @property
    def run(self) -> str:
        """The run whose weights were sampled, or else the weights file."""
        weights = PurePath(str(self.sampled.get("weights") or ""))
        folder = weights.parent
        return str(folder.parent if folder.name in FOLDERS_OF_WEIGHTS else folder)


class Comparison:
    """Results in one feature space, best first; of unlike n apart where the score depends on it."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.by = sorted_by(results)
        counts = Counter(result.n for result in results)
        self.counts = sorted(counts, key=lambda n: (-counts[n], -(n or 0)))  # the most usual first
        apart = [[r for r in results if r.n == n] for n in self.counts]
        groups = apart if self.by.of_n else [list(results)]
        self.groups = [sorted(group, key=self._rank) for group in groups]

    def _rank(self, result: Result) -> float:
        value = result.value(self.by.key)
        assert value is not None or self.by is COLUMNS[0]
        if value is None:
            return float("inf")
        return -value if self.by.higher else value

    @property
    def results(self) -> list[Result]:
        """All of them, group by group."""
        return [result for group in self.groups for result in group]

    @property
    def label(self) -> str:
        """The name of what they are sorted by, in their features: "FID", "local-FID"."""
        label = str(self.results[0].document.get("label") or COLUMNS[0].title)
        return label if self.by is COLUMNS[0] else self.title(self.by)

    def title(self, column: Column) -> str:
        """The name of a score, in the features of these results."""
        return titled(column, self.results)

    def of_n(self, *, depending: bool) -> list[str]:
        """The names of the scores that there are which depend on the number of fakes, or do not."""
        return [
            self.title(column)
            for column in COLUMNS
            if column.of_n == depending
            and any(r.value(column.key) is not None for r in self.results)
        ]

    def floor(self, group: Sequence[Result]) -> tuple[float, int] | None:
        """FID of real images against others, and of how many, for one of the groups."""
        for result in group:
            floor, of = result.value("fid_floor"), result.document.get("fid_floor_n")
            if floor is not None and self.by is COLUMNS[0]:
                return floor, of or 0
        return None

    def line(self) -> str:
        """The protocol line, with what all have in common."""
        first = self.results[0].document
        origin = str(first.get("line", "")).partition(" | n_real=")[0]
        parts = [f"n_real={first.get('n_real') or 'unknown'}"]
        if len(self.counts) == 1:
            parts.append(f"n_fake={first.get('n_fake') or 'unknown'}")
        formats = [f"real {first.get('real')}"]
        if len(fakes := {result.document.get("fake") for result in self.results}) == 1:
            formats.append(f"fake {fakes.pop()}")
        return " | ".join((origin, " ".join(parts), ", ".join(formats)))

    def differing(self) -> dict[str, list[Any]]:
        """Settings of sampling that are not the same for all, with their values."""
        keys = dict.fromkeys(key for result in self.results for key in result.sampled)
        values = {key: [result.sampled.get(key) for result in self.results] for key in keys}
        return {
            key: column
            for key, column in values.items()
            if any(value != column[0] for value in column)
        }

    def document(self, failed: dict[str, str]) -> dict[str, Any]:
        """The document for --json of several fakes. failed: why others have no scores, by name."""
        return {
            "sorted_by": self.by.key,
            "line": self.line(),
            "results": [{"name": r.name} | r.document for r in self.results],
            "failed": [{"name": name, "error": error} for name, error in failed.items()],
        }


def sorted_by(results: Sequence[Result]) -> Column:
    """The first score that all of them have."""
    common = (c for c in COLUMNS if all(r.value(c.key) is not None for r in results))
    return next(common, COLUMNS[0])


def titled(column: Column, results: Sequence[Result]) -> str:
    """The name of a score, in the features of these results."""
    if column.title.islower():  # of precision and the like
        return column.title
    return score_name(column.title, results[0].document.get("features"))
