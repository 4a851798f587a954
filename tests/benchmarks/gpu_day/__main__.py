"""Run the parts one after the other, each in a process of its own, until the time is used up."""

from __future__ import annotations

import argparse
import contextlib
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
from typing import Any, NamedTuple

import torch

from tests.benchmarks.gpu_day.day import Day, OutOfTimeError, Row, line


class Part(NamedTuple):
    """A module of this package, and the seconds it may take: what it leaves goes to the last."""

    name: str
    seconds: float
    beside: bool = False  # it runs while the next part does


PARTS = (
    Part("machine", 20),
    Part("compilation", 90, beside=True),
    Part("correctness", 90),
    Part("training", 165),
    Part("split", 40),
    Part("peers", 60),
    Part("sampling", 35),
    Part("features", 30),
    Part("speed_run", 540),
)
ENDING = 10  # seconds kept for writing the table
GRACE = 5  # seconds after its time before a part is killed
LEAST = 5  # seconds without which a part is not begun


def main() -> None:
    """Parse the options, run the parts, write the table."""
    parser = argparse.ArgumentParser(prog="gpu_day.sh", description=__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="the whole takes at most this")
    parser.add_argument("--data", type=Path, default=Path("data"), help="cifar10-train.zip, peers/")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT", "build/gpu-day"))
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--dry", action="store_true", help="every part on the CPU, tiny")
    options = parser.parse_args()
    ends = time.monotonic() + options.seconds - ENDING
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "gpu_day.jsonl"
    rows.write_text("")
    device = torch.device("cpu" if options.dry else "cuda")
    if options.dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
        torch.compiler.set_stance("force_eager")  # compiling takes longer than everything else
    modules = {part.name: importlib.import_module(f"{__package__}.{part.name}") for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/compiled")
        unpack_wheels(options.data / "peers", Path(folder))
        running = []
        for part in PARTS:
            if options.parts and part.name not in options.parts:
                continue
            left = ends - time.monotonic()
            day = Day(part.name, device, options.dry, ends, options.data.resolve(), rows)
            day = day.with_part(part.name, min(part.seconds, left))
            running.append(Running(day, modules[part.name]))
            if not part.beside:
                for process in running:
                    process.end()
                running.clear()
                write(options.out, rows)
    print(f"\n{(options.out / 'gpu_day.md').read_text()}")


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """Make the packages of wheels importable, after those that are installed."""
    for wheel in sorted(wheels.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(folder)
    sys.path.append(str(folder))


class Running:
    """A part in a process that may crash, or hang: it is killed some seconds after its time.

    The process is forked, so torch is imported once; nothing here has touched the GPU.
    """

    def __init__(self, day: Day, module: Any) -> None:
        self._day = day
        self._process = multiprocessing.get_context("fork").Process(
            target=run_part, args=(day, module)
        )
        self._process.start()

    def end(self) -> None:
        """Wait until it has ended, or kill it, and all that it started."""
        self._process.join(max(0, self._day.left) + GRACE)
        if self._process.is_alive():
            self._day.add("stopped", None, note="it did not end within its time")
        elif self._process.exitcode:
            self._day.add("failed", None, note=f"exit code {self._process.exitcode}")
        with contextlib.suppress(ProcessLookupError):  # it is the first of its process group
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join()


def run_part(day: Day, module: Any) -> None:
    """Run a part in this process; what goes wrong becomes a row."""
    os.setsid()
    if day.left < LEAST:
        day.add("not run", None, note="no time was left")
        return
    try:
        module.run(day)
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
