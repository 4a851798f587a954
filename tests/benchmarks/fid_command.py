"""Seconds of `ddpm fid` as a whole command, against pytorch-fid and torch-fidelity.

    python tests/benchmarks/fid_command.py [--images 256] [--archive cifar10-test.zip] [--rounds 3]
        [--threads 2] [--batch 50] [--tools ddpm pytorch-fid ...]

Each tool scores the same two folders of PNGs on the CPU, in a process of its own, with the same
stand-in weights and without a cache of ours; the tools take turns, and the least of the rounds
counts: seconds of the clock, and of the processor, which other programs disturb less. `ddpm`
computes FID alone, as pytorch-fid does, `ddpm, all` what it computes by default: FID with its
standard error, KID, precision, recall, density and coverage. Without --archive, a .zip of images,
the images are the built-in shapes with noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform
from tests.support.inception_standin import standin_weights

ROOT = Path(__file__).parents[2]


class Tool(NamedTuple):
    """How a tool is called, and where its FID stands in what it prints."""

    arguments: Callable[[argparse.Namespace, Path], list[str]]
    fid: Callable[[str], float]


def ours(*options: str) -> Tool:
    """`ddpm fid` with these options."""
    call = ["-m", "ddpm_cli", "fid", "real", "fake", "--device", "cpu", "--no-cache", "--json"]
    return Tool(
        lambda _, weights: [*call, "--weights", str(weights), *options],
        lambda out: float(json.loads(out)["fid"]),
    )


def pytorch_fid(options: argparse.Namespace, weights: Path) -> list[str]:
    """pytorch-fid, whose download is replaced by the weights file (see `peer`)."""
    return [__file__, "--peer", str(weights), "--batch", str(options.batch)]


def torch_fidelity(options: argparse.Namespace, weights: Path) -> list[str]:
    """torch-fidelity's command, with FID alone."""
    call = ["-m", "torch_fidelity.fidelity", "--fid", "--cpu", "--json", "--no-cache"]
    call += ["--input1", "fake", "--input2", "real", "--batch-size", str(options.batch)]
    return [*call, "--feature-extractor-weights-path", str(weights)]


def last_number(out: str) -> float:
    """pytorch-fid's "FID:  12.3"."""
    return float(re.findall(r"FID:\s*([0-9.e+-]+)", out)[-1])


def of_document(out: str) -> float:
    """torch-fidelity's JSON."""
    return float(json.loads(out[out.index("{") :])["frechet_inception_distance"])


TOOLS = {
    "ddpm": ours("--metrics", "fid", "--no-spread"),
    "pytorch-fid": Tool(pytorch_fid, last_number),
    "ddpm, torch-fidelity's protocol": ours(
        "--metrics", "fid", "--no-spread", "--protocol", "torch-fidelity"
    ),
    "torch-fidelity": Tool(torch_fidelity, of_document),
    "ddpm, all": ours(),
}
PAIRS = (
    ("ddpm", "pytorch-fid"),
    ("ddpm, torch-fidelity's protocol", "torch-fidelity"),
    ("ddpm, all", "pytorch-fid"),
    ("ddpm, all", "torch-fidelity"),
)


def peer(weights: str, batch: int) -> None:
    """Be pytorch-fid's command, with the weights from a file."""
    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights)
    sys.argv = ["pytorch-fid", "real", "fake", "--device", "cpu", "--batch-size", str(batch)]
    fid_score.main()


def write_images(folder: Path, options: argparse.Namespace) -> None:
    """Fill real/ and fake/ with as many PNGs each."""
    rng = np.random.default_rng(0)
    if options.archive:
        listing = open_image_files(options.archive)
        chosen = rng.choice(len(listing.names), 2 * options.images, replace=False)
        images = [Image.open(BytesIO(listing.read(int(i)))).convert("RGB") for i in chosen]
    else:
        source, images = Shapes(), []
        for i in range(2 * options.images):
            pixels = source.image(i, Transform(3, (32, 32))) + 20 * rng.standard_normal((3, 32, 32))
            array = pixels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            images.append(Image.fromarray(array))
    for i, image in enumerate(images):
        target = folder / ("real", "fake")[i % 2] / f"{i // 2:05}.png"
        target.parent.mkdir(exist_ok=True)
        image.save(target)


def run(tool: Tool, options: argparse.Namespace, folder: Path) -> tuple[float, float, float]:
    """Seconds of the clock and of the processor that the command takes, and its FID."""
    env = os.environ | {
        "OMP_NUM_THREADS": str(options.threads),
        "MKL_NUM_THREADS": str(options.threads),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, *tool.arguments(options, folder / "standin.pth")]
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    taken, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    return taken, processor, tool.fid(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 256), ("rounds", 3), ("threads", 2), ("batch", 50)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer, options.batch)
        return
    least = dict.fromkeys(options.tools, (math.inf, math.inf))
    fids: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(standin_weights(), folder / "standin.pth")
        write_images(folder, options)
        for number in range(options.rounds):
            order = options.tools if number % 2 == 0 else options.tools[::-1]
            for name in order:
                clock, processor, fids[name] = run(TOOLS[name], options, folder)
                least[name] = min(least[name][0], clock), min(least[name][1], processor)
                print(f"{name}: {clock:.1f} s, {processor:.1f} s of the processor", flush=True)
    print(f"\n2 x {options.images} images, {options.threads} threads, least of {options.rounds}")
    print("| command | seconds | of the processor | FID |\n| --- | --- | --- | --- |")
    for name, (clock, processor) in least.items():
        print(f"| {name} | {clock:.1f} | {processor:.1f} | {fids[name]:.4f} |")
    for one, other in PAIRS:
        if one in least and other in least:
            clock, processor = (b / a for a, b in zip(least[one], least[other], strict=True))
            gap = abs(fids[one] / fids[other] - 1)
            print(
                f"{other} takes {clock:.2f} times {one}, {processor:.2f} times of the processor; "
                f"the FIDs differ by {gap:.0e}"
            )


if __name__ == "__main__":
    main()
