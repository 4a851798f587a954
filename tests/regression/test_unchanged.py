"""Behaviour that must not change, compared with a record: recorded.json.

Commands are compared by exit codes, JSON documents and files. Results that depend on the last bits
of sums (weights, pixels, scores) are compared bit for bit, but only where they were recorded: with
the same libraries on the same kind of processor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from ddpm_cli.cli.app import app
from tests.regression import outcomes
from tests.support.cli import Result

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"

TINY: dict[str, Any] = {  # with the former names of settings, which must stay readable
    "network": {
        "width": 8,
        "multipliers": [1, 2],
        "blocks": ["res", "res,attn"],
        "time": "scale-shift",
        "patch": 2,
        "dropout": 0.1,
    },
    "diffusion": {"schedule": "cosine", "parameterisation": "v"},
    "objective": {"weighting": "plain"},
    "optimiser": {
        "method": "adamw",
        "batch": 32,
        "lr": 2e-3,
        "warmup": 64,
        "decay": 0.4,
        "ema_halflife": 128,
    },
    "budget": {"images": 640},
    "snapshot_every": 320,
    "validate_every": 320,
    "log_every": 32,
    "preview": 2,
}


_FORMER: dict[str, Any] = {  # settings of presets when their results were recorded
    "network": {
        "width": 32,
        "multipliers": [1, 2],
        "blocks": ["res", "res,attn"],
        "modulation": "scale-shift",
        "patch": 2,
        "dropout": 0.0,
    },
    "diffusion": {"schedule": "cosine", "parameterisation": "x0"},
    "objective": {"weighting": "p2", "weighting_k": 0.3},
    "optimiser": {
        "method": "adamw",
        "batch": 64,
        "lr": 2e-3,
        "warmup": 5_000,
        "decay": 0.4,
        "betas": [0.9, 0.99],
        "ema_halflife": 20_000,
    },
    "data": {"flip": False},
    "budget": {"images": 640},
    "preview": 6,
}
MNIST = _FORMER | {"snapshot_every": 20_000, "validate_every": 20_000, "log_every": 200}
SHAPES = _FORMER | {
    "network": _FORMER["network"] | {"patch": 4, "multipliers": [1, 2, 4], "blocks": ["res,attn"]},
    "snapshot_every": 10_000,
    "validate_every": 10_000,
    "log_every": 100,
}


class Results:
    """The results of a test: `plain` are equal on any machine, `exact` where bits agree."""

    def __init__(self, ddpm: Callable[..., Result], name: str) -> None:
        self._ddpm, self._name = ddpm, name
        self.plain: dict[str, Any] = {}
        self.exact: dict[str, Any] = {}

    def call(self, *arguments: object) -> dict[str, Any]:
        """The JSON document of a call that succeeds."""
        result = self._ddpm(*arguments, "--json")
        assert result.code == 0, result.err
        document: dict[str, Any] = result.json()
        return document

    def keyed(self, name: str, *arguments: object) -> dict[str, Any]:
        """The same, with its keys recorded."""
        document = self.call(*arguments)
        self.plain[f"{name}: keys"] = sorted(document)
        return document

    def tensors(self, name: str, tensors: outcomes.Multiset) -> None:
        """Record the tensors of a file."""
        self.plain[f"{name}: tensors, values"] = tensors.size
        self.exact[name] = tensors.digest

    def train(self, name: str, *arguments: object) -> Path:
        """Train a run of that name, and record its summary and files."""
        run = Path("runs", name)  # a folder `shapes` would be used as the data
        document = self.keyed(f"train {name}", "train", "--out", run, "--device", "cpu", *arguments)
        keys = ("parameters", "images", "steps", "skipped_steps")
        self.plain[f"train {name}: summary"] = {key: document[key] for key in keys}
        self.plain[f"train {name}: files"] = outcomes.listing(run)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        self.plain[f"train {name}: metrics"] = sorted(json.loads(lines[-1]))
        for weights in ("model", "best"):
            tensors = outcomes.weights(run / f"{weights}.safetensors")
            self.tensors(f"train {name}: {weights}", tensors)
        self.tensors(f"train {name}: snapshot", outcomes.snapshot(run))
        for preview in sorted((run / "samples").iterdir()):
            self.exact[f"train {name}: {preview.name}"] = outcomes.pixels(preview)
        return run

    def train_again(self, run: Path, config: str, data: str, *more: str) -> None:
        """Train with a config.json of former names and the same settings: equal weights."""
        again = run.with_name(f"{run.name}-again")
        options = ("--config", HERE / "configs" / config, "--data", data, "--device", "cpu")
        self.call("train", "--out", again, *options, *more)
        one, other = (outcomes.weights(path / "model.safetensors") for path in (run, again))
        assert one.digest == other.digest

    def sample(self, name: str, run: Path, *arguments: object) -> Path:
        """Sample a few images, and record the summary and the files."""
        folder = run / name.replace(" ", "-")
        document = self.keyed(f"sample {name}", "sample", run, "--out", folder, *arguments)
        self.plain[f"sample {name}: summary"] = [document[key] for key in ("n", "drawn", "nfe")]
        self.plain[f"sample {name}: files"] = outcomes.listing(folder)
        self.plain[f"sample {name}: manifest"] = outcomes.manifest(folder)
        pixels = {path.name: outcomes.pixels(path) for path in sorted(folder.glob("0*.png"))}
        self.exact[f"sample {name}"] = pixels
        return folder

    def gif(self, name: str, run: Path, *arguments: object) -> None:
        """Write a GIF, and record the shape of its frames."""
        path = run / f"{name}.gif"
        document = self.keyed(f"gif {name}", "gif", run, "--out", path, *arguments)
        frames = outcomes.frames(path)
        self.plain[f"gif {name}: frames"] = [document["frames"], *frames.shape]

    def numbers(self, name: str, *arguments: object, keys: tuple[str, ...]) -> None:
        """Record numbers of a command's JSON document, to the last digit."""
        document = self.keyed(name, *arguments)
        self.exact[name] = {key: repr(document[key]) for key in keys}

    def compare(self) -> None:
        """Fail where anything differs from the record; with DDPM_TESTS_RECORD, write the record."""
        if target := os.environ.get("DDPM_TESTS_RECORD"):
            write(Path(target), self._name, self)
            return
        recorded = json.loads(RECORDED.read_text())
        assert as_json(self.plain) == recorded["plain"][self._name]
        exact, platform = recorded["exact"][self._name], outcomes.where_bits_agree()
        other = [key for key, value in recorded["where"].items() if platform.get(key) != value]
        if exact and other:
            pytest.skip(f"only bits are not compared: recorded with another {', '.join(other)}")
        processor = outcomes.processor("model name")
        message = f"recorded on {recorded['processor']}, now on {processor}"
        assert as_json(self.exact) == exact, message


@pytest.fixture
def results(
    ddpm: Callable[..., Result], request: pytest.FixtureRequest, loss_curve: None
) -> Results:
    """Collects the results of a test, and compares them."""
    assert torch.get_num_threads() == 1
    return Results(ddpm, request.node.name)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def write(target: Path, name: str, results: Results) -> None:
    """Add a test's results to the record."""
    empty: dict[str, Any] = {"plain": {}, "exact": {}}
    record = json.loads(target.read_text()) if target.exists() else empty
    record["where"] = outcomes.where_bits_agree()
    record["processor"] = outcomes.processor("model name")
    record["plain"][name], record["exact"][name] = results.plain, results.exact
    target.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def write_config(**network: Any) -> None:
    """Write the tiny network's settings to tiny.json."""
    settings = TINY | {"network": TINY["network"] | network}
    Path("tiny.json").write_text(json.dumps(settings))


def config_file(name: str, settings: dict[str, Any]) -> Path:
    """Write settings to a file of that name."""
    path = Path(f"{name}.json")
    path.write_text(json.dumps(settings))
    return path


def test_shapes_by_class_and_by_caption(results: Results) -> None:
    """One test, since both need the same 12,000 images."""
    run = results.train("shapes", "--config", config_file("former-shapes", SHAPES))
    results.sample("of all classes", run, "-n", 4, "--steps", 5)
    guided = ("--class", "star", "--guidance", 2.5, "--guidance-interval", "0.1,20")
    results.sample("of a class", run, "-n", 3, "--steps", 3, "--sampler", "heun", *guided)
    results.gif("of shapes", run, "-n", 2, "--steps", 4, "--seed", 3)

    text = {"encoder": "bytes", "length": 48, "width": 32, "layers": 1, "heads": 2}
    write_config(text=text)
    run = results.train("captions", "--captions", "--config", "tiny.json", "--holdout", 32)
    few = ("-n", 3, "--steps", 3, "--seed", 7)
    results.sample("of captions", run, *few)
    prompts = ("--prompt", "a large red circle on blue", "--prompt", "a small white ring on black")
    stronger = ("--guidance", 3, "--guidance-rescale", 0.7, "--threshold", "dynamic")
    results.sample("of prompts", run, *few, *prompts, *stronger, "--sampler", "ddpm")
    results.compare()


def test_grey_images_and_their_scores(results: Results, tmp_path: Path) -> None:
    real = outcomes.draw(tmp_path / "real", side=28, channels=1, each=40, kinds=3)
    fake = outcomes.draw(tmp_path / "fake", side=28, channels=1, each=24, seed=9)
    run = results.train("grey", "--data", real, "--config", config_file("former-mnist", MNIST))
    results.sample("ancestral", run, "-n", 4, "--steps", 4, "--sampler", "ddpm")
    results.sample(
        "quadratic",
        run,
        "-n",
        3,
        "--class",
        "kind-1:2",
        "--class",
        0,
        "--steps",
        4,
        "--eta",
        0.5,
        "--spacing",
        "quadratic",
        "--variance",
        "fixed-large",
    )

    classifier = Path("classifier.safetensors")
    learning = ("--data", real, "--out", classifier, "--epochs", 2, "--batch", 30)
    results.numbers("train-classifier", "train-classifier", *learning, keys=("accuracy",))
    results.tensors("classifier", outcomes.weights(classifier))

    local = ("--features", classifier)
    scores = (
        "fid",
        "fid_std",
        "precision",
        "recall",
        "density",
        "coverage",
        "inception_score",
        "inception_score_std",
    )
    everything = ("--metrics", "fid,kid,prdc,is")
    results.numbers("fid", "fid", real, fake, *local, *everything, keys=scores)
    results.numbers("fid of the cache", "fid", real, fake, *local, *everything, keys=scores)
    saved = ("--floor", "--save-real", "real.npz")
    results.numbers(
        "fid with a floor", "fid", real, fake, *local, *saved, keys=("fid", "fid_floor")
    )
    results.numbers("fid of statistics", "fid", "real.npz", fake, *local, keys=("fid",))
    few = ("-n", 12, "--steps", 2, "--seed", 5)
    results.numbers("fid of a run", "fid", real, run, *local, *few, keys=("fid",))
    splits = ("--splits", 3)
    results.numbers("is", "inception-score", fake, *local, *splits, keys=("mean", "std"))
    results.compare()


@pytest.fixture
def colours(tmp_path: Path) -> str:
    return outcomes.draw(tmp_path / "colours", side=8, channels=3, each=32)


def test_learned_variance(results: Results, colours: str) -> None:
    """With a network that diffusers has, too, so that it can be exported and imported."""
    write_config(patch=1, groups=4)
    objective = ("--learned-variance", "--timesteps", 60, "--loss", "l1", "--flip")
    options = ("--data", colours, "--config", "tiny.json", *objective)
    run = results.train("learned", *options)
    learned = ("--sampler", "ddpm", "--variance", "learned")
    results.train_again(run, "learned.json", colours)
    results.sample("of learned variance", run, "-n", 4, "--steps", 5, *learned)
    terms = ("total", "prior", "kl", "decoder", "terms", "standard_error")
    results.numbers("nll", "nll", run, "--data", colours, "-n", 6, keys=terms)

    exported = results.keyed("convert to", "convert", run, "--to", "diffusers", "--out", "exported")
    results.plain["convert to: files"] = outcomes.listing(Path("exported"))
    results.plain["convert to: summary"] = [
        exported[key] for key in ("parameters", "size", "classes")
    ]
    imported = Path("imported.safetensors")
    results.keyed("convert from", "convert", "exported", "--out", imported, "--null-class", 2)
    one, other = (outcomes.weights(path) for path in (imported, run / "model.safetensors"))
    assert one.digest == other.digest
    results.compare()


def test_edm(results: Results, colours: str) -> None:
    write_config()
    options = ("--data", colours, "--config", "tiny.json", "--schedule", "edm", "--augment", 0.2)
    run = results.train("edm", *options, "--unconditional", "--holdout", 8)
    results.train_again(run, "edm.json", colours, "--unconditional")
    results.sample(
        "of edm by heun", run, "-n", 3, "--steps", 4, "--sampler", "heun", "--s-churn", 2
    )
    results.sample("of edm by dpmpp-2m", run, "-n", 3, "--steps", 4, "--sampler", "dpmpp-2m")
    results.compare()


def options_of(command: Any) -> list[str]:
    """Every spelling of every option of a command."""
    params = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return sorted(name for p in params for name in [*p.opts, *p.secondary_opts])


def test_options(results: Results) -> None:
    """Commands and options may be added; those that scripts use must stay."""
    app_command: Any = typer.main.get_command(app)
    present = {name: options_of(command) for name, command in app_command.commands.items()}
    present[""] = options_of(app_command)
    results.plain["options"] = present
    if not os.environ.get("DDPM_TESTS_RECORD"):
        recorded = json.loads(RECORDED.read_text())["plain"]["test_options"]["options"]
        kept = {name: set(present.get(name, [])) for name in recorded}
        missing = {name: sorted(set(names) - kept[name]) for name, names in recorded.items()}
        assert not any(missing.values()), missing
        results.plain["options"] = recorded
    results.compare()


PRESETS = (
    "shapes",
    "mnist",
    "small",
    "small-64",
    "cifar10",
    "cifar10-fast",
    "iddpm-cifar10",
    "edm-cifar10",
    "adm-64",
    "celeba-64",
    "photos-64",
)


FORECAST = {  # depends on the machine, or was added after the record
    "microbatch",
    "memory_bytes",
    "disk_bytes",
    "seconds_per_step",
    "seconds",
    "time_measured",
    "preset_because",
    "advice",
}


@pytest.mark.usefixtures("planned_only")
def test_plans(results: Results, colours: str) -> None:
    """Dry runs of every preset, and of configs with former names: for other images than theirs."""
    command = ("train", "--dry-run", "--device", "cpu", "--data", colours)

    def planned(*options: object) -> dict[str, Any]:
        document = results.call(*command, *options)
        left_out = {*FORECAST, "origins"}  # which have paths: tests/training/test_print_config.py
        plan = {name: value for name, value in document.items() if name not in left_out}
        return plan | {"no_export_because": plan["no_export_because"] is not None}  # not its words

    for preset in PRESETS:
        results.plain[f"plan of {preset}"] = planned("--preset", preset)
    own = ("--size", "8x16", "--channels", 1, "--blocks", "res,channel-attn", "--blocks", "conv")
    results.plain["plan of own"] = planned(*own, "--width", 8, "--multipliers", "1,3")
    lines = [f"{name},an image of waves" for name in outcomes.listing(Path(colours))]
    Path(colours, "captions.csv").write_text("\n".join(["file,caption", *lines]))
    for config in sorted((HERE / "configs").glob("*.json")):
        plan = planned("--config", config)
        results.plain[f"plan of {config.name}"] = plan | {"notices": len(plan["notices"])}
    results.compare()


SCHEDULES = (
    "linear",
    "linear-fixed",
    "quadratic",
    "sigmoid",
    "cosine",
    "sigmoid-abar",
    "edm",
    "flow",
)


def test_schedules(results: Results) -> None:
    for name in SCHEDULES:
        options = ("--schedule", name, "--timesteps", 200, "--steps", 7)
        document = results.keyed(f"schedule {name}", "inspect-schedule", *options)
        results.exact[f"schedule {name}"] = outcomes.digest([json.dumps(document).encode()])
    both = results.keyed("schedules", "inspect-schedule", "--schedule", "linear,cosine")
    results.plain["schedules: of each"] = [sorted(table) for table in both["schedules"]]
    visited = ("--schedule", "cosine", "--steps", 6)
    for sampler in ("ddim", "ddpm", "euler", "heun", "dpmpp-2m", "ipndm"):
        document = results.call("inspect-schedule", *visited, "--sampler", sampler)
        results.exact[f"steps of {sampler}"] = repr(document["steps"])
    for spacing in ("trailing", "leading", "linspace", "quadratic", "karras"):
        document = results.call("inspect-schedule", *visited, "--spacing", spacing)
        results.exact[f"steps of {spacing}"] = repr(document["steps"])
    results.compare()


CALLS = """
--version
--help
train --help
train --data colours --dry-run
train --data colours --dry-run --config tiny.json --epochs 2
train --data colours --dry-run --skip-bad --holdout 5
train --data missing --dry-run
train --data missing --dry-run --traceback
train --data empty --dry-run
train --data broken --dry-run
train --data colours --preset huge --dry-run
train --data colours --size 0
train --data colours --blocks res,dense
train --data colours --batch 0
train --data colours --lr nan
train --data colours --class-drop 2
train --data colours --holdout 99999
train --data colours --device tpu
train --data colours --precision fp8
train --data colours --config none.json
train --data colours --config typo.json
train --data colours --config kind.json
train --data colours --schedule edm --parameterisation v --dry-run
train --data colours --captions --dry-run
train --data colours --images 8 --out a-file
train --data colours --resume gone.pt
train --images many
train --colour
sample
sample nowhere
sample broken/image.png
sample --sampler magic
sample --steps 0
sample --eta 2
sample --sampler heun --eta 1
sample --guidance-interval 3
gif nowhere
gif --s-churn 1
nll nowhere
nll --n 0
fid colours
fid colours missing
fid colours empty --features none.safetensors
fid colours colours --metrics fdi
inception-score empty --features none.safetensors
convert nowhere --out imported.safetensors
convert nowhere
train-classifier --data broken
train-classifier --data missing
inspect-schedule
inspect-schedule --schedule square
inspect-schedule --timesteps 0
inspect-schedule --steps 2000
inspect-schedule --image none.png
fetch-weights --nonsense
nonsense
"""


def test_exit_codes(
    results: Results, ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes.draw(Path("colours"), side=8, channels=3, each=6)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/image.png").write_bytes(b"no image")
    Path("a-file").write_text("kept")
    for name, settings in (
        ("tiny", TINY),
        ("typo", {"optimiser": {"learning_rate": 1}}),
        ("kind", {"optimiser": {"batch": "many"}}),
    ):
        Path(f"{name}.json").write_text(json.dumps(settings))
    before = outcomes.listing(Path())
    for call in CALLS.strip().splitlines():
        try:
            code: Any = ddpm(*call.split()).code
        except Exception:  # raised with --traceback
            code = "a traceback"
            monkeypatch.setenv("DDPM_TRACEBACK", "")
        results.plain[call] = code
    assert outcomes.listing(Path()) == before
    results.compare()
