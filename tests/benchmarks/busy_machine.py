"""What another process costs: sampling and training alone, and beside a process on the same cores.

    python tests/benchmarks/busy_machine.py [--preset shapes] [--seconds 5] [--images 16]
        [--settings ours own 1000 10000 PASSIVE one]

A setting is how long libgomp's threads wait in a loop for work before they sleep (GOMP_SPINCOUNT);
`ours` is what the program chooses, `own` libgomp's (300,000 or more), PASSIVE its OMP_WAIT_POLICY,
`one` a single thread. For each, steps of a network with random weights are timed for so many
seconds: network calls of sampling, and steps of training. Alone, the fastest tenth of them counts,
as other processes of the machine disturb the rest; beside a process that never waits, all do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from ddpm_cli.core.runtime import threads

CHOSEN = (*threads.WAITING, *threads.COUNTING)
WORKS = ("sample", "train")


def environment(setting: str) -> dict[str, str]:
    """The environment of a child process with this setting."""
    env = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    match setting:
        case "ours":
            threads.set_waiting(env)
        case "own":
            pass
        case "one":
            env["OMP_NUM_THREADS"] = "1"
        case "PASSIVE":
            env["OMP_WAIT_POLICY"] = setting
        case _:
            env["GOMP_SPINCOUNT"] = setting
    return env


def durations(setting: str, work: str, options: argparse.Namespace) -> list[float]:
    """Seconds of each step, in a new process."""
    command = [sys.executable, __file__, "--child", work, "--preset", options.preset]
    command += ["--seconds", str(options.seconds), "--images", str(options.images)]
    done = subprocess.run(
        command, env=environment(setting), capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def steps(work: str, preset: str, images: int) -> Iterator[None]:
    """Steps of sampling or training, a step each."""
    import torch

    import ddpm_cli
    from ddpm_cli.core.conditioning.condition import UNCONDITIONAL
    from ddpm_cli.core.models.unet import UNet

    network = UNet(ddpm_cli.config(preset).network).to(memory_format=torch.channels_last)
    size = network.config.size
    x = torch.zeros(images, network.config.channels, *size).contiguous(
        memory_format=torch.channels_last
    )
    if work == "sample":
        network.eval()
        with torch.inference_mode():
            while True:
                network(x, x[:, 0, 0, 0], UNCONDITIONAL)
                yield
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    while True:
        optimiser.zero_grad()
        network(x, x[:, 0, 0, 0], UNCONDITIONAL).square().mean().backward()
        optimiser.step()
        yield


def child(options: argparse.Namespace) -> None:
    """Time steps, and print the seconds of each."""
    work = steps(options.child, options.preset, options.images)
    for _ in range(3):
        next(work)
    taken, ending = [], time.perf_counter() + options.seconds
    while time.perf_counter() < ending:
        started = time.perf_counter()
        next(work)
        taken.append(time.perf_counter() - started)
    print(json.dumps(taken))


def alone(taken: list[float]) -> float:
    """Seconds of an undisturbed step: the mean of the fastest tenth."""
    return statistics.fmean(sorted(taken)[: max(1, len(taken) // 10)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--settings", nargs="+", default=["ours", "own", "1000", "10000", "one"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--child", choices=WORKS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    print(f"{options.preset}, {options.images} images, {threads.cores()} cores")
    print("| work | setting | alone, ms | beside a process, ms | ratio |")
    for work, setting in itertools.product(options.works, options.settings):
        idle = alone(durations(setting, work, options))
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            busy = statistics.fmean(durations(setting, work, options))
        finally:
            neighbour.kill()
            neighbour.wait()
        print(
            f"| {work} | {setting} | {1000 * idle:.1f} | {1000 * busy:.1f} | {busy / idle:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
