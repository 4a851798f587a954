"""Scores of several fakes beside each other, also of other days: read, checked, sorted, drawn.

Of documents of `ddpm fid --json` alone, without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from ddpm_cli.core.config.choices import score_name
from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.runtime.files import read_json
from ddpm_cli.core.runtime.json_lines import number
from ddpm_cli.core.runtime.reporting import Reporter, Warned

_SAME_REAL = 1e-4  # relative difference of fingerprints: devices differ by 1e-5, images by more
OF_WEIGHTS = ("weights", "weights_sha256", "images_seen")  # of `sampled`: not how, but from what
_AGREE = {  # keys that must be equal for results to be compared, and what each is
    "label": "the score",
    "features": "the feature network (--features)",
    "protocol": "the protocol",
    "weights_sha256": "the feature network's weights (sha256)",
    "arithmetic": "the precision",
    "n_real": "n_real",
    "n_fake": "n_fake",
}


_LISTS = ("real_fingerprint", "classes", "fid_infinity_sizes", "fid_infinity_fids")
_TEXTS = ("name", "label", "features", "protocol", "line", "real", "fake")
_KEYS = {"protocol", "n_fake", "n_real", "line"}  # of every result


class Column(NamedTuple):
    """A score: its keys in a document, and its name in a table."""

    key: str
    title: str
    spread: str = ""  # the key of its standard error
    higher: bool = False  # is better
    digits: int = 4  # after the point


COLUMNS = (  # in a table; results are sorted by the first that all of them have
    Column("fid", "FID", "fid_std"),
    Column("sfid", "sFID"),
    Column("fid_infinity", "FID-infinity", "fid_infinity_std"),
    Column("kid", "KID", "kid_std", digits=6),
    Column("mind", "MIND"),
    Column("cmmd", "CMMD"),
    Column("precision", "precision", higher=True),
    Column("recall", "recall", higher=True),
    Column("density", "density", higher=True),
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
        return str(weights.parent.parent if weights.parent.name == "snapshots" else weights.parent)


class Comparison:
    """Results in one feature space, best first; those of unlike n are ranked apart."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.by = next(
            (c for c in COLUMNS if all(r.value(c.key) is not None for r in results)), COLUMNS[0]
        )
        counts = Counter(result.n for result in results)
        order = sorted(counts, key=lambda n: (-counts[n], -(n or 0)))  # the most usual n first
        self.groups = {n: sorted((r for r in results if r.n == n), key=self._rank) for n in order}

    def _rank(self, result: Result) -> float:
        value = result.value(self.by.key)
        assert value is not None or self.by is COLUMNS[0]
        if value is None:
            return float("inf")
        return -value if self.by.higher else value

    @property
    def results(self) -> list[Result]:
        """All of them, group by group."""
        return [result for group in self.groups.values() for result in group]

    @property
    def label(self) -> str:
        """The name of what they are sorted by, in their features: "FID", "local-FID"."""
        label = str(self.results[0].document.get("label") or COLUMNS[0].title)
        return label if self.by is COLUMNS[0] else self.title(self.by)

    def title(self, column: Column) -> str:
        """The name of a score, in the features of these results."""
        if column.title.islower():  # of precision and the like
            return column.title
        return score_name(column.title, self.results[0].document.get("features"))

    def floor(self, n: int | None) -> tuple[float, int] | None:
        """FID of real images against others, and of how many, for the fakes of this n."""
        for result in self.groups[n]:
            floor, of = result.value("fid_floor"), result.document.get("fid_floor_n")
            if floor is not None and self.by is COLUMNS[0]:
                return floor, of or 0
        return None

    def line(self) -> str:
        """The protocol line, with what all have in common."""
        first = self.results[0].document
        origin = str(first.get("line", "")).partition(" | n_real=")[0]
        parts = [f"n_real={first.get('n_real') or 'unknown'}"]
        if len(self.groups) == 1:
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


def compare(paths: Sequence[Path], reporter: Reporter) -> Comparison:
    """The results in files, beside each other.

    Raises DdpmError for unlike ones, with every reason.
    """
    results = read(paths)
    if reasons := conflicts(results):
        raise DdpmError(f"not comparable: {'; '.join(reasons)}")
    unknown = [r.name for r in results if not r.document.get("real_fingerprint")]
    if unknown and len(results) > 1:
        reporter.say(
            Warned(
                f"{listed(unknown, 3)}: an earlier version wrote this, without what tells whether "
                "REAL was the same images"
            )
        )
    return Comparison(results)


def read(paths: Sequence[Path]) -> list[Result]:
    """The results in files of `ddpm fid --json`, of one fake or several each.

    Raises DdpmError for other files, and UsageError for a file that is named twice.
    """
    twice = [path for path, times in Counter(map(str, paths)).items() if times > 1]
    if twice:
        raise UsageError(f"--compare: {listed(twice)} is named more than once")
    return _told_apart([result for path in paths for result in _read(path)])


def _read(path: Path) -> Iterator[Result]:
    try:
        document = read_json(path)
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file") from error
    except OSError as error:
        raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DdpmError(
            f"{path} is no JSON file, such as ddpm fid --json prints: {error}"
        ) from error
    several = document.get("results") if isinstance(document, dict) else None
    for flat in several if several and isinstance(several, list) else [document]:
        if (
            not isinstance(flat, dict)
            or not {"protocol", "n_fake", "n_real", "line"} <= flat.keys()
        ):
            raise DdpmError(f"{path} holds no result of ddpm fid --json")
        _check(flat, path)
        flat.setdefault("provenance", document.get("provenance"))
        yield Result(_printable(flat.get("name") or path.stem), flat, str(path))


def _check(flat: dict[str, Any], path: Path) -> None:
    """Raise DdpmError where a value is of another kind than ours are."""
    numbers = ("n_fake", "n_real", "fid_floor", "fid_floor_n")
    for key in (*numbers, *(c.key for c in COLUMNS), *(c.spread for c in COLUMNS if c.spread)):
        if flat.get(key) is not None and number(flat[key]) is None:
            raise DdpmError(f"{path}: {key} is no number, so it is no result of ddpm fid --json")
    kinds = {"sampled": dict} | dict.fromkeys(_LISTS, list) | dict.fromkeys(_TEXTS, str)
    for key, kind in kinds.items():
        if flat.get(key) is not None and not isinstance(flat[key], kind):
            raise DdpmError(f"{path}: {key} is no {kind.__name__}: no result of ddpm fid --json")


def _printable(name: str) -> str:
    """A name in one line, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _told_apart(results: Sequence[Result]) -> list[Result]:
    """With the file in those names that would be the same, and a number in those of one file."""
    times, places = Counter(r.name for r in results), Counter[tuple[str, str]]()
    renamed = []
    for result in results:
        name = result.name
        if times[name] > 1:
            places[name, result.place] += 1
            place = places[name, result.place]
            name += f" ({result.place}{f', {place}' if place > 1 else ''})"
        renamed.append(Result(name, result.document, result.place))
    return renamed


def conflicts(results: Sequence[Result]) -> list[str]:
    """Why results cannot be compared: every key that differs, with the values and their names."""
    reasons = {}
    for key, what in _AGREE.items():
        values: dict[str, list[str]] = {}
        for result in results:
            if (
                value := result.document.get(key)
            ) is not None:  # unknown: another tool's statistics
                values.setdefault(str(value), []).append(result.name)
        if len(values) > 1:
            said = (f"{value} of {listed(names, 2)}" for value, names in values.items())
            reasons[key] = f"{what} is {', '.join(said)}"
    known = [(r.name, print_) for r in results if (print_ := r.document.get("real_fingerprint"))]
    others = [name for name, print_ in known[1:] if not _same(known[0][1], print_)]
    if others and reasons.keys() <= {"n_fake"}:  # in unlike features any images differ
        reasons["real"] = f"REAL of {listed(others, 2)} is not that of {known[0][0]}"
    return list(reasons.values())


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(
        isclose(number(a) or 0.0, number(b) or 0.0, rel_tol=_SAME_REAL, abs_tol=1e-12)
        for a, b in zip(one, other, strict=True)
    )
