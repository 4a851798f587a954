"""`ddpm sweep`: its points, its forecast, resuming, and the default that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cli.core.checkpoints import post_hoc, tensors, weights
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.generation.run_images import RunImages
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.sweep import forecast, results, swept_model
from ddpm_cli.core.sweep.forecast import Rates
from ddpm_cli.core.sweep.scoring import Score, Scorer
from ddpm_cli.core.sweep.settings import SweptSettings
from ddpm_cli.core.sweep.swept_model import SweptModel
from tests.support.cli import Result

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("run", "--images", 16)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, whose network calls are not a setting's, is left out."""
    monkeypatch.setattr(forecast, "measured_rates", lambda *_: Rates(0.001, 0.001, 0.1))


@pytest.fixture
def sweep(ddpm: Run, run: Path, trained: Path) -> Run:
    """Sweep the tiny run."""

    def call(*options: object) -> Result:
        return ddpm("sweep", run, "--features", trained, "-n", 4, *options, "--json")

    return call


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, untimed: None) -> list[dict[str, Any]]:
    """Scores by a known function of the settings in place of images; what was scored."""
    scored = list[dict[str, Any]]()

    def score(self: Scorer, side: Any, images: GeneratedImages) -> Score:
        scored.append(images.sampled)
        off, steps = images.sampled["guidance"] - 1.62, images.sampled["steps"]
        return Score(2 + off**2 + 0.5 / steps, 0.01)

    monkeypatch.setattr(Scorer, "score", score)
    return scored


@pytest.mark.usefixtures("few_are_enough")
def test_a_planted_optimum_is_found_and_becomes_the_default(
    ddpm: Run, sweep: Run, run: Path, planted: list[dict[str, Any]]
) -> None:
    found = sweep("--guidance", "1:3", "--steps", "1,4,5").json()
    assert len(planted) == len(found["settings"]) == 3 * (5 + 4)
    best = found["best"]["values"]
    assert abs(best["guidance"] - 1.62) < 0.25  # of the bracket that four values leave
    # 5 steps score 0.025 less than 4, more than a standard error; one step 0.4 more
    assert best["steps"] == 5
    assert found["settings"][0]["ties"] and found["settings"][0]["values"]["steps"] == 5
    assert (found["picture"], found["default"]) == (
        "run/sweeps/guidance-steps.png",
        "run/default-sampling.json",
    )
    assert Path(found["picture"]).stat().st_size > 5000
    written = json.loads((run / "default-sampling.json").read_text())
    assert written["sampling"] == {"steps": 5, "guidance": best["guidance"]}
    assert written["measured"]["value"] == found["best"]["value"]
    sampled = ddpm("sample", run, "-n", 1, "--out", "x", "--json")
    assert sampled.json()["guidance"] == best["guidance"]
    assert f"5 steps, guidance {best['guidance']:g} (run/default-sampling.json" in sampled.err


@pytest.mark.usefixtures("few_are_enough")
def test_a_sweep_starts_from_the_usual_settings_whatever_another_found(
    sweep: Run, run: Path, planted: list[dict[str, Any]]
) -> None:
    assert sweep("--guidance", "1,1.6", "--steps", 4).json()["default"] is not None
    found = sweep("--steps", "1,40", "--guide", "run/model.safetensors")
    told = "without what an earlier one found, guidance 1.6 (run/default-sampling.json)"
    assert told in found.err
    assert [(entry["guidance"], entry["steps"]) for entry in planted[2:]] == [(1, 1), (1, 40)]
    # its best is worse, by the same score of the same images
    assert found.json()["default"] is None
    written = json.loads((run / "default-sampling.json").read_text())
    assert written["sampling"] == {"steps": 4, "guidance": 1.6}
    # the first one finds its points again, and its own default is no better
    assert sweep("--guidance", "1,1.6", "--steps", 4).json()["default"] is not None
    assert len(planted) == 4
    assert json.loads((run / "default-sampling.json").read_text()) == written
    better = sweep("--guidance", "1,1.6", "--steps", 40)
    assert better.json()["default"] is not None
    assert "without what an earlier one found" not in better.err
    other = sweep("--sampler", "ddim,ddpm", "--no-default").json()
    assert other["picture"] == "run/sweeps/sampler.png"


def test_within_a_standard_error_the_fewest_calls_win(
    sweep: Run, run: Path, planted: list[dict[str, Any]]
) -> None:
    found = sweep("--steps", "2,39,40").json()  # 39 and 40 are apart by 0.0003
    assert found["best"]["values"] == {"steps": 39}
    assert [one["ties"] for one in found["settings"]] == [True, True, False]


def test_what_few_images_say_becomes_no_default(
    sweep: Run, ddpm: Run, run: Path, trained: Path, planted: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tied = sweep("--steps", "39,40")
    assert "nothing is told apart by 4 images: raise -n" in tied.err
    few = sweep("--steps", "1,40")
    assert "4 images of each setting are few" in few.err
    assert tied.json()["default"] is few.json()["default"] is None
    assert not (run / "default-sampling.json").exists()
    monkeypatch.setattr(results, "ENOUGH", 4)
    options = "--features", trained, "-n", 4
    assert "Replaced" not in ddpm("sweep", run, "--steps", "1,40", *options).out
    ended = ddpm("sweep", run, "--guidance", "1:1.5", *options)
    assert "the best --guidance, 1.5, is at the end of its range: widen it" in ended.err
    value = f"{2 + 0.62**2 + 0.5 / 40:.4g}"
    assert "Replaced: 40 steps: local-FID " + value + " of 4 images" in ended.out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that went through the network."""
    counted, predict = list[int](), Denoiser.predict

    def counting(self: Denoiser, x: Any, *rest: Any, **more: Any) -> Any:
        counted.append(len(x))
        return predict(self, x, *rest, **more)

    monkeypatch.setattr(Denoiser, "predict", counting)
    return counted


def test_the_network_calls_are_those_forecast(
    sweep: Run, run: Path, untimed: None, calls: list[int]
) -> None:
    options = ("--guidance", "0.5:1.5", "--coarse", 3, "--refine", 2, "--sampler", "ddim,heun")
    options += ("--steps", "2,3")
    dry = sweep(*options, "--dry-run")
    assert dry.code == 0, dry.err
    # at guidance 1 one call for each, else two; heun twice but for its last step
    once = {("ddim", 2): 2, ("ddim", 3): 3, ("heun", 2): 3, ("heun", 3): 5}
    expected = 4 * sum(calls * (1 + 2 * 4) for calls in once.values())
    assert (dry.json()["calls"], dry.json()["settings"], calls) == (expected, 20, [])
    assert not (run / "sweeps").exists()
    found = sweep(*options)
    assert found.code == 0, found.err
    assert f"20 settings, 4 images each: {expected} network calls, about" in found.err
    assert sum(calls) == found.json()["network_calls"] == expected
    assert found.json()["forecast"]["calls"] == expected
    calls.clear()
    again = sweep(*options)
    assert (sum(calls), again.json()["network_calls"]) == (0, 0)
    assert "20 settings, 20 of them known, 4 images each: 0 network calls" in again.err
    assert again.json()["settings"] == found.json()["settings"]


@pytest.mark.usefixtures("few_are_enough")
def test_the_weight_of_a_guide_is_swept(
    ddpm: Run, sweep: Run, run: Path, tiny_run: Callable[..., Path], untimed: None, calls: list[int]
) -> None:
    guide = tiny_run("guide", "--images", 8) / "model.safetensors"
    calls.clear()  # of the trainings
    found = sweep("--guidance", "1,1.5,2", "--steps", 2, "--guide", guide)
    assert found.code == 0, found.err
    # at weight 1 there is no guide to call
    assert sum(calls) == found.json()["network_calls"] == 4 * 2 * (1 + 2 + 2)
    assert len({one["value"] for one in found.json()["settings"]}) == 3
    best = found.json()["best"]["values"]["guidance"]
    written = json.loads((run / "default-sampling.json").read_text())["sampling"]
    guide = guide.resolve()  # from wherever the run is sampled
    assert written == {"guide": str(guide), "steps": 2, "guidance": best}
    sampled = ddpm("sample", run, "-n", 1, "--out", "x", "--json")
    assert (sampled.json()["guide"], sampled.json()["guidance"]) == (str(guide), best)
    # another guide has another weight
    other = ddpm("sample", run, "-n", 1, "--out", "y", "--guide", "run/model.safetensors", "--json")
    assert other.json()["guidance"] == 1 and other.json()["steps"] == 2


def test_a_score_is_that_of_ddpm_fid(
    ddpm: Run, sweep: Run, run: Path, photos: Path, trained: Path
) -> None:
    options = ("--real", photos, "--eta", "0,1", "--steps", 3)
    found = sweep(*options, "--seed", 5, "--no-default").json()
    assert found["real"] and len(found["settings"]) == 2
    for one in found["settings"]:
        alone = ddpm(
            *("fid", photos, run, "--features", trained, "-n", 4, "--metrics", "fid"),
            *("--steps", 3, "--eta", one["values"]["eta"], "--seed", 5, "--json"),
        ).json()
        assert one["value"] == pytest.approx(alone["fid"], rel=1e-4)
        assert one["std"] == pytest.approx(alone["fid_std"], rel=1e-3)
    other = sweep(*options, "--score", "kid", "--seed", 5, "--no-default")
    assert other.json()["score"] == "local-KID" and other.json()["network_calls"] > 0


def test_what_means_nothing_in_a_setting_is_left_out(sweep: Run, calls: list[int]) -> None:
    """Heun has one eta, and an interval is of settings that are guided."""
    found = sweep("--eta", "0,1", "--sampler", "ddim,heun", "--steps", 2, "--guidance", "1,2",
                  "--guidance-interval", "0.3,500").json()  # fmt: skip
    values = sorted(tuple(one["values"].values()) for one in found["settings"])
    ddim = [("ddim", 2, eta, guidance) for eta in (0, 1) for guidance in (1, 2)]
    assert values == [*ddim, *(("heun", 2, 0, guidance) for guidance in (1, 2))]
    assert found["forecast"]["settings"] == 6


@pytest.mark.usefixtures("few_are_enough")
def test_a_distilled_run_is_told_its_guidance(
    ddpm: Run, tiny_run: Callable[..., Path], trained: Path, calls: list[int]
) -> None:
    """By one call a step, as ddpm sample draws it; it has not learned to be unguided."""
    teacher = tiny_run("runs/teacher")
    run = Path("runs/student")
    assert ddpm("distill", teacher, "--guidance", "1.5,3", "--out", run, "--images", 16).code == 0
    options = ("--features", trained, "-n", 4, "--json")
    calls.clear()
    found = ddpm("sweep", run, "--guidance", "1.5,2", "--steps", "1,2", *options)
    assert found.code == 0, found.err
    assert "consistency model" not in found.err
    document = found.json()
    assert document["network_calls"] == 4 * 2 * (1 + 2)
    assert {one["nfe"] for one in document["settings"]} == {1, 2}
    best = document["best"]
    scored = ddpm("fid", document["real"], run, "--metrics", "fid", *options).json()
    assert scored["fid"] == pytest.approx(best["value"], rel=1e-4)
    assert scored["sampled"]["sampler"] == "consistency"
    refused = ddpm("sweep", run, "--guidance", "1,2", *options)
    assert refused.code == 2 and "has learned guidance 1.5 to 3" in refused.err


def test_a_default_is_of_all_that_a_run_draws(
    sweep: Run, ddpm: Run, run: Path, trained: Path, planted: list[dict[str, Any]]
) -> None:
    one = sweep("--steps", "1,2", "--class", "dark")
    assert one.json()["default"] is None
    file = run / "model.safetensors"
    text = ddpm("sweep", file, "--features", trained, "-n", 4, "--steps", "1,2")
    assert f"Default: none, as {file} is a file" in text.out
    assert not (run / "default-sampling.json").exists()


@pytest.mark.usefixtures("few_are_enough")
def test_scores_are_shown_where_the_default_cannot_be_written(
    sweep: Run, run: Path, planted: list[dict[str, Any]]
) -> None:
    (run / "default-sampling.json").mkdir()
    found = sweep("--steps", "1,2")
    assert (found.code, found.json()["default"]) == (1, None)
    assert len(found.json()["settings"]) == 2
    assert "default-sampling.json" in found.err


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Have the scoring die after so many settings."""
    score = Scorer.score

    def after(count: int | None) -> None:
        left = [count]

        def dying(self: Scorer, *rest: Any) -> Any:
            if left[0] == 0:
                raise DdpmError("killed")
            left[0] = None if left[0] is None else left[0] - 1
            return score(self, *rest)

        monkeypatch.setattr(Scorer, "score", dying)

    yield after


def test_what_was_scored_before_a_kill_is_not_scored_again(
    sweep: Run, run: Path, untimed: None, calls: list[int], dies: Callable[[int | None], None]
) -> None:
    options = ("--guidance", "1:2", "--coarse", 3, "--refine", 2, "--steps", 2)
    whole = sweep(*options, "--out", "elsewhere").json()
    every = sum(calls)
    calls.clear()
    dies(2)
    assert sweep(*options).code == 1
    points = run / "sweeps" / "points.jsonl"
    assert len(points.read_text().splitlines()) == 2
    with points.open("a") as file:
        file.write('{"values": {"guidance": 1')  # cut short
    dies(None)
    resumed = sweep(*options)
    assert "5 settings, 2 of them known" in resumed.err
    assert sum(calls) == every
    documents = whole, resumed.json()
    for document in documents:
        for one in (*document["settings"], document["best"]):
            del one["seconds"]
    assert documents[0]["settings"] == documents[1]["settings"]
    assert documents[0]["best"] == documents[1]["best"]
    calls.clear()
    # others with the same settings are found again; those of other images are not taken for them
    wider = sweep("--guidance", "1,1.5,2,4", "--steps", 2).json()
    assert wider["network_calls"] == sum(calls) == 4 * 4
    others = (("--seed", 1), ("--class", "dark"), ("--threshold", "none"), ("--score", "kid"))
    for changed in others:
        calls.clear()
        found = sweep("--guidance", "1,1.5", "--steps", 2, *changed)
        assert found.code == 0, found.err
        assert found.json()["network_calls"] == sum(calls) == 4 * (2 + 4), changed


def test_averages_stored_meanwhile_are_left_out(
    tiny_run: Callable[..., Path], trained: Path, untimed: None
) -> None:
    """A training beside the sweep stores others, of which none gets into those compared."""
    run = RunDirectory(tiny_run("averaged", "--images", 64, "--ema-every", 8))
    images = RunImages(run.path, 4, 0, ConditionRequest(), {"steps": 2})
    settings = SweptSettings(DefaultSampling(), images.settings)
    swept = SweptModel.load(images, settings, torch.device("cpu"), SILENT, rebuilds=True)
    values = {"sigma_rel": 0.07}
    before, of = swept.with_weights(values).denoiser.network.state_dict(), swept.identity(values)
    before = {name: x.clone() for name, x in before.items()}
    for one in post_hoc.stored(run)[-2:]:
        path = post_hoc.path_of(run, one.profile._replace(images=72))
        state = {name: x + 1 for name, x in tensors.read(one.path).tensors.items()}
        weights.save(path, state, run.read_config(), 72, None, one.profile.sigma_rel)
    swept.with_weights({"sigma_rel": 0.1})
    after = swept.with_weights(values).denoiser.network.state_dict()
    assert all(torch.equal(x, before[name]) for name, x in after.items())
    assert swept.identity(values) == of
    assert swept.save(values) == "ema-0.070"


@pytest.mark.usefixtures("few_are_enough")
def test_lengths_of_the_average_are_rebuilt_and_the_best_is_kept(
    ddpm: Run, tiny_run: Callable[..., Path], trained: Path, untimed: None
) -> None:
    run = tiny_run("averaged", "--images", 64, "--ema-every", 8)
    options = ("--features", trained, "-n", 4, "--steps", 2, "--json")
    found = ddpm("sweep", run, "--sigma-rel", "0.05,0.1,0.15", *options)
    assert found.code == 0, found.err
    best = found.json()["best"]
    name = f"ema-{best['values']['sigma_rel']:.3f}"
    assert json.loads((run / "default-sampling.json").read_text())["weights"] == name
    length = best["values"]["sigma_rel"]
    assert ddpm("ema", run, "--sigma-rel", length).code == 0  # which writes the same file
    scored = ddpm(*("fid", *(found.json()["real"],), run, "--metrics", "fid", *options))
    assert scored.code == 0, scored.err
    assert (
        f"best of a sweep: {name} (averaged/default-sampling.json" in scored.err
    )  # steps are given
    assert scored.json()["fid"] == pytest.approx(best["value"], rel=1e-4)
    scores = [one["value"] for one in found.json()["settings"]]
    assert len(set(scores)) == 3
    # other settings are swept with these weights where they are named
    newest = ddpm("sweep", run, "--steps", "2,3", "--dry-run", *options[:4])
    assert f"without what an earlier one found, {name} (averaged/default" in newest.err
    both = ddpm("sweep", run, "--sigma-rel", length, "--steps", "2,3", *options[:4], "--json")
    assert both.json()["network_calls"] == 4 * 3 and "earlier" not in both.err
    assert json.loads((run / "default-sampling.json").read_text())["weights"] == name


CONTRADICTORY = [  # of which no model is loaded
    ((), "a sweep needs an option with several values"),
    (("--guidance", "2"), "a sweep needs an option with several values"),
    (("--steps", "5:10"), "takes values alone"),
    (("--sampler", "ddim,best"), "'best' is unknown"),
    (("--sampler", "heun", "--eta", "0,1"), "--sampler heun takes no --eta"),
    (("--steps", "1,2", "--guidance-interval", "0.3,5"), "no meaning at --guidance 1"),
    (("--eta", "0:2"), "--eta must be between 0"),
    (("--steps", "1,2", "--score", "is"), "choose one of fid, kid, cmmd"),
    (("--steps", "1,2", "--score", "cmmd"), "--features clip-l336"),
    (("--steps", "1,2", "--real", "run"), "run is a run"),
]
REFUSED = [
    (("--steps", "5,2000"), 2, "--steps must be between 1 and"),
    (("--steps", "1,2", "--real", "nothing"), 1, "nothing: no such"),
    (("--sigma-rel", "0.05,0.1"), 1, "stored no averages"),
]


def test_what_cannot_be_swept(
    sweep: Run, run: Path, untimed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.iterdir())
    for options, code, words in REFUSED:
        refused = sweep(*options)
        assert (refused.code, words in refused.err) == (code, True), (options, refused.err)
        assert sorted(run.iterdir()) == before
    monkeypatch.setattr(swept_model, "load_model", None)
    for options, words in CONTRADICTORY:
        refused = sweep(*options)
        assert (refused.code, words in refused.err) == (2, True), (options, refused.err)
