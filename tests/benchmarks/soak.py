"""A training run that is killed about every minute, compared with an undisturbed one.

    python tests/benchmarks/soak.py [--minutes 10] [--every 60] [--nproc 2] [--place FOLDER]

For `--minutes` SIGKILL hits, at random, one worker, the launcher, or all of them at once, about
`--every` seconds after training resumes, sometimes while it still starts; whenever the command has
ended it is run again. Finally SIGTERM stops it, an undisturbed run trains on as many images, and
the weights are compared. On the CPU they should be equal: two processes always add the same two
numbers.

Needs Linux (/proc). Not run by pytest: it takes --minutes, and half as long again or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from ddpm_cli.core.runtime.run_directory import RunDirectory

# Without decay towards the budget's end the learning rate does not depend on the length of the run.
STEADY = {"optimiser": {"decay": 0.0, "warmup": 1_000}}
ENDLESS = 10**9  # images
LATE = 600  # seconds beyond --minutes to find a run that has resumed and can be stopped
GRACE = 60  # seconds for processes that survive a kill to end by themselves
EARLY = 0.2  # share of the kills that do not wait until training has resumed


def start(place: Path, name: str, nproc: int, *budget: object) -> subprocess.Popen[bytes]:
    command = ["train", "--data", "shapes", "--config", place / "steady.json", "--preview", 0]
    command += ["--nproc", nproc, "--device", "cpu", "--snapshot-every", 1_000]
    command += ["--out", place / name, *budget]
    with (place / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ddpm_cli", *map(str, command)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def children(parent: int) -> list[int]:
    """Descendants of a process, nearest first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [parent]
    for one in found:
        found += [pid for pid, its in parents.items() if its == one]
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process is running (a zombie is not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pids: list[int]) -> None:
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def kill_one(launcher: subprocess.Popen[bytes], rng: random.Random) -> tuple[str, int]:
    """Kill a random target: its name, and the number of orphans that had to be killed."""
    workers = children(launcher.pid)
    targets = {"launcher": [launcher.pid], "everything": [launcher.pid, *workers]}
    if workers:
        targets["a worker"] = [rng.choice(workers)]
    name = rng.choice(sorted(targets))
    kill(targets[name])
    if name == "a worker":  # the launcher restarts the workers, or ends
        return name, 0
    launcher.wait()
    deadline = time.monotonic() + GRACE
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    orphans = [pid for pid in workers if alive(pid)]
    kill(orphans)
    return name, len(orphans)


def images(run: Path) -> int:
    """Images seen at the newest snapshot."""
    return max((int(path.stem) for path in run.glob("snapshots/*.pt")), default=0)


def ended(running: subprocess.Popen[bytes], run: Path, seconds: float, *, early: bool) -> bool:
    """Wait, unless `early` from the next row of metrics on; whether the process has ended."""
    before = [row["images"] for row in RunDirectory(run).rows()]
    while not early and running.poll() is None:
        if [row["images"] for row in RunDirectory(run).rows()] != before:
            break
        time.sleep(0.2)
    try:
        running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def disturbed(place: Path, options: argparse.Namespace) -> dict[str, int]:
    """Train with random kills, then stop with a snapshot: counts of events."""
    rng, counts = random.Random(options.seed), {"starts": 0, "images lost": 0, "orphans": 0}
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until + LATE:
        counts["starts"] += 1
        running = start(place, "killed", options.nproc, "--images", ENDLESS)
        seconds = options.every * rng.uniform(0.5, 1.5)
        while not ended(running, place / "killed", seconds, early=rng.random() < EARLY):
            if time.monotonic() > until:
                running.send_signal(signal.SIGTERM)
                if running.wait() != 75:
                    sys.exit(f"it did not stop on SIGTERM; see {place}/killed.log")
                return counts
            rows = RunDirectory(place / "killed").rows()
            trained = int(rows[-1]["images"] or 0) if rows else 0
            name, orphans = kill_one(running, rng)
            counts[name] = counts.get(name, 0) + 1
            counts["orphans"] += orphans
            counts["images lost"] += max(0, trained - images(place / "killed"))
            print(f"  at about {trained:,} images: SIGKILL to {name}", flush=True)
            seconds = options.every * rng.uniform(0.5, 1.5)
    sys.exit(f"it does not train any more; see {place}/killed.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=60)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    place = options.place or Path(tempfile.mkdtemp(prefix="soak-"))
    place.mkdir(parents=True, exist_ok=True)
    (place / "steady.json").write_text(json.dumps(STEADY))

    started = time.monotonic()
    counts = disturbed(place, options)
    budget = images(place / "killed")
    print(f"killed: {budget:,} images, {(time.monotonic() - started) / 60:.1f} minutes; {counts}")
    undisturbed = start(place, "straight", options.nproc, "--images", budget)
    if undisturbed.wait() != 0:
        sys.exit(f"the undisturbed training failed; see {place}/straight.log")

    one, other = (load_file(place / name / "model.safetensors") for name in ("straight", "killed"))
    largest = max(float((one[name] - other[name]).abs().max()) for name in one)
    equal = all(torch.equal(one[name], other[name]) for name in one)
    print(f"weights: {'equal bit for bit' if equal else f'they differ by up to {largest:.2e}'}")
    print(f"runs and logs are in {place}")
    sys.exit(0 if equal or largest < 1e-3 else 1)


if __name__ == "__main__":
    main()
