"""Results of other days: their files read and checked, and whether they compare.

Of documents of `ddpm fid --json` alone, without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.metrics.comparing import COLUMNS, Column, Comparison, Result, sorted_by, titled
from ddpm_cli.core.runtime.files import read_json
from ddpm_cli.core.runtime.json_lines import number
from ddpm_cli.core.runtime.reporting import Reporter, Warned

_SAME_REAL = 1e-4  # relative difference of fingerprints: devices differ by 1e-5, images by more
_AGREE = {  # keys that must be equal for results to be compared, and what each is
    "label": "the score",
    "features": "the feature network (--features)",
    "protocol": "the protocol",
    "weights_sha256": "the feature network's weights (sha256)",
    "arithmetic": "the precision",
    "n_real": "n_real",
    "n_fake": "n_fake",
}

_LISTS = (
    "real_fingerprint",
    "unknown_origin",
    "notices",
    "classes",
    "groups",
    "fid_infinity_sizes",
    "fid_infinity_fids",
)
_TEXTS = ("name", "label", "features", "protocol", "line", "real", "fake")


def compare(paths: Sequence[Path], reporter: Reporter) -> Comparison:
    """The results in files, beside each other.

    Raises DdpmError for unlike ones, with every reason.
    """
    results = read(paths)
    if reasons := conflicts(results):
        raise DdpmError(f"not comparable: {'; '.join(reasons)}")
    if len(results) > 1:
        for notice in _unknown(results):
            reporter.say(Warned(notice))
    for notice, names in _notices(results).items():
        reporter.say(Warned(f"{listed(names, 3)}: {notice}"))
    return Comparison(results)


def _notices(results: Sequence[Result]) -> dict[str, list[str]]:
    """What biases the scores, as the files say, and of which of them."""
    found: dict[str, list[str]] = {}
    for result in results:
        for notice in result.document.get("notices") or []:
            found.setdefault(str(notice), []).append(result.name)
    return found


def _unknown(results: Sequence[Result]) -> Iterator[str]:
    """What cannot be compared, as some of the results do not say it."""
    if unknown := [r.name for r in results if not r.document.get("real_fingerprint")]:
        yield (
            f"{listed(unknown, 3)}: an earlier version wrote this, without what tells whether "
            "REAL was the same images"
        )
    agree = _must_agree(sorted_by(results))
    missing: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        what = tuple(what for key, what in agree.items() if result.document.get(key) is None)
        missing.setdefault(what, []).append(result.name)
    for what, names in missing.items():
        if what:
            yield (
                f"{listed(names, 3)}: the file does not say {listed(what, len(what))}: whether "
                f"{'it is' if len(what) == 1 else 'they are'} the same for all is not known"
            )
    for side in ("REAL", "FAKE"):
        if of := [r.name for r in results if side in _unknown_origin(r)]:
            yield (
                f"{listed(of, 3)}: {side} was statistics that do not say which protocol and "
                "weights made them, so they may be others than the line says"
            )


def _unknown_origin(result: Result) -> Sequence[str]:
    """Sides of unknown origin, where the notices of the file do not say so."""
    return [] if result.document.get("notices") else result.document.get("unknown_origin") or []


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
    except IsADirectoryError as error:
        raise DdpmError(
            f"{path} is a run or another folder; --compare takes files written by --json or --out"
        ) from error
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
        provenance = flat.pop("provenance", document.get("provenance"))
        shown = _printable(flat) | {"provenance": provenance}
        yield Result(shown.get("name") or _printable(path.stem), shown, _printable(str(path)))


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


def _printable(value: Any) -> Any:
    """The same value, its texts and keys in one line and without control characters."""
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "?" for character in value)
    return value


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
    by = sorted_by(results)
    for key, what in _must_agree(by).items():
        values: dict[str, list[str]] = {}
        for result in results:
            if (
                value := result.document.get(key)
            ) is not None:  # unknown: another tool's statistics
                values.setdefault(str(value), []).append(result.name)
        if len(values) > 1:
            said = (f"{value} of {listed(names, 2)}" for value, names in values.items())
            depends = f", and {titled(by, results)} depends on it" if key == "n_fake" else ""
            reasons[key] = f"{what} is {', '.join(said)}{depends}"
    known = [(r.name, print_) for r in results if (print_ := r.document.get("real_fingerprint"))]
    others = [name for name, print_ in known[1:] if not _same(known[0][1], print_)]
    if others and reasons.keys() <= {"n_fake", "n_real"}:  # in unlike features any images differ
        reasons["real"] = f"REAL of {listed(others, 2)} is not that of {known[0][0]}"
    return list(reasons.values())


def _must_agree(by: Column) -> dict[str, str]:
    """The keys that must be equal for results that are sorted by this score."""
    return {key: what for key, what in _AGREE.items() if by.of_n or key != "n_fake"}


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(
        isclose(number(a) or 0.0, number(b) or 0.0, rel_tol=_SAME_REAL, abs_tol=1e-12)
        for a, b in zip(one, other, strict=True)
    )
