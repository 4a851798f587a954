"""Run the parts one after the other, each in a process of its own, until the time is used up."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from tests.benchmarks.gpu_day.day import Day, OutOfTimeError, Row, line


class Part(NamedTuple):
    """A module of this package, and the seconds it may take: what it leaves goes to the last."""

    name: str
    seconds: float


PARTS = (
    Part("machine", 20),
    Part("correctness", 75),
    Part("training", 165),
    Part("split", 40),
    Part("peers", 60),
    Part("sampling", 35),
    Part("features", 30),
    Part("speed_run", 540),
)
_ENDING = 5  # seconds kept for writing the table


def main() -> None:
    """Parse the options, run the parts, write the table."""
    parser = argparse.ArgumentParser(prog="gpu_day.sh", description=__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="the whole takes at most this")
    parser.add_argument("--data", type=Path, default=Path("data"), help="cifar10-train.zip, peers/")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT", "build/gpu-day"))
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--dry", action="store_true", help="every part on the CPU, tiny")
    options = parser.parse_args()
    ends = time.monotonic() + options.seconds - _ENDING
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "gpu_day.jsonl"
    rows.write_text("")
    device = torch.device("cpu" if options.dry else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        unpack_wheels(options.data / "peers", Path(folder))
        for part in PARTS:
            if options.parts and part.name not in options.parts:
                continue
            left = ends - time.monotonic()
            day = Day(part.name, device, options.dry, ends, options.data.resolve(), rows)
            run_apart(day.with_part(part.name, min(part.seconds, left)))
            write(options.out, rows)
    print(f"\n{(options.out / 'gpu_day.md').read_text()}")


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """Make the packages of wheels importable, after those that are installed."""
    for wheel in sorted(wheels.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(folder)
    sys.path.append(str(folder))


def run_apart(day: Day) -> None:
    """Run a part in a process that may crash, or hang: it is killed some seconds after its end.

    The process is forked, so torch is imported once; nothing here has touched the GPU.
    """
    if day.left < 5:
        day.add("not run", None, note="no time was left")
        return
    process = multiprocessing.get_context("fork").Process(target=run_part, args=(day,))
    process.start()
    process.join(day.left + 5)
    if process.is_alive():
        day.add("stopped", None, note="it did not end within its time")
    elif process.exitcode:
        day.add("failed", None, note=f"its process ended with {process.exitcode}")
    try:  # whatever it started is in its process group
        os.killpg(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.join()


def run_part(day: Day) -> None:
    """Run a part in this process; what goes wrong becomes a row."""
    os.setsid()
    if day.dry:
        torch.compiler.set_stance("force_eager")  # compiling takes longer than everything else
        torch.set_num_threads(1)
    try:
        importlib.import_module(f"tests.benchmarks.gpu_day.{day.part}").run(day)
    except OutOfTimeError as error:
        day.add("out of time", None, note=str(error))
    except Exception as error:
        traceback.print_exc()
        day.add("failed", None, note=f"{type(error).__name__}: {str(error)[:300]}")


def write(out: Path, rows: Path) -> None:
    """Write the table as Markdown and JSON."""
    read = [Row(**json.loads(text)) for text in rows.read_text().splitlines()]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = f"{when}, torch {torch.__version__}, Python {platform.python_version()}"
    table = ["| part | case | measured | note |", "| --- | --- | --- | --- |", *map(line, read)]
    (out / "gpu_day.md").write_text("\n".join([head, "", *table, ""]))
    document = {"when": when, "torch": torch.__version__, "rows": [asdict(row) for row in read]}
    (out / "gpu_day.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
