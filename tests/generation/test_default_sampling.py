"""A run's default-sampling.json: sampling starts from it, options win, and it is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.generation.guides import with_guide
from ddpm_cli.core.generation.model import load_model, own_sampling, own_settings
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result
from tests.support.networks import write_weights
from tests.support.students import CLASSES, as_student

Run = Callable[..., Result]


@pytest.fixture
def run() -> Path:
    Path("run").mkdir()
    write_weights(Path("run"))
    Path("run/config.json").write_text("{}")
    return Path("run")


def settings(default: dict[str, Any], **given: Any) -> dict[str, Any]:
    """What the settings of a call are, but for the usual defaults."""
    sampling = DefaultSampling(default).with_options(given).document()
    usual = DefaultSampling().with_options({}).document()
    return {name: value for name, value in sampling.items() if value != usual[name]}


def test_options_replace_all_that_belongs_to_them() -> None:
    heun = {"sampler": "heun", "steps": 18, "s_churn": 10.0, "guidance": 1.6}
    assert settings(heun, steps=30)["steps"] == 30
    assert settings(heun, sampler="ddim") == {"guidance": 1.6}
    assert settings(heun, sampler="ddpm") == {"guidance": 1.6, "sampler": "ddpm", "eta": 1.0}
    assert settings(heun, eta=0.5) == {"guidance": 1.6, "eta": 0.5}
    assert settings(heun, unclipped_eps=True) == {"guidance": 1.6, "unclipped_eps": True}
    assert settings(heun, sampler="heun")["s_churn"] == 10
    ddim = {"eta": 0.3, "steps": 20, "spacing": "leading"}
    assert settings(ddim, sampler="ddpm") == {"sampler": "ddpm", "eta": 1.0}
    assert settings(ddim, timesteps=(9, 5)) == {
        "eta": 0.3, "timesteps": [9, 5], "spacing": None, "steps": 2,
    }  # fmt: skip
    chosen = {"timesteps": (9, 5), "guidance": 2.0, "guidance_interval": (0.3, 5.0)}
    assert settings(chosen, steps=7) == {
        "steps": 7, "guidance": 2.0, "guidance_interval": [0.3, 5.0],
    }  # fmt: skip
    assert settings(chosen, guidance=1.0).keys() == {"timesteps", "spacing", "steps"}
    with pytest.raises(UsageError, match="by default this run has guidance"):
        settings({"guidance": 1.6}, guidance_rescale=2.0)


def test_samplers_are_compared_by_the_same_settings() -> None:
    """What was found for ddim is left out for it as for heun, which is said."""
    found = DefaultSampling({"steps": 25, "guidance": 1.6}, path=Path("run/default-sampling.json"))
    compared = found.varying(["sampler"])
    by_sampler = [compared.settings({"sampler": name}) for name in ("ddim", "heun")]
    assert [settings.get("steps") for settings in by_sampler] == [None, None]
    assert [settings["guidance"] for settings in by_sampler] == [1.6, 1.6]
    told = found.told({}, ["sampler"])
    assert told is not None and "guidance 1.6, without 25 steps, as --sampler varies" in told
    told = found.told({"steps": 10}, ["sampler"])
    assert told is not None and "without" not in told
    # of others the values differ alone, and what belongs to them is left out
    assert found.varying(["steps"]).settings({"steps": 7}) == {"guidance": 1.6, "steps": 7}


def test_a_guide_is_the_one_that_was_measured(ddpm: Run, run: Path) -> None:
    Path("guide").mkdir()
    guide = write_weights(Path("guide"))
    model = load_model(run / "model.safetensors", torch.device("cpu"), torch.float32)
    default = DefaultSampling({"steps": 2, "guide": str(guide), "guidance": 1.5})
    default.with_guide_of(with_guide(model, str(guide))).write(RunDirectory(run))
    found = default_sampling.of_run(run)
    assert found.sampling["guide"] == str(guide.resolve()) and found.guide_sha256 is not None
    assert ddpm("sample", run, "-n", 1, "--out", "a").code == 0
    doubled = {name: 2 * x for name, x in tensors.read(guide).tensors.items()}
    weights.save(guide, doubled, model.config, 128)
    changed = ddpm("sample", run, "-n", 1, "--out", "b")
    assert changed.code == 1 and "has changed since the sweep" in changed.err
    guide.unlink()
    gone = ddpm("sample", run, "-n", 1, "--out", "c")
    assert gone.code == 1 and "run/default-sampling.json names it" in gone.err
    assert ddpm("sample", run, "-n", 1, "--out", "d", "--guide", run).code == 0


def test_a_file_comes_back_as_it_was_written(run: Path) -> None:
    directory = RunDirectory(run)
    written = DefaultSampling(
        {"guidance": 1.6, "guidance_interval": (0.3, float("inf")), "steps": 7},
        "model",
        {"score": "local-FID", "value": 1.5, "images_seen": 64},
    )
    written.write(directory)
    found = default_sampling.of_run(run)
    assert found == replace(written, path=directory.sampling)
    assert found.with_options({}).guidance_interval == (0.3, float("inf"))
    assert default_sampling.of_run(run / "model.safetensors") == DefaultSampling()
    assert default_sampling.of_run(None) == DefaultSampling()


DAMAGED = {
    "{": "cannot be read",
    "[]": "no file of ddpm sweep",
    '{"steps": 50, "seed": 0, "weights": "x"}': "no file of ddpm sweep",  # of a folder of samples
    '{"sampling": {"stesp": 5}}': "unknown setting 'stesp'",
    '{"sampling": {"steps": "many"}}': "sampling.steps should be of type int",
    '{"sampling": {"sampler": "heun", "eta": 1.0}}': "takes no --eta",
    '{"sampling": {}, "weights": "../other"}': "a name in the run",
    '{"sampling": {}, "other": 1}': "no file of ddpm sweep",
}


def test_damaged_and_foreign_files_are_named(ddpm: Run, run: Path) -> None:
    for text, words in DAMAGED.items():
        (run / "default-sampling.json").write_text(text)
        with pytest.raises(DdpmError, match=words) as raised:
            default_sampling.of_run(run)
        assert "run/default-sampling.json" in str(raised.value) and "delete that file" in str(
            raised.value
        )
    refused = ddpm("sample", run)
    assert (refused.code, "Traceback" in refused.err) == (1, False)
    (run / "default-sampling.json").write_text('{"sampling": {}, "weights": "ema-0.100"}')
    missing = ddpm("sample", run)
    assert missing.code == 1
    assert (
        "run has no weights ema-0.100" in missing.err and "run/default-sampling.json" in missing.err
    )


def test_sampling_starts_from_it_and_says_so(
    ddpm: Run, run: Path, photos: Path, trained: Path
) -> None:
    shutil.copy(run / "model.safetensors", run / "ema-0.100.safetensors")
    best = DefaultSampling({"steps": 2, "guidance": 1.5}, "ema-0.100", {"images_seen": 32})
    best.write(RunDirectory(run))
    said = "the best of a sweep: 2 steps, guidance 1.5, ema-0.100 (run/default-sampling.json"
    few = ("-n", 2, "--json", "--device", "cpu")
    sampled = ddpm("sample", run, "--out", "a", *few)
    assert sampled.code == 0, sampled.err
    assert said in sampled.err
    assert "measured at 32 images seen, and the run has seen 64: sweep again" in sampled.err
    document = sampled.json()
    assert (document["nfe"], document["weights"]) == (4, "run/ema-0.100.safetensors")
    given = ddpm("sample", run, "--out", "b", *few, "--steps", 2)
    assert given.json()["nfe"] == 4
    assert "best of a sweep: guidance 1.5, ema-0.100 (run/default-sampling.json" in given.err
    # other weights have their own best settings
    other = ddpm("sample", run, "--out", "o", *few, "--steps", 2, "--weights", "model")
    assert (other.json()["nfe"], other.json()["weights"]) == (2, "run/model.safetensors")
    assert "sweep" not in other.err
    file = ddpm("sample", run / "model.safetensors", "--out", "c", *few, "--steps", 3)
    assert (file.json()["nfe"], "sweep" in file.err) == (3, False)
    # images that are there by other settings are not mixed with these
    refused = ddpm("sample", run / "model.safetensors", "--out", "a", "-n", 4, "--steps", 3)
    assert refused.code == 1
    like = ddpm("sample", run, "--like", "b/000000.png", "--out", "d", "--json")
    assert (like.json()["nfe"], "sweep" in like.err) == (4, False)
    film = ddpm("gif", run, "--out", "x.gif", *few, "--seconds", 1)
    assert (film.code, said in film.err, film.json()["steps"]) == (0, True, 2)
    ends = ddpm("interpolate", run, 1, 2, "--out", "e", "-n", 2, "--json")
    assert (ends.code, said in ends.err, ends.json()["nfe"]) == (0, True, 4)
    scored = ddpm("fid", photos, run, "--features", trained, "-n", 4, "--metrics", "fid", "--json")
    assert (scored.code, said in scored.err) == (0, True)
    assert scored.json()["sampled"]["guidance"] == 1.5
    assert scored.json()["sampled"]["weights"] == "run/ema-0.100.safetensors"


def test_a_report_and_an_inspection_show_it(ddpm: Run, tiny_run: Callable[..., Path]) -> None:
    run = tiny_run("run", "--images", 16)
    assert "sampling" not in ddpm("inspect", run, "--json").json()
    measured = {"score": "local-FID", "value": 4.25, "n": 1000, "features": "a protocol"}
    DefaultSampling({"steps": 2, "guidance": 1.5}, None, measured).write(RunDirectory(run))
    text = "2 steps, guidance 1.5: local-FID 4.25 of 1000 images, by ddpm sweep"
    found = ddpm("inspect", run, "--json").json()
    assert (found["sampling"], found["next"]) == (text, "ddpm sample run")
    assert text in " ".join(ddpm("inspect", run).out.split())
    assert ddpm("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "best of a sweep: 2 steps, guidance 1.5" in page and "a protocol" in page
    assert "ddpm sample run -n 36 --seed 0<" in page
    (run / "default-sampling.json").write_text("{")
    assert "cannot be read" in ddpm("inspect", run).out
    assert ddpm("report", run, "--overwrite").code == 0
    assert ddpm("runs").code == 0


def test_weights_that_a_guide_does_not_fit_are_said_to_be_the_defaults(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: Any, name: str | None) -> Any:
        raise DdpmError(f"--guide {name} cannot guide {model.path}")

    monkeypatch.setattr(default_sampling, "with_guide", fails)
    default = DefaultSampling({}, "ema-0.200.safetensors", path=run / "default-sampling.json")
    for name, end in (("ema-0.200", r" \(run/default-.*json chose ema-0.200.*\)"), ("model", "")):
        model: Any = SimpleNamespace(path=run / f"{name}.safetensors")
        with pytest.raises(DdpmError, match=rf"cannot guide run/{name}.safetensors{end}$"):
            default.guided(model, "other")


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("consistency", 2)])
def test_the_steps_of_a_distilled_model_are_those_of_its_sampler(sampler: str, steps: int) -> None:
    """Whether options or Python's arguments name another."""
    config, given = as_student(CLASSES, calls=2), {"sampler": sampler}
    by_options = DefaultSampling(own_settings(config)).with_options(given)
    for sampling in (by_options, own_sampling(config, given)):
        assert sampling.with_default_steps(1000).steps == steps
