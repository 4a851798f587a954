"""What no rework of the inside may change, compared with what was recorded before it.

The commands are called as a shell would, and judged by their exit codes, their JSON and their
files. What depends on the last bits of sums (weights, pixels, scores) is compared bit for bit, but
only where these were recorded: with the same libraries on the same kind of processor.
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

TINY: dict[str, Any] = {  # in the spelling of the first configs, which has to go on being read
    "network": {
        "width": 8,
        "multipliers": [1, 2],
        "blocks": ["res", "res,attn"],
        "time": "scale-shift",
        "patch": 2,
        "dropout": 0.1,
    },
    "diffusion": {"schedule": "cosine", "parameterisation": "v"},
    "optimiser": {"batch": 32, "lr": 2e-3, "warmup": 64, "ema_halflife": 128},
    "budget": {"images": 640},
    "snapshot_every": 320,
    "preview": 2,
}


class Found:
    """What a test found: plainly to be the same anywhere, or bit for bit."""

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
        """The same, and its keys are to stay."""
        document = self.call(*arguments)
        self.plain[f"{name}: keys"] = sorted(document)
        return document

    def tensors(self, name: str, found: outcomes.Multiset) -> None:
        self.plain[f"{name}: tensors, numbers"] = found.size
        self.exact[name] = found.digest

    def train(self, name: str, *arguments: object) -> Path:
        """Train a run of that name, and look at all it wrote."""
        run = Path("runs", name)  # not `shapes`: a folder of that name would be taken for the data
        told = self.keyed(f"train {name}", "train", "--out", run, "--device", "cpu", *arguments)
        shown = {key: told[key] for key in ("parameters", "images", "steps", "skipped_steps")}
        self.plain[f"train {name}: told"] = shown
        self.plain[f"train {name}: files"] = outcomes.listing(run)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        self.plain[f"train {name}: metrics"] = sorted(json.loads(lines[-1]))
        for weights in ("model", "best"):
            held = outcomes.weights(run / f"{weights}.safetensors")
            self.tensors(f"train {name}: {weights}", held)
        self.tensors(f"train {name}: snapshot", outcomes.snapshot(run))
        for key in ("loss", "best_loss"):
            self.exact[f"train {name}: {key}"] = repr(told[key])
        for preview in sorted((run / "samples").iterdir()):
            self.exact[f"train {name}: {preview.name}"] = outcomes.pixels(preview)
        return run

    def train_again(self, run: Path, config: str, data: str, *more: str) -> None:
        """Train as a config.json of the first spelling says, which has every setting of `run`."""
        again = run.with_name(f"{run.name}-again")
        given = ("--config", HERE / "configs" / config, "--data", data, "--device", "cpu")
        self.call("train", "--out", again, *given, *more)
        one, other = (outcomes.weights(path / "model.safetensors") for path in (run, again))
        assert one.digest == other.digest

    def sample(self, name: str, run: Path, *arguments: object) -> Path:
        """Draw a few images, and look at all that was written."""
        folder = run / name.replace(" ", "-")
        told = self.keyed(f"sample {name}", "sample", run, "--out", folder, *arguments)
        self.plain[f"sample {name}: told"] = [told[key] for key in ("n", "drawn", "nfe")]
        self.plain[f"sample {name}: files"] = outcomes.listing(folder)
        self.plain[f"sample {name}: manifest"] = outcomes.manifest(folder)
        drawn = {path.name: outcomes.pixels(path) for path in sorted(folder.glob("*.png"))}
        self.exact[f"sample {name}"] = drawn
        return folder

    def gif(self, name: str, run: Path, *arguments: object) -> None:
        """Draw a film, and count its frames."""
        path = run / f"{name}.gif"
        told = self.keyed(f"gif {name}", "gif", run, "--out", path, *arguments)
        film = outcomes.frames(path)
        self.plain[f"gif {name}: frames"] = [told["frames"], *film.shape]
        self.exact[f"gif {name}"] = outcomes.digest([film.tobytes()])

    def told(self, name: str, *arguments: object, of: tuple[str, ...]) -> None:
        """The numbers that a command tells, to the last digit."""
        told = self.keyed(name, *arguments)
        self.exact[name] = {key: repr(told[key]) for key in of}

    def compare(self) -> None:
        """Fail where anything differs from the record, or be the record."""
        if target := os.environ.get("DDPM_TESTS_RECORD"):
            write(Path(target), self._name, self)
            return
        recorded = json.loads(RECORDED.read_text())
        assert as_json(self.plain) == recorded["plain"][self._name]
        exact, now = recorded["exact"][self._name], outcomes.where_bits_agree()
        other = [key for key, value in recorded["where"].items() if now.get(key) != value]
        if exact and other:
            pytest.skip(f"only bits are not compared: recorded with another {', '.join(other)}")
        chips = f"recorded on {recorded['processor']}, now on {outcomes.processor('model name')}"
        assert as_json(self.exact) == exact, chips


@pytest.fixture
def found(ddpm: Callable[..., Result], request: pytest.FixtureRequest) -> Found:
    """Where a test puts what it finds, before it compares."""
    assert torch.get_num_threads() == 1
    return Found(ddpm, request.node.name)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def write(target: Path, name: str, here: Found) -> None:
    """Add what a test found to the record."""
    empty: dict[str, Any] = {"plain": {}, "exact": {}}
    record = json.loads(target.read_text()) if target.exists() else empty
    record["where"] = outcomes.where_bits_agree()
    record["processor"] = outcomes.processor("model name")
    record["plain"][name], record["exact"][name] = here.plain, here.exact
    target.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def write_config(**network: Any) -> None:
    """Write the tiny network's settings to tiny.json."""
    settings = TINY | {"network": TINY["network"] | network}
    Path("tiny.json").write_text(json.dumps(settings))


def test_the_shapes(found: Found) -> None:
    """Of the preset, and by caption. One test, since both wait for the same 12,000 images."""
    run = found.train("shapes", "--preset", "shapes", "--images", 640, "--preview", 6)
    found.sample("of all classes", run, "-n", 4, "--steps", 5)
    guided = ("--class", "star", "--guidance", 2.5, "--guidance-interval", "0.1,20")
    found.sample("of a class", run, "-n", 3, "--steps", 3, "--sampler", "heun", *guided)
    found.gif("of shapes", run, "-n", 2, "--steps", 4, "--seed", 3)

    text = {"encoder": "bytes", "length": 48, "width": 32, "layers": 1, "heads": 2}
    write_config(text=text)
    run = found.train("captions", "--captions", "--config", "tiny.json", "--holdout", 32)
    drawn = ("-n", 3, "--steps", 3, "--seed", 7)
    found.sample("of captions", run, *drawn)
    prompts = ("--prompt", "a large red circle on blue", "--prompt", "a small white ring on black")
    stronger = ("--guidance", 3, "--guidance-rescale", 0.7, "--threshold", "dynamic")
    found.sample("of prompts", run, *drawn, *prompts, *stronger, "--sampler", "ddpm")
    found.compare()


def test_grey_images_and_their_scores(found: Found, tmp_path: Path) -> None:
    real = outcomes.draw(tmp_path / "real", side=28, channels=1, each=40, kinds=3)
    fake = outcomes.draw(tmp_path / "fake", side=28, channels=1, each=24, seed=9)
    run = found.train("grey", "--data", real, "--preset", "mnist", "--images", 640, "--preview", 6)
    found.sample("ancestral", run, "-n", 4, "--steps", 4, "--sampler", "ddpm")
    found.sample(
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
    found.told("train-classifier", "train-classifier", *learning, of=("accuracy",))
    found.tensors("classifier", outcomes.weights(classifier))

    local = ("--features", classifier)
    scores = (
        "fid",
        "fid_std",
        "kid",
        "kid_std",
        "precision",
        "recall",
        "density",
        "coverage",
        "inception_score",
        "inception_score_std",
    )
    everything = ("--metrics", "fid,kid,prdc,is")
    found.told("fid", "fid", real, fake, *local, *everything, of=scores)
    found.told("fid of the cache", "fid", real, fake, *local, *everything, of=scores)
    saved = ("--floor", "--save-real", "real.npz")
    found.told("fid with a floor", "fid", real, fake, *local, *saved, of=("fid", "fid_floor"))
    found.told("fid of statistics", "fid", "real.npz", fake, *local, of=("fid",))
    drawn = ("-n", 12, "--steps", 2, "--seed", 5)
    found.told("fid of a run", "fid", real, run, *local, *drawn, of=("fid", "kid"))
    splits = ("--splits", 3)
    found.told("is", "inception-score", fake, *local, *splits, of=("mean", "std"))
    found.compare()


@pytest.fixture
def colours(tmp_path: Path) -> str:
    return outcomes.draw(tmp_path / "colours", side=8, channels=3, each=32)


def test_learned_variance(found: Found, colours: str) -> None:
    """Of a network that diffusers has as well, so that it can be handed out and taken in."""
    write_config(patch=1, groups=4)
    others = ("--learned-variance", "--timesteps", 60, "--loss", "l1", "--flip")
    given = ("--data", colours, "--config", "tiny.json", *others)
    run = found.train("learned", *given)
    learned = ("--sampler", "ddpm", "--variance", "learned")
    found.train_again(run, "learned.json", colours)
    found.sample("of learned variance", run, "-n", 4, "--steps", 5, *learned)
    terms = ("total", "prior", "kl", "decoder", "terms", "standard_error")
    found.told("nll", "nll", run, "--data", colours, "-n", 6, of=terms)

    handed = found.keyed("convert to", "convert", run, "--to", "diffusers", "--out", "handed")
    found.plain["convert to: files"] = outcomes.listing(Path("handed"))
    found.plain["convert to: told"] = [handed[key] for key in ("parameters", "size", "classes")]
    taken = ("--out", "taken.safetensors", "--null-class", 2)
    found.keyed("convert from", "convert", "handed", *taken)
    back, was = (outcomes.weights(path) for path in (Path(taken[1]), run / "model.safetensors"))
    assert back.digest == was.digest
    found.compare()


def test_edm(found: Found, colours: str) -> None:
    write_config()
    given = ("--data", colours, "--config", "tiny.json", "--schedule", "edm", "--augment", 0.2)
    run = found.train("edm", *given, "--unconditional", "--holdout", 8)
    found.train_again(run, "edm.json", colours, "--unconditional")
    found.sample("of edm by heun", run, "-n", 3, "--steps", 4, "--sampler", "heun", "--s-churn", 2)
    found.sample("of edm by dpmpp-2m", run, "-n", 3, "--steps", 4, "--sampler", "dpmpp-2m")
    found.compare()


def options(command: Any) -> list[str]:
    """Every spelling of every option, and how many arguments."""
    given = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return sorted(name for p in given for name in [*p.opts, *p.secondary_opts])


def test_options(found: Found) -> None:
    """A new command and a new option may come; those that scripts use have to stay."""
    whole: Any = typer.main.get_command(app)
    present = {name: options(command) for name, command in whole.commands.items()}
    present[""] = options(whole)
    found.plain["options"] = present
    if not os.environ.get("DDPM_TESTS_RECORD"):
        recorded = json.loads(RECORDED.read_text())["plain"]["test_options"]["options"]
        kept = {name: set(present.get(name, [])) for name in recorded}
        lost = {name: sorted(set(names) - kept[name]) for name, names in recorded.items()}
        assert not any(lost.values()), lost
        found.plain["options"] = recorded
    found.compare()


PRESETS = (
    "shapes",
    "mnist",
    "small",
    "cifar10",
    "iddpm-cifar10",
    "edm-cifar10",
    "adm-64",
    "celeba-64",
    "photos-64",
)


def test_plans(found: Found, colours: str) -> None:
    """What would be trained: of every preset, and of settings as they were written long ago."""
    told = ("train", "--dry-run", "--device", "cpu", "--data", colours)
    for preset in PRESETS:
        found.plain[f"plan of {preset}"] = found.call(*told, "--preset", preset)
    own = ("--size", "8x16", "--channels", 1, "--blocks", "res,channel-attn", "--blocks", "conv")
    found.plain["plan of own"] = found.call(*told, *own, "--width", 8, "--multipliers", "1,3")
    lines = [f"{name},an image of waves" for name in outcomes.listing(Path(colours))]
    Path(colours, "captions.csv").write_text("\n".join(["file,caption", *lines]))
    for config in sorted((HERE / "configs").glob("*.json")):
        found.plain[f"plan of {config.name}"] = found.call(*told, "--config", config)
    found.compare()


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


def test_schedules(found: Found) -> None:
    for name in SCHEDULES:
        given = ("--schedule", name, "--timesteps", 200, "--steps", 7)
        told = found.keyed(f"schedule {name}", "inspect-schedule", *given)
        found.exact[f"schedule {name}"] = outcomes.digest([json.dumps(told).encode()])
    both = found.keyed("schedules", "inspect-schedule", "--schedule", "linear,cosine")
    found.plain["schedules: of each"] = [sorted(told) for told in both["schedules"]]
    visited = ("--schedule", "cosine", "--steps", 6)
    for sampler in ("ddim", "ddpm", "euler", "heun", "dpmpp-2m", "ipndm"):
        told = found.call("inspect-schedule", *visited, "--sampler", sampler)
        found.exact[f"steps of {sampler}"] = repr(told["steps"])
    for spacing in ("trailing", "leading", "linspace", "quadratic", "karras"):
        told = found.call("inspect-schedule", *visited, "--spacing", spacing)
        found.exact[f"steps of {spacing}"] = repr(told["steps"])
    found.compare()


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
convert nowhere --out taken.safetensors
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
    found: Found, ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
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
            ended: Any = ddpm(*call.split()).code
        except Exception:  # which is what --traceback is for
            ended = "a traceback"
            monkeypatch.setenv("DDPM_TRACEBACK", "")
        found.plain[call] = ended
    assert outcomes.listing(Path()) == before
    found.compare()
