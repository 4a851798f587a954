"""Results of other days: which belong beside each other, and why others do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.cli.scores_text import text
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.comparing import Comparison, Result
from ddpm_cli.core.metrics.drawing import series_key
from ddpm_cli.core.metrics.saved_results import compare
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.results import BASE, sampled


class Recorder(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def call(file: str, **changed: Any) -> Path:
        path = tmp_path / f"{file}.json"
        path.write_text(json.dumps(BASE | changed))
        return path

    return call


def test_equal_conditions_are_sorted(write: Any) -> None:
    paths = [write("a", fid=5.0), write("b", fid=2.0, name="runs/b"), write("c", fid=None)]
    recorder = Recorder()
    comparison = compare(paths, recorder)
    assert [result.name for result in comparison.results] == ["runs/b", "a", "c"]
    assert recorder.messages == []
    assert "n_real=50000 n_fake=10000 | real png 32x32, fake png 32x32" in comparison.line()


def test_every_reason_against_a_comparison_is_said(write: Any) -> None:
    paths = [
        write("a"),
        write("b", n_fake=50000, arithmetic="bf16", protocol="pytorch-fid-bf16"),
        write("c", weights_sha256="cd" * 32, label="local-FID", n_real=10000),
    ]
    with pytest.raises(DdpmError) as raised:
        compare(paths, Recorder())
    message = str(raised.value)
    assert message.startswith("not comparable: ")
    for reason in (
        "n_fake is 10000 of a, c, 50000 of b",
        "the protocol is pytorch-fid of a, c, pytorch-fid-bf16 of b",
        "the precision is fp32 of a, c, bf16 of b",
        f"weights (sha256) is {'ab' * 32} of a, b, {'cd' * 32} of c",
        "the score is FID of a, b, local-FID of c",
        "n_real is 50000 of a, b, 10000 of c",
    ):
        assert reason in message, message


def test_another_real_is_refused_and_an_unknown_one_is_said(write: Any) -> None:
    other = write("b", real_fingerprint=[0.5, 0.2501, 0.125])
    with pytest.raises(DdpmError, match="REAL of b is not that of a"):
        compare([write("a"), other], Recorder())
    near = write("c", real_fingerprint=[0.500001, 0.25, 0.125])  # of another device
    recorder = Recorder()
    compare([write("a"), near, write("old", real_fingerprint=None)], recorder)
    (message,) = recorder.messages
    assert message.startswith("old: an earlier version wrote this")


def test_a_fingerprint_tells_images_apart_but_not_rounding() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.gamma(2.0, 0.2, (5000, 2048)) for _ in range(2))
    prints = [
        Statistics(x.mean(axis=0), np.eye(2048), 5000).fingerprint
        for x in (one, one.astype(np.float32).astype(float)[::-1], other)
    ]
    assert prints[1] == pytest.approx(prints[0], rel=1e-6)
    apart = [abs(a - b) / a for a, b in zip(prints[0], prints[2], strict=True)]
    assert max(apart) > 1e-4  # of as many images of one distribution, the most alike there are
    assert len(Statistics(np.ones(3), np.eye(3), 5).fingerprint) == 3


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "null", '{"results": [3]}', '{"results": []}', "[" * 100_000, "\x00",
        json.dumps(BASE | {"fid": "low"}), json.dumps(BASE | {"n_fake": [1]}),
        json.dumps(BASE | {"sampled": [1]}), json.dumps(BASE | {"fid": 1e999}),
        json.dumps(BASE | {"real_fingerprint": 3}), json.dumps(BASE | {"name": {}}),
        json.dumps(BASE | {"line": 3}),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DdpmError, match=r"x\.json"):
        compare([path], Recorder())


def test_a_file_named_twice_and_equal_names(write: Any) -> None:
    path = write("a", name="fake")
    with pytest.raises(UsageError, match=r"a\.json is named more than once"):
        compare([path, path], Recorder())
    names = [r.name for r in compare([path, write("b", name="fake")], Recorder()).results]
    assert [Path(name.partition("(")[2]).name for name in names] == ["a.json)", "b.json)"]
    odd = compare([write("c", name="x\n\x1b[31my")], Recorder())
    assert odd.results[0].name == "x??[31my"


def test_no_text_of_a_file_holds_control_characters(write: Any) -> None:
    odd = "x\x1b[31m\ny"
    texts = dict.fromkeys(("line", "real", "fake", "label", "protocol", "weights_sha256"), odd)
    settings = {odd: 1, "conditions": [odd, {odd: odd}]}
    path = write("a", sampled=settings, classes=[{"class": odd}], **texts)
    comparison = compare([path], Recorder())
    assert "\\u001b" not in json.dumps(comparison.document({}))
    (document,) = comparison.document({})["results"]
    assert document["sampled"] == {
        "x?[31m?y": 1,
        "conditions": ["x?[31m?y", {"x?[31m?y": "x?[31m?y"}],
    }
    assert document["classes"] == [{"class": "x?[31m?y"}]
    with pytest.raises(DdpmError) as raised:
        compare([write("a", protocol=odd), write("b")], Recorder())
    assert "\x1b" not in str(raised.value)


def test_what_does_not_depend_on_n_is_compared_at_unlike_n(write: Any) -> None:
    only = {"fid": None, "fid_std": None}
    fewer = {"n_fake": 500, **only}
    for score in ("kid", "fid_infinity", "precision"):
        paths = [write("a", **only, **{score: 0.3}), write("b", **fewer, **{score: 0.2})]
        comparison = compare(paths, Recorder())
        assert (comparison.by.key, len(comparison.groups)) == (score, 1)
        assert "n_fake" not in comparison.line()
    for score in ("fid", "sfid", "mind", "cmmd", "recall", "coverage", "inception_score"):
        paths = [write("a", **only | {score: 0.3}), write("b", **fewer | {score: 0.2})]
        with pytest.raises(
            DdpmError, match=r"n_fake is 10000 of a, 500 of b, and .* depends on it"
        ):
            compare(paths, Recorder())


def test_notices_of_files_are_said_once(write: Any) -> None:
    recorder = Recorder()
    compare([write("a", notices=["few"]), write("b", notices=["few"])], recorder)
    assert recorder.messages == ["a, b: few"]


def test_another_real_is_said_beside_its_number(write: Any) -> None:
    with pytest.raises(DdpmError, match=r"n_real is .*; REAL of b is not that of a"):
        compare([write("a"), write("b", n_real=7, real_fingerprint=[9.0])], Recorder())


def test_a_folder_is_no_file_of_results(tmp_path: Path) -> None:
    with pytest.raises(DdpmError, match="--compare takes files written by --json or --out"):
        compare([tmp_path], Recorder())


def test_what_a_file_does_not_say_is_said(write: Any) -> None:
    recorder = Recorder()
    unknown = write("b", protocol=None, weights_sha256=None)
    foreign = write("c", unknown_origin=["FAKE"])
    compare([write("a"), unknown, foreign], recorder)
    assert recorder.messages == [
        "b: the file does not say the protocol, the feature network's weights (sha256): whether "
        "they are the same for all is not known",
        "c: FAKE was statistics that do not say which protocol and weights made them, so they may "
        "be others than the line says",
    ]


def test_what_scores_are_drawn_against() -> None:
    by_images = [sampled("1", images_seen=10), sampled("2", images_seen=20)]
    assert series_key(Comparison(by_images)) == "images_seen"
    one = {"weights": "w", "weights_sha256": "w"}
    by_guidance = [sampled("1", **one, guidance=1.0), sampled("2", **one, guidance=2.0)]
    assert series_key(Comparison(by_guidance)) == "guidance"
    both = [*by_guidance, sampled("3", images_seen=5, guidance=3.0)]
    assert series_key(Comparison(both)) == "guidance"
    assert series_key(Comparison([*by_images, sampled("3", steps=10)])) == ""
    assert series_key(Comparison([*by_images, Result("files", BASE)])) == ""
    fewer = sampled("3", images_seen=30)
    fewer.document["n_fake"] = 5
    assert series_key(Comparison([*by_images, fewer])) == ""


def test_results_without_fid_are_sorted_by_what_all_have() -> None:
    recalls = [Result(str(r), BASE | {"fid": None, "recall": r}) for r in (0.2, 0.9, 0.5)]
    comparison = Comparison(recalls)
    assert comparison.by.key == "recall"
    assert [result.name for result in comparison.results] == ["0.9", "0.5", "0.2"]


def test_a_narrow_terminal_has_images_seen_rather_than_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = [sampled(f"snapshots/{n}", images_seen=n) for n in (10, 20)]
    for result in results:
        result.document.update(kid=0.1, precision=0.5, recall=0.5, density=0.5, coverage=0.5)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = text(Comparison(results))
    assert "IMAGES SEEN" in narrow and "█" not in narrow and "COVERAGE" not in narrow
