#!/usr/bin/env python3
"""A trained run's distance from real pictures, by sampler and number of steps, as Markdown.

    python examples/samplers.py mnist:test runs/mnist features.safetensors > table.md

REAL is what `ddpm fid` takes, FEATURES a classifier's weights for `ddpm fid --features`. Every
cell draws -n pictures from the same noise. (Heun evaluates the network twice a step, the others
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
    """Measure every cell and print the table, row by row as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("real", help="real pictures, as ddpm fid takes them")
    parser.add_argument("run", help="a run directory or a weights file")
    parser.add_argument("features", help="a classifier's weights, for ddpm fid --features")
    parser.add_argument("-n", type=int, default=5000, help="pictures a cell")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 1000])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print("| sampler | " + " | ".join(f"{steps} steps" for steps in asked.steps) + " |")
    print("| --- |" + " ---: |" * len(asked.steps))
    for name in asked.samplers:
        cells = [distance(asked, [*SAMPLERS[name], "--steps", str(steps)]) for steps in asked.steps]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


def distance(asked: argparse.Namespace, options: list[str]) -> float:
    """One cell: the Frechet distance that `ddpm fid` reports for pictures drawn in this way."""
    command = [sys.executable, "-m", "ddpm_cli", "fid", asked.real, asked.run]
    command += ["--features", asked.features, "-n", str(asked.n), "--seed", str(asked.seed)]
    command += ["--metrics", "fid", "--no-spread", "--json", *options]
    print("+", *command[3:], file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["fid"])


if __name__ == "__main__":
    main()
