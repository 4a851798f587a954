#!/usr/bin/env python3
"""FID of a trained run by sampler and number of steps, as a Markdown table.

    python examples/samplers.py mnist:test runs/mnist features.safetensors > table.md

REAL is any input of `ddpm fid`, FEATURES a classifier's weights for `ddpm fid --features`. Every
cell samples -n images from the same noise. (Heun evaluates the network twice per step, the others
once.)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

SAMPLERS = {
    "ddpm": ["--sampler", "ddpm"],
    "ddpm, fixed-large": ["--sampler", "ddpm", "--variance", "fixed-large"],
    "ddim": ["--sampler", "ddim"],
    "euler": ["--sampler", "euler"],
    "heun": ["--sampler", "heun"],
    "heun, churn 10": ["--sampler", "heun", "--s-churn", "10"],
    "dpmpp-2m": ["--sampler", "dpmpp-2m"],
    "ipndm": ["--sampler", "ipndm"],
}


def main() -> None:
    """Compute every cell and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("real", help="real images, as ddpm fid takes them")
    parser.add_argument("run", help="a run directory or a weights file")
    parser.add_argument("features", help="a classifier's weights, for ddpm fid --features")
    parser.add_argument("-n", type=int, default=5000, help="images per cell")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 1000])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| sampler | " + " | ".join(f"{steps} steps" for steps in arguments.steps) + " |")
    print("| --- |" + " ---: |" * len(arguments.steps))
    for name in arguments.samplers:
        cells = [
            distance(arguments, [*SAMPLERS[name], "--steps", str(steps)])
            for steps in arguments.steps
        ]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


def distance(arguments: argparse.Namespace, options: list[str]) -> float:
    """One cell: the Frechet distance that `ddpm fid` reports with these sampling options."""
    command = [sys.executable, "-m", "ddpm_cli", "fid", arguments.real, arguments.run]
    command += [
        "--features",
        arguments.features,
        "-n",
        str(arguments.n),
        "--seed",
        str(arguments.seed),
    ]
    command += ["--metrics", "fid", "--no-spread", "--json", *options]
    print("+", *command[3:], file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["fid"])


if __name__ == "__main__":
    main()
