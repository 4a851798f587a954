"""The likeliest mistakes of a new user, and the whole line that each is answered with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Result

PRESETS = (
    "shapes, mnist, small, small-64, cifar10, cifar10-fast, iddpm-cifar10, edm-cifar10, adm-64, "
    "celeba-64, photos-64, jit-s/4-32, dit-s/4-32"
)
SAMPLERS = (
    "ddim, ddpm, euler, heun, dpmpp-2m, dpmpp-3m, ipndm, dpmpp-2m-sde, dpmpp-3m-sde, consistency"
)
SCHEDULES = "linear, linear-fixed, quadratic, sigmoid, cosine, sigmoid-abar, edm, flow"
CLASSES = "it has 2 classes, numbered from 0 to 1: dark, light"

MISTAKES = {
    # commands and options
    "smaple": "there is no command 'smaple'; did you mean sample?; see ddpm --help",
    "--versoin": "ddpm has no option --versoin; did you mean --version? See ddpm --help",
    "sample --promt cat": "sample has no option --promt; did you mean --prompt or --prompts or "
    "--nproc? See ddpm sample --help",
    "train --stesp 3": "train has no option --stesp; did you mean --steps? See ddpm train --help",
    "train --batch-size 8": "train has no option --batch-size; here it is --batch",
    "train --learning-rate 1": "train has no option --learning-rate; here it is --lr",
    "sample --cfg 3": "sample has no option --cfg; here it is --guidance",
    "sample --num-samples 3": "sample has no option --num-samples; here it is -n",
    "sample --model runs/shapes-32": "sample has no option --model; here it is an argument: "
    "ddpm sample RUN",
    "train --eta 1": "train has no option --eta; ddpm sample, sweep and gif have it; see "
    "ddpm train --help",
    "train-classifier --size 16": "train-classifier has no option --size; ddpm data, train and "
    "convert have it; see ddpm train-classifier --help",
    "train -data photos": "train has no option -d; did you mean --data, with two dashes?",
    "sample --zzz": "sample has no option --zzz; see ddpm sample --help",
    "sample --requeue": "sample has no option --requeue; ddpm train and distill have it; see ddpm "
    "sample --help",
    "sample --num 3": "sample has no option --num; here it is -n",
    "sample --ckpt x": "sample has no option --ckpt; here it is an argument: ddpm sample RUN",
    "train --class dark": "train has no option --class; ddpm sample, sweep and gif have "
    "it; see ddpm train --help",
    "train --data photos --data pets": "--data is given 2 times; it takes one value; put both in "
    "one folder: its sub-folders become classes",
    "train --data Ski Trips/": "put names with spaces in quotes: --data 'Ski Trips/'",
    "data Ski Trips": "put names with spaces in quotes: 'Ski Trips'",
    "fid photos": "Missing argument 'FAKE'; such as: ddpm fid photos/ fake/; see ddpm fid --help",
    "fid": "Missing argument 'REAL'; such as: ddpm fid photos/ fake/; see ddpm fid --help",
    "fid --compare": "--compare needs files of --json or --out, such as: ddpm fid --compare "
    "monday.json tuesday.json",
    "fid runs/shapes-32 photos": "REAL runs/shapes-32 is a run; only FAKE can be one; swap them: "
    "ddpm fid photos runs/shapes-32",
    "fid photos pets -n 3 --steps 2": "--steps, -n are for sampling from a run; pets is none; of "
    "other inputs all images are scored: for n of them give n files",
    # values that are one of some
    "train --preset cifar-10": f"--preset 'cifar-10' is unknown; choose one of {PRESETS}; did you "
    "mean cifar10 or edm-cifar10 or cifar10-fast?",
    "sample --sampler dimm": f"--sampler 'dimm' is unknown; choose one of {SAMPLERS}; did you "
    "mean ddim?",
    "inspect-schedule --schedule cosin": f"--schedule 'cosin' is unknown; choose one of "
    f"{SCHEDULES}; did you mean cosine?",
    "train --network transformer --multipliers 1,2": "--multipliers is of the U-Net, and the "
    "network is a transformer; leave it out, or give --network unet",
    "train --depth 12": "--depth is of a transformer, and the network is the U-Net; leave it out, "
    "or give --network transformer",
    "train --device gpu": "--device 'gpu' is unknown; choose one of auto, cpu, cuda, mps; did you "
    "mean cuda?",
    "train --gpu": "train has no option --gpu; here it is --device cuda",
    "train --fit corp": "--fit 'corp' is unknown; choose one of crop, pad, stretch; did you mean "
    "crop?",
    "gif --format gfi": "--format 'gfi' is unknown; choose one of gif, webp, mp4, png; did you "
    "mean gif?",
    "train --background whit": "--background 'whit' is no colour; give white, black, grey or "
    '#rrggbb, such as "#ff8800"; did you mean white?',
    "fid photos photos --metrics fdi": "--metrics fdi: choose from fid,kid,prdc,infinity,mind,"
    "classes,is,sfid; did you mean fid?",
    "fid photos photos --protocol cleanfid": "--protocol 'cleanfid' is unknown; choose one of "
    "pytorch-fid, torch-fidelity, clean-fid; did you mean clean-fid?",
    # runs, their classes and weights
    "sample runs/shaps-32": "runs/shaps-32: no such run or weights file; did you mean "
    "runs/shapes-32?",
    "sample shapes-32": "shapes-32: no such run or weights file; did you mean runs/shapes-32?",
    "gif runs/shapes-32/model.safetensor": "runs/shapes-32/model.safetensor: no such run or "
    "weights file; did you mean runs/shapes-32/model.safetensors or "
    "runs/shapes-32/best.safetensors?",
    "train --init-from runs/shapes32": "runs/shapes32: no such run or weights file; did you mean "
    "runs/shapes-32?",
    "convert runs/shape-32 --out x.safetensors": "runs/shape-32: no such file or folder; did you "
    "mean runs/shapes-32?",
    "sample --class drak": f"--class 'drak' is not a class of this model; did you mean dark? "
    f"{CLASSES}",
    "sample --class dark,light": "--class 'dark,light' is not a class of this model; did you mean "
    f"--class dark --class light? {CLASSES}",
    "sample --class cat": f"--class 'cat' is not a class of this model; {CLASSES}",
    "sample ./runs": "runs is not a run but holds runs (1, newest first): "
    "runs/shapes-32; name one of them",
    # data and files
    "train --data cifra10": "cifra10: no such folder or archive; did you mean cifar10 or cifar100?",
    "train --data phots": "phots: no such folder or archive; did you mean photos or pets?",
    "train --data photos/lihgt": "photos/lihgt: no such folder or archive; did you mean "
    "photos/light? photos/ holds light, dark",
    "train --config tiny.jsn": "--config tiny.jsn: no such file; did you mean tiny.json or "
    "typo.json?",
    "sample --init photos/dark/01.png": "--init photos/dark/01.png: no such file; did you mean "
    "photos/dark/1.png or photos/dark/0.png or photos/dark/11.png?",
    "train --config My": "--config My: no such file",
    "train --config photos": "--config photos: is a directory",
    "train --config runs/shapes-32": "--config runs/shapes-32: is a directory; give "
    "runs/shapes-32/config.json",
    "train --config top.toml": "top.toml: unknown setting 'size'; it is network.size (in TOML "
    "[network] size = …)",
    "train --config note.txt": "--config note.txt is neither JSON nor TOML (Expecting value: line "
    "1 column 1 (char 0))",
    "sample --out x.txt": "--out x.txt is named as a file; give a folder, such as x, or a name in "
    ".npz or .zip",
    "train --config typo.json": "typo.json.optimiser: unknown setting 'batchsize'; did you mean "
    "batch? known: batch, betas, class_drop, clip, decay, ema_halflife, ema_rampup, lr, method, "
    "seed, warmup, weight_decay (another version of ddpm may have others)",
}


@pytest.fixture
def here(photos: Path, tiny: Path, tiny_run: Callable[..., Path]) -> None:
    """A working folder with a run, photos and files of settings."""
    Path("runs").mkdir()
    tiny_run("runs/shapes-32", "--images", 16)
    Path("photos").symlink_to(photos)
    Path("tiny.json").symlink_to(tiny)
    Path("Ski Trips").mkdir()
    Path("top.toml").write_text("size = 32")
    Path("note.txt").write_text("a note")
    Path("typo.json").write_text('{"optimiser": {"batchsize": 3}}')


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items())
def test_the_mistakes_of_new_users(
    ddpm: Callable[..., Result], here: None, arguments: str, message: str
) -> None:
    result = ddpm(*arguments.split())
    assert result.err.splitlines()[-1] == f"ddpm: {message}"
    assert result.code in (1, 2) and result.out == ""
