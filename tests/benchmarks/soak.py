"""A training that is killed about every minute, against the same one undisturbed.

    python tests/benchmarks/soak.py [--minutes 10] [--every 60] [--nproc 2] [--seed 0] [--place FOLDER]

For the given minutes SIGKILL hits, by lot, one worker, the launcher, or all of them at once, about
`--every` seconds after training goes on, now and then while it still starts; whenever the command
has ended it is given again. In the end SIGTERM stops it, an undisturbed training sees as many
images, and the weights are compared. On the CPU two processes add the same two numbers whatever
happens, so there they should be equal.

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

# Without a fall towards the budget's end the learning rate does not know how long the run will be.
STEADY = {"optimiser": {"decay": 0.0, "warmup": 1_000}}
ENDLESS = 10**9  # images
LATE = 600  # seconds after its time to find a training that goes on and can be stopped
GRACE = 60  # seconds for what outlives a kill to end by itself
EARLY = 0.2  # share of the kills that do not wait until training goes on


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
    """Processes below this one, nearest first."""
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
    """Whether a process still runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pids: list[int]) -> None:
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def strike(launcher: subprocess.Popen[bytes], lot: random.Random) -> tuple[str, int]:
    """Kill somebody; who it was, and how many processes had to be ended because they stayed."""
    workers = children(launcher.pid)
    victims = {"launcher": [launcher.pid], "everything": [launcher.pid, *workers]}
    if workers:
        victims["a worker"] = [lot.choice(workers)]
    who = lot.choice(sorted(victims))
    kill(victims[who])
    if who == "a worker":  # the launcher sees to it: it starts others, or ends
        return who, 0
    launcher.wait()
    patience = time.monotonic() + GRACE
    while any(map(alive, workers)) and time.monotonic() < patience:
        time.sleep(0.2)
    left = [pid for pid in workers if alive(pid)]
    kill(left)
    return who, len(left)


def images(run: Path) -> int:
    """Images seen at the newest snapshot."""
    return max((int(path.stem) for path in run.glob("snapshots/*.pt")), default=0)


def ended(running: subprocess.Popen[bytes], run: Path, seconds: float, *, early: bool) -> bool:
    """Wait some seconds, unless `early` after the next row of metrics; whether it has ended."""
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


def disturbed(place: Path, given: argparse.Namespace) -> dict[str, int]:
    """Train under fire, then stop and save; what happened, counted."""
    lot, happened = random.Random(given.seed), {"starts": 0, "images lost": 0, "orphans": 0}
    until = time.monotonic() + 60 * given.minutes
    while time.monotonic() < until + LATE:
        happened["starts"] += 1
        running = start(place, "killed", given.nproc, "--images", ENDLESS)
        seconds = given.every * lot.uniform(0.5, 1.5)
        while not ended(running, place / "killed", seconds, early=lot.random() < EARLY):
            if time.monotonic() > until:
                running.send_signal(signal.SIGTERM)
                if running.wait() != 75:
                    sys.exit(f"it did not stop as told; see {place}/killed.log")
                return happened
            rows = RunDirectory(place / "killed").rows()
            seen = int(rows[-1]["images"] or 0) if rows else 0
            who, orphans = strike(running, lot)
            happened[who] = happened.get(who, 0) + 1
            happened["orphans"] += orphans
            happened["images lost"] += max(0, seen - images(place / "killed"))
            print(f"  at about {seen:,} images: SIGKILL to {who}", flush=True)
            seconds = given.every * lot.uniform(0.5, 1.5)
    sys.exit(f"it trains no more; see {place}/killed.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=60)
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path)
    given = parser.parse_args()
    place = given.place or Path(tempfile.mkdtemp(prefix="soak-"))
    place.mkdir(parents=True, exist_ok=True)
    (place / "steady.json").write_text(json.dumps(STEADY))

    started = time.monotonic()
    happened = disturbed(place, given)
    budget = images(place / "killed")
    print(f"killed: {budget:,} images, {(time.monotonic() - started) / 60:.1f} minutes; {happened}")
    undisturbed = start(place, "straight", given.nproc, "--images", budget)
    if undisturbed.wait() != 0:
        sys.exit(f"the undisturbed training failed; see {place}/straight.log")

    one, other = (load_file(place / name / "model.safetensors") for name in ("straight", "killed"))
    largest = max(float((one[name] - other[name]).abs().max()) for name in one)
    equal = all(torch.equal(one[name], other[name]) for name in one)
    print(f"weights: {'equal bit for bit' if equal else f'they differ by up to {largest:.2e}'}")
    print(f"all is in {place}")
    sys.exit(0 if equal or largest < 1e-3 else 1)


if __name__ == "__main__":
    main()
