"""Scores by class: the same as of the images of a class alone, and what cannot be computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_cli.cli import class_tables
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.by_class import ByClass, Side, by_class
from ddpm_cli.core.metrics.scores.frechet import RootGaussian, frechet_distance
from ddpm_cli.core.metrics.scores.inception_score import inception_score
from ddpm_cli.core.metrics.scores.kid import squared_mmd
from ddpm_cli.core.runtime.reporting import SILENT

NAMES = ("ant", "bee", "cat", "dog")
D = 6


def store(rows: np.ndarray) -> FeatureStore:
    result = FeatureStore(rows.shape[1])
    result.append(torch.from_numpy(rows))
    return result


def side(counts: dict[int, int], seed: int, scale: float = 1.0) -> tuple[Side, np.ndarray]:
    """Shuffled features of so many images of each class, farther out the higher its index."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation([label for label, n in counts.items() for _ in range(n)])
    rows = (rng.standard_normal((len(labels), D)) * (1 + scale * labels[:, None])).astype("f4")
    return Side(store(rows), labels.astype(np.int64)), rows


def scored(real: Side, fake: Side, **groups: list[str]) -> ByClass:
    return by_class(real, fake, NAMES, groups, None, SILENT)


def test_each_class_has_the_scores_of_its_images_alone() -> None:
    """With fewer images than features, as many, and more; the formula is numpy's covariance."""
    real, x = side({0: 40, 1: 5, 2: 6, 3: 30}, 0)
    fake, y = side({0: 30, 1: 4, 2: 50, 3: 5}, 1, scale=1.7)
    result = scored(real, fake)
    entries = {entry.name: entry for entry in result.classes}
    assert set(entries) == set(NAMES)
    for label, name in enumerate(NAMES):
        a, b = x[real.labels == label].astype(float), y[fake.labels == label].astype(float)
        fid = frechet_distance(
            a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
        )
        assert entries[name].fid == pytest.approx(fid, rel=1e-6), name
        assert (entries[name].n_real, entries[name].n_fake) == (len(a), len(b))

        def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return (u @ v.T / D + 1) ** 3

        n, m = len(b), len(a)
        within = (
            kernel(b, b).sum() - np.trace(kernel(b, b)),
            kernel(a, a).sum() - np.trace(kernel(a, a)),
        )
        mmd = within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * kernel(b, a).mean()
        assert entries[name].kid == pytest.approx(mmd, rel=1e-9), name
    fids = [entry.fid for entry in result.classes]
    assert fids == sorted(fids, reverse=True)
    assert result.worst == result.classes[0]
    assert result.document()["worst_class"] == result.classes[0].name


def test_kid_of_many_images_is_of_1000() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1100, D)).astype("f4")
    one = Side(store(rows), np.zeros(1100, np.int64))
    kid = by_class(one, one, ("a",), {}, None, SILENT).classes[0].kid
    chosen = torch.from_numpy(rows[np.sort(np.random.RandomState(2020).permutation(1100)[:1000])])
    assert kid == pytest.approx(squared_mmd(chosen, chosen), rel=1e-9)


def test_a_class_without_two_images_is_reported_last() -> None:
    real, _ = side({0: 10, 1: 10, 3: 10}, 0)
    fake, _ = side({0: 10, 1: 1, 2: 10, 3: 10}, 1)
    result = scored(real, fake)
    assert [entry.name for entry in result.classes[2:]] == ["bee", "cat"]
    assert [(entry.fid, entry.kid) for entry in result.classes[2:]] == [(None, None)] * 2
    text = " ".join(result.notices(str))
    assert (
        "no FID without 2 images on each side: bee (10 real, 1 fake), cat (0 real, 10 fake)" in text
    )
    lines = class_tables.text(result.document()).splitlines()
    line = next(line for line in lines if line.startswith("bee"))
    assert line.split() == ["bee", "10", "1", "-", "-"]
    entry = result.document()["classes"][-1]  # type: ignore[index]
    assert entry == {"class": "cat", "n_real": 0, "n_fake": 10, "fid": None, "kid": None}
    nothing = scored(real, Side(fake.features, np.full(31, -1)))
    assert nothing.worst is None
    assert nothing.document()["worst_class"] is None


def test_identical_constant_and_pairs_of_images() -> None:
    real, rows = side({0: 2, 1: 20}, 0)
    same = {entry.name: entry.fid for entry in scored(real, real).classes if entry.n_real}
    assert same == {"ant": pytest.approx(0, abs=1e-6), "bee": pytest.approx(0, abs=1e-6)}
    ones = Side(store(np.ones((22, D), "f4")), real.labels)
    twos = Side(store(np.full((22, D), 2, "f4")), real.labels)
    for entry in scored(ones, twos).classes[:2]:
        assert entry.fid == pytest.approx(D, rel=1e-9)  # of the means alone
    pair = rows[real.labels == 0].astype(float)
    expected = np.cov(pair, rowvar=False).trace() + np.square(pair.mean(axis=0) - 1).sum()
    against = {entry.name: entry.fid for entry in scored(real, ones).classes}
    assert against["ant"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(3, 5), (9, 4), (30, 30), (3, 30)])
def test_roots_give_the_distance_of_covariances(n: int, m: int) -> None:
    a, b = (torch.randn(k, D, generator=torch.Generator().manual_seed(k)) for k in (n, m + 100))
    b = b[:m]
    expected = frechet_distance(
        *(part for x in (a, b) for part in (x.double().mean(0).numpy(), np.cov(x.double().T)))
    )
    value = RootGaussian.of_rows(a).distance(RootGaussian.of_rows(b))
    assert value == pytest.approx(expected, rel=1e-6)


def test_groups_are_of_all_images_of_their_classes() -> None:
    real, x = side({0: 12, 1: 12, 2: 12}, 0)
    fake, y = side({0: 9, 1: 14, 2: 11, 3: 1}, 1, scale=1.5)
    logits = np.random.default_rng(5).standard_normal((len(y), 7)).astype("f4")
    groups = {"small": ["ant", "bee"], "one": ["dog"]}
    result = by_class(real, fake, NAMES, groups, store(logits), SILENT)
    small, one = result.groups
    a, b = x[real.labels < 2].astype(float), y[fake.labels < 2].astype(float)
    fid = frechet_distance(
        a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
    )
    assert small.fid == pytest.approx(fid, rel=1e-6)
    assert (small.n_real, small.n_fake, small.classes) == (24, 23, ("ant", "bee"))
    chosen = logits[fake.labels < 2]
    mean, std = inception_score(lambda rows: chosen[rows], len(chosen), 10)
    assert (small.inception_score, small.inception_score_std) == pytest.approx((mean, std))
    assert (one.fid, one.inception_score, one.n_fake) == (None, None, 1)
    text = class_tables.text(result.document()).splitlines()
    assert any(line.startswith("small (ant, bee)") and "+/-" in line for line in text)
    assert any(line.endswith("(10 splits)") for line in text)
    assert (small.splits, one.splits) == (10, None)
    assert "of a group is at most the number of images of a split (small 2)" in " ".join(
        result.notices(str)
    )
    without = by_class(real, fake, NAMES, groups, None, SILENT).groups[0]
    assert (without.fid, without.inception_score) == (pytest.approx(fid, rel=1e-6), None)


def test_several_classes_an_image() -> None:
    """An image counts for each class that it has, and once for a group of them."""
    rows = np.random.default_rng(0).standard_normal((8, D)).astype("f4")
    labels = np.array([[1, 1, 0, 0]] * 3 + [[0, 1, 0, 0]] * 3 + [[0, 0, 0, 0]] * 2)
    both = Side(store(rows), labels)
    result = by_class(both, both, NAMES, {"all": NAMES}, None, SILENT)
    counts = {entry.name: entry.n_real for entry in result.classes}
    assert counts == {"ant": 3, "bee": 6, "cat": 0, "dog": 0}
    assert result.groups[0].n_real == 6


def test_of_many_classes_the_table_has_the_worst() -> None:
    real, _ = side({0: 60}, 0)
    names = [f"c{i}" for i in range(60)]
    spread = Side(real.features, np.arange(60) % 30)
    result = by_class(spread, spread, names, {}, None, SILENT)
    lines = class_tables.text(result.document()).splitlines()
    assert len(lines) == 52
    assert lines[-1] == "and 10 more classes, which --json has"
    assert len(result.document()["classes"]) == 60  # type: ignore[arg-type]


def test_what_unequal_and_small_classes_mean_is_said() -> None:
    real, _ = side({0: 10, 1: 4}, 0)
    few = " ".join(scored(real, real).notices(str))
    assert "1 of 2 classes have fewer than 6 images on a side: their FID is biased upward" in few
    assert "which are unequal here; KID is not biased" in few
    many, _ = side({0: 10, 1: 10}, 0)
    assert "fewer" not in " ".join(scored(many, many).notices(str))
