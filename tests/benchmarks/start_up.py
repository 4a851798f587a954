"""What commands take to start, against Python's `import torch`, in turns.

    python tests/benchmarks/start_up.py [--rounds 7]

The fastest of each counts, in seconds of the clock and of the processor. `sample` draws one image
of 32x32 in one network call, with an untrained network of the preset `shapes`. The last line is the
ratio that matters: what `sample` takes, without the network's call, to `import torch`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ddpm_cli
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.models.unet import UNet

DDPM = ("-m", "ddpm_cli")
SAMPLE = ("sample", "run", "-n", "1", "--steps", "1", "--overwrite")
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "ddpm --help": (*DDPM, "--help"),
    "ddpm sample --help": (*DDPM, "sample", "--help"),
    "ddpm inspect-schedule": (*DDPM, "inspect-schedule"),
    "ddpm sample": (*DDPM, *SAMPLE, "--out", "one"),
    "ddpm train, one step": (
        *DDPM, "train", "--data", "shapes", "--images", "1", "--batch", "1", "--preview", "0",
        "--resume", "never",
    ),
}  # fmt: skip


def seconds(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a Python process takes."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    taken, after = time.perf_counter() - started, os.times()
    assert done.returncode == 0, done.stderr
    processor = after.children_user + after.children_system
    return taken, processor - before.children_user - before.children_system


def network_call() -> float:
    """Seconds of one network call for one image, the fastest of several."""
    import torch

    network = UNet(ddpm_cli.config("shapes").network).eval()
    x, fastest = torch.zeros(1, 3, 32, 32), math.inf
    with torch.inference_mode():
        for _ in range(10):
            started = time.perf_counter()
            network(x, torch.zeros(1))
            fastest = min(fastest, time.perf_counter() - started)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    config = ddpm_cli.config("shapes")
    fastest = dict.fromkeys(COMMANDS, (math.inf, math.inf))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "run").mkdir()
        state = UNet(config.network).state_dict()
        weights.save(folder / "run" / "model.safetensors", state, config, 0)
        for _ in range(rounds):
            for name, arguments in COMMANDS.items():
                taken = seconds(arguments, folder)
                fastest[name] = tuple(map(min, fastest[name], taken))  # type: ignore[assignment]
    print("| command | seconds | of the processor | to `import torch` |")
    print("| --- | --- | --- | --- |")
    for name, (taken, processor) in fastest.items():
        ratio = processor / fastest["import torch"][1]
        print(f"| `{name}` | {taken:.2f} | {processor:.2f} | {ratio:.2f} |")
    ratio = (fastest["ddpm sample"][1] - network_call()) / fastest["import torch"][1]
    print(f"ddpm sample without its network call, to import torch, of the processor: {ratio:.2f}")


if __name__ == "__main__":
    main()
