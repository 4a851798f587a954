"""Coarse to fine: which settings are scored, and how near to the best they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.sweep.axes import Axis, Values, grid, parse
from ddpm_cli.core.sweep.points import Point
from ddpm_cli.core.sweep.ranking import chosen, ranked, ties, told_apart
from ddpm_cli.core.sweep.search import explore, golden_section, remaining

GUIDANCE = parse("guidance", "1:3")
STEPS = parse("steps", "10,50")


@pytest.mark.parametrize("best", [0.0, 0.07, 0.31, 0.5, 0.73, 0.999, 1.0])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 8])
def test_golden_section_narrows_as_it_says_in_as_many_values(best: float, evaluations: int) -> None:
    asked = list[float]()

    def score(x: float) -> float:
        asked.append(x)
        return abs(x - best) ** 1.5

    start = min((0.0, 0.5, 1.0), key=lambda x: abs(x - best))
    bracket = (max(0.0, start - 0.5), start, min(1.0, start + 0.5))
    low, middle, high = golden_section(score, bracket, evaluations)
    assert len(asked) == evaluations + 1  # the middle's, which is known, and the others
    assert low <= best <= high and low <= middle <= high
    width = (bracket[2] - bracket[0]) * 0.6181 ** (evaluations - 1)
    assert high - low <= width + 1e-12
    assert score(middle) == min(map(score, asked[: evaluations + 1]))


def scored_by(
    function: Callable[[Values], float], *axes: Axis, refine: int = 4
) -> dict[Any, float]:
    found: dict[Any, float] = {}

    def score(values: Values) -> float:
        key = tuple(values.values())
        assert key not in found, "a setting is scored once"
        found[key] = function(values)
        return found[key]

    explore(axes, refine, score)
    return found


@pytest.mark.parametrize("best", [1.0, 1.13, 1.62, 2.0, 2.71, 3.0])
def test_a_planted_optimum_is_found_within_its_bracket(best: float) -> None:
    found = scored_by(lambda v: 3 + (v["guidance"] - best) ** 2, GUIDANCE)
    assert len(found) == 5 + 4
    # the bracket around the grid's best is of two halves, and four values leave 0.618^3 of it
    assert abs(min(found, key=lambda key: found[key])[0] - best) < 0.618**3 + 1e-3


def test_each_combination_of_other_values_is_refined_alone() -> None:
    optimum = {10: 1.4, 50: 2.6}
    found = scored_by(lambda v: (v["guidance"] - optimum[v["steps"]]) ** 2, STEPS, GUIDANCE)
    assert len(found) == 2 * (5 + 4)
    for steps, best in optimum.items():
        nearest = min((k for k in found if k[0] == steps), key=lambda key: found[key])
        assert abs(nearest[1] - best) < 0.1


def test_two_ranges_are_refined_in_turn() -> None:
    eta = parse("eta", "0:1", 3)
    found = scored_by(
        lambda v: (v["eta"] - 0.7) ** 2 + (v["guidance"] - 1.3) ** 2, eta, GUIDANCE, refine=6
    )
    assert len(found) == 15 + 2 * 6
    eta_found, guidance_found = min(found, key=lambda key: found[key])
    assert (abs(eta_found - 0.7) < 0.06, abs(guidance_found - 1.3) < 0.06) == (True, True)


def test_what_remains_is_what_is_not_known() -> None:
    function = lambda v: (v["guidance"] - 1.7) ** 2 + 1 / v["steps"]  # noqa: E731
    axes = (STEPS, GUIDANCE)
    every = scored_by(function, *axes)
    assert len(remaining(axes, 4, lambda _: None)) == len(every)
    assert remaining(axes, 4, lambda v: every[tuple(v.values())]) == []
    half = dict(list(every.items())[: len(every) // 2])
    rest = remaining(axes, 4, lambda v: half.get(tuple(v.values())))
    assert len(rest) == len(every) - len(half)


def test_values_and_ranges() -> None:
    assert parse("guidance", "1, 1.5,2") == Axis("guidance", (1.0, 1.5, 2.0))
    assert Axis("guidance", (1.0, 1.5, 2.0, 2.5, 3.0), searched=True) == GUIDANCE
    lengths = parse("sigma_rel", "0.03:0.2").values
    assert lengths == (0.03, 0.073, 0.115, 0.158, 0.2)  # as names of files have them
    assert grid((STEPS, parse("sampler", "ddim,heun")))[1] == {
        "steps": 10,
        "sampler": "heun",
    }


REFUSED = [
    ("steps", "10:50", "takes values alone"),
    ("sampler", "ddim:heun", "takes names"),
    ("guidance", "3:1", "LOW:HIGH"),
    ("guidance", "1:2:3", "LOW:HIGH"),
    ("guidance", "1:", "values such as"),
    ("guidance", "1,nan", "values such as"),
    ("guidance", "1,,2", "values such as"),
    ("guidance", "1,1.0", "1.0 twice"),
    ("steps", "1e3", "10,25,50"),
    ("sigma_rel", "0.05:0.052", "too narrow"),
]


@pytest.mark.parametrize(("name", "text", "words"), REFUSED)
def test_other_values_are_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(name, text)


def point(value: float, std: float | None, nfe: int) -> Point:
    return Point({"steps": nfe}, value, std, nfe, 1.0)


def test_within_the_noise_the_cheaper_is_chosen() -> None:
    best, near, cheap, far = (
        point(1.0, 0.2, 100), point(1.05, 0.2, 50), point(1.09, 0.2, 20), point(1.21, 0.2, 5),
    )  # fmt: skip
    points = [far, cheap, near, best]
    assert ranked(points) == [best, near, cheap, far]
    assert ties(points) == [best, near, cheap]
    assert chosen(points) == cheap
    assert not told_apart(points[1:]) and told_apart(points)
    worst = point(1.12, 0.2, 5)
    assert chosen([worst, best]) == best  # it ties, and is too far above
    # the same seeds lower both: their difference is known better than each of them
    one = Point({}, 1.0, 0.2, 100, 1.0, resamples=(0.9, 1.0, 1.1))
    other = Point({}, 1.1, 0.2, 50, 1.0, resamples=(1.01, 1.1, 1.19))
    assert ties([one, other]) == [one]
    unknown = [point(1.0, None, 100), point(1.001, None, 50)]
    assert chosen(unknown) == unknown[0]
    assert math.isclose(chosen([point(1.0, 0.1, 50), point(0.99, 0.1, 50)]).value, 0.99)
