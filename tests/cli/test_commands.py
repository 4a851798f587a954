"""The command line: valid and invalid input, exit codes, one-line errors."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from ddpm_cli.cli import console
from ddpm_cli.core.config.diffusion import BETA_RANGED
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion.settings import SAMPLERS
from ddpm_cli.core.errors import UsageError
from tests.support.cli import Result

Call = Callable[..., Result]

COMMANDS = ("data", "train", "sample", "gif", "fid", "inception-score", "nll", "inspect-schedule")

# Options that scripts rely on; a command may have more.
OPTIONS = {
    "data": "--size --channels --holdout --seed --against --max-pixels --out -n --clear-cache "
    "--json",
    "train": "--data --preset --config --size --channels --out --images --steps --epochs --minutes "
    "--batch --lr --seed --nproc --snapshot-every --resume --unconditional --class-drop --dry-run "
    "--json --holdout --patience --schedule --timesteps --parameterisation --loss --weighting "
    "--noise-levels --learned-variance --vlb-weight",
    "nll": "--data -n --variance --seed --batch --device --nproc --json",
    "sample": "-n --steps --eta --guidance --sampler --class --seed --out --json",
    "gif": "-n --steps --eta --guidance --sampler --class --seed --out --json",
    "fid": "--weights --protocol --json",
    "inception-score": "--weights --protocol --json",
    "inspect-schedule": "--schedule --timesteps --steps --spacing --plot --image --json",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_options(
    ddpm: Call, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = ddpm(command, "--help")
    assert result.code == 0
    shown = result.out.replace("│", " ").split()
    assert [option for option in OPTIONS[command].split() if option not in shown] == []


def test_plain_train_trains_the_built_in_shapes(
    ddpm: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpm_cli.core.training import session

    requests = []

    def refuse(request: TrainingRequest, *_: object) -> None:
        requests.append(request)
        raise UsageError("not in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "launch_if_needed", refuse)
    assert ddpm("train").code == 2
    assert requests == [TrainingRequest()]


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("sample", 1, "there is no trained run under runs/ here"),
        ("gif", 1, "there is no trained run under runs/ here"),
        ("nll", 1, "there is no trained run under runs/ here"),
        ("fid", 2, "Missing argument"),
        ("inception-score", 2, "Missing argument"),
        ("inspect-schedule", 0, ""),
    ],
)
def test_without_arguments_a_command_says_what_it_needs(
    ddpm: Call, command: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ddpm(command)
    assert (result.code, says in result.err) == (code, True)


def test_version_and_overview(ddpm: Call) -> None:
    assert ddpm("--version").out.startswith("ddpm 0.")
    overview = ddpm("--help").out
    assert all(command in overview for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "--data", "missing"), 1, "missing: no such folder or archive"),
        (("train", "--data", "empty"), 1, "no images in empty"),
        (("train", "--data", "broken"), 1, "none of the images"),
        (("train", "--preset", "huge"), 2, "shapes, mnist, small, small-64, cifar10"),
        (("train", "--size", "0"), 2, "--size '0'"),
        (("train", "--size", "ten"), 2, "--size 'ten'"),
        (("train", "--blocks", "res,dense"), 2, "'dense' is unknown"),
        (("train", "--multipliers", "1,two"), 2, "should be whole numbers such as 1,2,2,2"),
        (("train", "--channels", "2"), 2, "1, 3, 4"),
        (("train", "--batch", "0"), 2, "batch must be more than 0"),
        (("train", "--lr", "-1"), 2, "lr must be more than 0"),
        (("train", "--lr", "nan"), 2, "--lr takes a number"),
        (("train", "--images", "-5"), 2, "images must be more than 0"),
        (("train", "--class-drop", "2"), 2, "between 0 and 1"),
        (("train", "--holdout", "99999"), 2, "leaves nothing"),
        (("train", "--nproc", "0"), 2, "--nproc"),
        (("train", "--device", "tpu"), 2, "auto, cpu, cuda, mps"),
        (("train", "--device", "cuda"), 2, "no GPU"),
        (("train", "--precision", "fp8"), 2, "auto, fp32, bf16"),
        (("train", "--config", "none.json"), 1, "none.json: no such file"),
        (("train", "--config", "broken/image.png"), 1, "neither JSON nor TOML"),
        (("train", "--config", "typo.json"), 1, "'learning_rate'"),
        (("train", "--config", "kind.json"), 1, "optimiser.batch should be of type int"),
        (("train", "--images", "8", "--out", "a-file"), 1, "a-file"),
        (("train", "--images", "many"), 2, "--images"),
        (("train", "--colour"), 2, "--colour"),
        (("sample",), 1, "train one with ddpm train"),
        (("sample", "--eta", "2"), 2, "--eta"),
        (("sample", "--steps", "0"), 2, "--steps"),
        (("sample", "--sampler", "magic"), 2, ", ".join(SAMPLERS)),
        (("sample", "--sampler", "heun", "--eta", "1"), 2, "heun takes no --eta"),
        (("gif", "--s-churn", "1"), 2, "ddim takes no --s-churn"),
        (("sample", "--guidance-interval", "3"), 2, "two noise levels, such as 0.3,5"),
        (("sample", "--guidance-rescale", "0.7"), 2, "no meaning at --guidance 1"),
        (("sample", "--sampler", "ddpm", "--eta", "0"), 2, "--sampler ddpm is --eta 1"),
        (("sample", "--seed", "-1"), 2, "--seed"),
        (("gif", "nowhere"), 1, "nowhere: no such run"),
        (("inspect-schedule", "--schedule", "square"), 2, "sigmoid, cosine, sigmoid-abar"),
        (("inspect-schedule", "--timesteps", "0"), 2, "--timesteps"),
        (("inspect-schedule", "--spacing", "odd"), 2, "trailing, leading, linspace"),
        (("inspect-schedule", "--image", "none.png"), 1, "none.png"),
        (("inspect-schedule", "--image", "none.png", "--plot", "p.png"), 1, "none.png"),
        (("inspect-schedule", "--strip", "s.png"), 2, "--image"),
        (("inspect-schedule", "--image", "i.png", "--strip", "s.gif"), 2, "end in .png"),
        (("inspect-schedule", "--steps", "2000"), 2, "1000"),
        (("inspect-schedule", "--steps", "0"), 2, "--steps must be more than 0"),
        (("train", "--epochs", "inf"), 2, "and finite"),
        (("train", "--config", "deep.json"), 1, "network should hold named settings"),
        (("train", "--resume", "gone.pt"), 1, "gone.pt: no such file"),
        (("inspect-schedule", "--image", "broken/image.png"), 1, "broken/image.png"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_invalid_input_is_reported_in_one_line_with_an_exit_code(
    ddpm: Call, arguments: tuple[str, ...], code: int, message: str
) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/image.png").write_bytes(b"not an image")
    Path("a-file").write_text("precious")
    Path("typo.json").write_text(json.dumps({"optimiser": {"learning_rate": 1}}))
    Path("deep.json").write_text(json.dumps({"network": 3}))
    Path("kind.json").write_text(json.dumps({"optimiser": {"batch": "many"}}))
    before = sorted(map(str, Path().rglob("*")))
    result = ddpm(*arguments)
    assert result.code == code, result.err
    assert message in " ".join(result.err.replace("│", " ").split()), result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    if "Usage" not in result.err:
        assert result.err.splitlines()[-1].startswith("ddpm: ")
    assert sorted(map(str, Path().rglob("*"))) == before  # nothing was written or deleted


def test_a_closed_pipe_does_not_end_the_work() -> None:
    """As a closed terminal, or `tee` at Ctrl-C: rich would exit with code 1."""
    read, write = os.pipe()
    os.close(read)
    with (
        os.fdopen(write, "w", buffering=1) as closed,
        redirect_stderr(closed),
        console.tolerate_closed_streams(),
    ):
        terminal = console.Terminal()
        terminal.say("hello")
        with terminal.bar("training", 2, "images") as bar:
            bar.update(1)
        console.fail("stopped")
        assert os.fstat(write).st_rdev == Path(os.devnull).stat().st_rdev  # redirected


WORK = """
from ddpm_cli.cli import app, console
def work(prog_name):
    console.reporter().say('working')
    console.result('done', {}, False)
app.app = work
app.main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("rank", [{}, {"RANK": "0"}])
@pytest.mark.parametrize(
    ("redirection", "code"),
    [("2>&1 | true", 0), (">&- 2>&-", 0), ("2> /dev/full", 0), ("> /dev/full", 1)],
)
def test_a_closed_stdout_is_no_failure_and_a_full_disk_is(
    redirection: str, code: int, rank: dict[str, str]
) -> None:
    command = f'{sys.executable} -c "{WORK}" {redirection}; exit ${{PIPESTATUS[0]}}'
    environment = os.environ | rank | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("PYTHONUNBUFFERED", None)
    completed = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == code, completed.stderr
    assert "Traceback" not in completed.stderr
    assert ("No space left" in completed.stderr) == (code == 1)


def test_traceback_option(ddpm: Call) -> None:
    from ddpm_cli.core.errors import DdpmError

    with pytest.raises(DdpmError):
        ddpm("train", "--data", "missing", "--traceback")


def test_an_output_that_cannot_be_created(train_tiny: Call) -> None:
    Path("a-file").write_text("precious")
    result = train_tiny("--out", "a-file/run")
    assert (result.code, "cannot write a-file/run" in result.err) == (1, True)
    assert Path("a-file").read_text() == "precious"


def test_a_dry_run_checks_and_trains_nothing(train_tiny: Call, photos: Path) -> None:
    result = train_tiny("--dry-run", "--json")
    plan = result.json()
    assert result.code == 0
    assert plan["pictures"] == 24
    assert plan["classes"] == ["dark", "light"]
    assert (plan["images"], plan["steps"]) == (64, 8)
    assert plan["out"] == "runs/photos-8"
    assert plan["parameters"] > 1000
    assert list(Path().iterdir()) == []
    (photos / "dark" / "3.png").write_bytes(b"broken")
    broken = train_tiny("--dry-run")
    assert (broken.code, "dark/3.png" in broken.err) == (1, True)
    assert train_tiny("--dry-run", "--skip-bad").code == 0


def test_a_schedule_that_cannot_be_trained_with(train_tiny: Call, ddpm: Call) -> None:
    endless = ("--schedule", "linear-fixed", "--timesteps", 100_000)
    for result in (train_tiny("--dry-run", *endless), ddpm("inspect-schedule", *endless)):
        assert (result.code, "--timesteps 16840 or fewer" in result.err) == (2, True)
    short = ("--schedule", "linear", "--timesteps", 10)
    for result in (train_tiny("--dry-run", *short), ddpm("inspect-schedule", *short)):
        assert "linear: 5 betas are clipped to 0.999" in " ".join((result.err + result.out).split())


@pytest.mark.usefixtures("planned_only")
def test_the_cifar10_preset_is_the_network_of_ddpm(ddpm: Call, photos: Path) -> None:
    plan = ddpm("train", "--data", photos, "--preset", "cifar10", "--dry-run", "--json").json()
    assert plan["parameters"] == 35_746_307
    assert plan["classes"] == []
    arguments = ("--preset", "cifar10", "--conditional", "--dry-run", "--json")
    with_classes = ddpm("train", "--data", photos, *arguments).json()
    assert with_classes["parameters"] == 35_746_307 + 3 * 512  # two classes and the null class
    assert with_classes["classes"] == ["dark", "light"]


def test_notices_of_a_training_run(train_tiny: Call) -> None:
    result = train_tiny()
    assert result.code == 0
    lines = result.err.splitlines()
    assert "24 images of 8x8x3, 2 classes (dark, light)" in lines[0]
    assert any("No snapshot in runs/photos-8: starting from scratch" in line for line in lines)
    assert any(line.startswith("training: 100 %, 64 images") for line in lines)
    assert "Run directory: runs/photos-8" in result.out


def test_a_config_json_as_the_config_of_another_run(
    tiny_run: Callable[..., Path], ddpm: Call, photos: Path
) -> None:
    tiny_run("first", "--lr", "0.001")
    command = ("train", "--data", photos, "--config", "first/config.json")
    assert ddpm(*command, "--out", "second", "--images", 16).code == 0
    one, two = (json.loads(Path(name, "config.json").read_text()) for name in ("first", "second"))
    assert two["optimiser"]["lr"] == 0.001
    for part in ("network", "diffusion", "optimiser", "data"):
        assert one[part] == two[part]


def test_a_toml_config(ddpm: Call, photos: Path) -> None:
    Path("settings.toml").write_text("[network]\nwidth = 8\npatch = 2\n[budget]\nsteps = 1\n")
    arguments = ("--config", "settings.toml", "--batch", 4, "--dry-run", "--json")
    plan = ddpm("train", "--data", photos, *arguments).json()
    assert (plan["steps"], plan["images"]) == (1, 4)


def test_inspect_schedule_table(ddpm: Call) -> None:
    arguments = ("--schedule", "cosine", "--timesteps", 1000, "--steps", 50, "--spacing", "leading")
    table = ddpm("inspect-schedule", *arguments, "--json").json()
    assert (table["schedule"], table["timesteps"]) == ("cosine", 1000)
    assert table["beta"][0] == pytest.approx(4.128422482e-05, rel=1e-9)
    assert table["alpha_bar"][499] == pytest.approx(0.4938435904, rel=1e-9)
    assert table["snr"][499] == pytest.approx(table["sigma"][499] ** -2, rel=1e-9)
    assert table["steps"] == list(range(980, -1, -20))
    text = ddpm("inspect-schedule").out
    assert "linear, 1000 timesteps" in text
    assert "4.036e-05" in text
    assert math.isclose(table["sigma"][-1], 20291.17, rel_tol=1e-6)


def test_inspect_schedule_with_betas(ddpm: Call) -> None:
    betas = ("--schedule", "quadratic", "--beta-min", 0.00085, "--beta-max", 0.012)
    table = ddpm("inspect-schedule", *betas, "--json").json()
    assert table["beta"][500] == pytest.approx(0.004814954142, rel=1e-9)
    result = ddpm("inspect-schedule", "--schedule", "cosine", "--beta-max", 0.01)
    assert result.code == 2
    assert f"are for {', '.join(BETA_RANGED)}" in result.err


def test_inspect_schedule_plots(ddpm: Call) -> None:
    files.write_png(Path("cat.png"), np.full((3, 16, 16), 200, np.uint8))
    plotted = ddpm("inspect-schedule", "--plot", "curves.png", "--image", "cat.png")
    assert plotted.code == 0
    assert imageio.imread("curves.png").std() > 10
    strip = imageio.imread("cat-linear.png")
    height, width = strip.shape[:2]
    assert width > 5 * height  # a row of images
    assert np.median(strip[:, : width // 9]) > 190  # the first is the input
    assert strip[height // 3 : height // 2, -width // 12 :].std() > 60  # the last is noise
    frames = imageio.imread("cat-linear.gif", index=None)
    assert len(frames) == 24
    assert frames[-1].std() > frames[0].std()
    again = ddpm("inspect-schedule", "--plot", "curves.png")
    assert (again.code, "curves.png exists" in again.err) == (1, True)
    assert ddpm("inspect-schedule", "--plot", "curves.png", "--overwrite").code == 0


def test_inspect_schedule_compares_several_schedules(
    ddpm: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_png(Path("cat.png"), np.full((3, 300, 400), 200, np.uint8))
    monkeypatch.setenv("COLUMNS", "70")
    both = ("inspect-schedule", "--schedule", "linear,cosine")
    result = ddpm(*both, "--plot", "curves.png", "--image", "cat.png", "--strip", "both.png")
    assert result.code == 0, result.err
    assert max(len(line) for line in result.out.splitlines()) <= 70
    text = " ".join(result.out.split())
    assert "linear: abar_T = 4.0e-05: 99.4 % of the image is hidden at the end" in text
    assert "linear: the last 20 % of the timesteps hold less than 3.9 % of the image" in text
    assert "cosine: the last 20 % of the timesteps hold less than 30.5 % of the image" in text
    assert imageio.imread("both.png").shape[0] > 1.5 * 120
    assert imageio.imread("both.gif", index=0).shape[1] == 520
    documents = ddpm(*both, "--json").json()["schedules"]
    assert [table["schedule"] for table in documents] == ["linear", "cosine"]
    short = ddpm("inspect-schedule", "--timesteps", "1").out
    assert "1 steps visit 0" in short


def test_inspect_schedule_shows_the_steps_of_a_sampler(ddpm: Call) -> None:
    arguments = ("--schedule", "cosine", "--steps", 5, "--sampler", "heun", "--json")
    table = ddpm("inspect-schedule", *arguments).json()
    assert len(table["steps"]) == 5
    assert table["steps"][-1] == 0
    levels = np.exp(np.interp(table["steps"], range(1000), np.log(table["sigma"])))
    assert levels[0] == pytest.approx(80, rel=1e-3)  # not 20,291


def test_the_diagnosis_of_a_schedule() -> None:
    from ddpm_cli.core.figures import inspection

    table = {"schedule": "short", "timesteps": 10, "alpha_bar": list(np.linspace(0.99, 0.09, 10))}
    table["beta"] = [0.01] * 10
    end, tail = inspection.diagnosis(table)
    assert end.startswith("short: abar_T = 9.0e-02: 70.0 % of the image is hidden")
    assert end.endswith("from noise that training never saw")
    assert tail == "short: the last 20 % of the timesteps hold less than 43.6 % of the image"
    table["alpha_bar"] = list(np.geomspace(0.99, 1e-6, 10))
    end, tail = inspection.diagnosis(table)
    assert end.endswith("sampling can start from pure noise")
    assert "nearly redundant" in tail
    table["beta"] = [0.1] * 7 + [0.999] * 3
    clipped = inspection.diagnosis(table)[1]
    assert "3 betas are clipped to 0.999: 10 timesteps are too few" in clipped
    one = {"schedule": "one", "timesteps": 1, "alpha_bar": [0.5], "beta": [0.5]}
    assert len(inspection.diagnosis(one)) == 1


def test_stdout_has_only_the_json_document(train_tiny: Call, ddpm: Call) -> None:
    assert train_tiny("--json").json()["images"] == 64
    for command in (("sample", "-n", 1, "--steps", 2), ("gif", "-n", 1, "--steps", 2)):
        assert isinstance(ddpm(*command, "--json").json(), dict)
