"""Peak memory of `ddpm fid` on 1,000 and on 10,000 images, each in its own process.

    python tests/benchmarks/memory.py --features FILE.safetensors [--metrics fid,kid,prdc]
    python tests/benchmarks/memory.py --weights FILE.pth [--counts 1000 10000]

With a local classifier it takes a minute, with Inception an hour or more on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def peak(command: list[str]) -> float:
    """Peak resident memory of a command, MiB."""
    program = (
        "import resource, sys\n"
        "from ddpm_cli.cli.app import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=True
    )
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(done.stderr.strip().splitlines()[-1]) / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features")
    parser.add_argument("--weights")
    parser.add_argument("--metrics", default="fid,kid,prdc,is")
    parser.add_argument("--counts", type=int, nargs=2, default=(1_000, 10_000))
    options = parser.parse_args()
    network = (
        ["--features", options.features] if options.features else ["--weights", options.weights]
    )
    rng = np.random.default_rng(0)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for n in options.counts:
            sides = [Path(folder) / f"{side}{n}.npz" for side in "ab"]
            for path in sides:
                np.savez(path, arr_0=rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))
            command = [
                "fid",
                *map(str, sides),
                "--metrics",
                options.metrics,
                "--no-cache",
                *network,
            ]
            peaks.append(peak(command))
            print(f"n = {n:,}: {peaks[-1]:,.0f} MiB")
    print(f"ratio {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
