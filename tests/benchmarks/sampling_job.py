"""`ddpm sample` as a job: its time over that of its network calls alone, and its memory.

    python tests/benchmarks/sampling_job.py RUN [-n 256] [--steps 20] [--rounds 3]
    python tests/benchmarks/sampling_job.py RUN --memory 10000

Time: images in batches of 64 are sampled and written as PNGs, plainly and with guidance, and in
turn with them the network is called as often on a batch of noise. Memory: peak resident memory of
a command that writes so many images into an .npz, over that of one that samples a batch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.diffusion.sampling import grid
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.generation.outputs import output
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import find_weights

BATCH = 64


def request_for(model: Model, count: int, steps: int, guidance: float) -> GenerationRequest:
    sampling = Sampling(steps=steps, guidance=guidance)
    return generate.resolve_request(model, count, 0, ConditionRequest(), sampling, Silent())


def calling(model: Model, request: GenerationRequest) -> float:
    """Seconds that the network calls of a request without guidance take alone."""
    noise = generate.image_noise(model, request, range(BATCH))()
    condition = request.conditions.condition(range(BATCH), model.device)
    sigmas = grid(model.denoiser.schedule, request.sampling).tolist()[:-1]
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(request.count // BATCH):
            for sigma in sigmas:
                model.denoiser.predict(noise, sigma, condition)
    return time.perf_counter() - started


def writing(model: Model, request: GenerationRequest, folder: str, name: str) -> float:
    """Seconds that sampling and writing a request's images take."""
    started = time.perf_counter()
    output.write(output.at(Path(folder, name), model, request), BATCH, Silent())
    return time.perf_counter() - started


def compare(run: Path, count: int, steps: int, rounds: int) -> None:
    model = load_model(find_weights(run), torch.device("cpu"), torch.float32)
    plain, guided = (request_for(model, count, steps, guidance) for guidance in (1, 2))
    times: dict[str, list[float]] = {"calls": [], "sample": [], "guided": []}
    calling(model, plain)  # the first is slower
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            times["calls"].append(calling(model, plain))
            times["sample"].append(writing(model, plain, folder, f"plain-{number}"))
            times["guided"].append(writing(model, guided, folder, f"guided-{number}"))
    best = {name: min(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        shown = ", ".join(f"{second:.2f}" for second in seconds)
        print(f"{name}: {shown} s, {best[name] / best['calls']:.3f} x the calls")


def peak(run: Path, count: int, name: str) -> float:
    """Peak resident memory, in MiB, of sampling so many images in one step."""
    program = (
        "import resource, sys\n"
        "from ddpm_cli.cli.app import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    options = ["-n", str(count), "--steps", "1", "--batch", str(BATCH), "--out", name]
    done = subprocess.run(
        [sys.executable, "-c", program, "sample", str(run), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(done.stderr.strip().splitlines()[-1]) / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int)
    options = parser.parse_args()
    if options.memory is None:
        compare(options.run, options.n, options.steps, options.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        batch = peak(options.run, BATCH, f"{folder}/a.npz")
        print(f"{BATCH} images: {batch:,.0f} MiB")
        for suffix in (".npz", ".zip"):
            many = peak(options.run, options.memory, f"{folder}/many{suffix}")
            print(f"{options.memory:,} images, {suffix}: {many:,.0f} MiB, {many - batch:+,.0f}")


if __name__ == "__main__":
    main()
