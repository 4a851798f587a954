"""The process of one tracker: it reads a run directory as that grows, and writes the record.

A process of its own, as a library may block, end its process or fill its memory, and the training
must not notice. It reads files alone: so nothing is lost while a network is away, nothing waits in
a queue, and a training has nothing to do for it. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cli.core.config.published import renamed
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.runtime import json_lines
from ddpm_cli.core.runtime.files import read_json, write_json
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.tracking.telling import Telling, reason
from ddpm_cli.core.tracking.tracker import Record, Run, Scalar

_EVERY = 2.0  # seconds between looks at the run directory
_LONGEST_PAUSE = 60.0  # seconds, after a failure
_NOTED = 16  # entries after which it is noted that the record has them
_TO_CLOSE = 120.0  # seconds, where no training waits for the end
_SOURCES = ("metrics", "scores", "samples")
_PACKAGES = {"mlflow": "mlflow-skinny"}

_GROUPS = {  # of the columns of a row, as trackers show those together whose names begin alike
    "loss": ("loss", "loss_smooth", "loss_holdout", "loss_trained", "loss_gap"),
    "loss_by_noise": tuple(
        f"loss{of}_q{quarter}" for of in ("", "_holdout", "_trained") for quarter in range(4)
    ),
    "machine": ("images_per_second", "data_wait", "save_seconds", "peak_memory"),
    "optimiser": ("lr", "grad_norm", "skipped_steps"),
}
_NAMES = {name: f"{group}/{name}" for group, names in _GROUPS.items() for name in names}

_SENT = ("ddpm", "torch", "device")  # of the provenance


class Entry(NamedTuple):
    """What is added to a record at once."""

    images: int
    source: str  # of _SOURCES
    values: dict[str, float]
    picture: Path | None = None


def main() -> None:
    """`following NAME` checks a tracker; `following NAME RUN IMAGES` follows a run from there."""
    name, *rest = sys.argv[1:]
    for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, number):  # they are for the training, which says when to end
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    # Nothing is sent to the makers of a library that the user did not ask for.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    tell = Telling()
    if not rest:
        tell("failed", why_not(name))
        return
    ended = _Ended()
    try:
        _follow(name, RunDirectory(Path(rest[0])), int(rest[1]), ended, tell)
    except Exception as error:
        tell("failed", reason(error))
    os._exit(0)  # whatever threads a library has left


def why_not(name: str) -> str:
    """Why a tracker cannot be used; "" where it can."""
    try:
        found: str = importlib.import_module(f"ddpm_cli.core.tracking.{name}").check()
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(name, name)
        return (
            f"{reason(error)}: pip install 'ddpm-cli[log]' installs all trackers, and "
            f"pip install {package} this one"
        )
    except Exception as error:
        return f"{name} does not work here: {reason(error)}"
    return found


class _Ended(threading.Event):
    """Set when the training ends; its state is then the last line of standard input."""

    state = "failed"  # without a line: killed

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.state = line.strip()
        limit = threading.Timer(_TO_CLOSE, os._exit, (1,))
        limit.daemon = True
        limit.start()
        self.set()


def _follow(name: str, run: RunDirectory, seen: int, ended: _Ended, tell: Telling) -> None:
    kind = importlib.import_module(f"ddpm_cli.core.tracking.{name}").Record
    known = _Known(run.tracker(name))
    if kind.rewinds:
        known.images = {source: min(images, seen) for source, images in known.images.items()}
    last_step = min(seen, max(known.images.values()))
    record = _opened(kind, Run(run.path, known.id, last_step, settings_of(run)), ended, tell)
    if record is None:
        return
    known.id = record.id
    tell("where", record.where)
    entries, last, failures, pause = Entries(run, known.images), False, 0, 0.0
    while not last:
        last = ended.wait(pause)
        try:
            _add(entries, record, known, tell, last=last)
            tell("caught up")
            failures = 0
        except Exception as error:  # of the network, for example: it may come back
            failures += 1
            tell("failed" if last else "behind", reason(error))
        pause = min(_EVERY * 2 ** min(failures, 9), _LONGEST_PAUSE)
    record.close(ended.state)


def _add(entries: Entries, record: Record, known: _Known, tell: Telling, *, last: bool) -> None:
    """Add what is new; what the record has by then is noted on the way."""
    known.write()  # the record's id, before anything is in it
    for count, entry in enumerate(entries.new(last=last), 1):
        with tell.slowly("adding to its record"):
            record.log(entry.images, entry.values, entry.picture)
        entries.done(entry)
        if count % _NOTED == 0:
            known.write()
    known.write()


class _Known:
    """A record's id, and the images up to which it has what each source gives; in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):  # a power cut may have emptied it
            self._written = read_json(file)
        self.id: str = self._written.get("id", "")
        self.images = dict.fromkeys(_SOURCES, 0) | self._written.get("images", {})

    def write(self) -> None:
        """Write what is new. Raises DdpmError where that fails: then nothing should be added."""
        document = {"id": self.id, "images": dict(self.images)}
        if document != self._written:
            write_json(self._file, document, durable=False)
            self._written = document


def _opened(kind: Callable[[Run], Record], run: Run, ended: _Ended, tell: Telling) -> Record | None:
    """Open the record, and try again until the training ends; None where that never succeeds."""
    while True:
        try:
            with tell.slowly("opening its record"):
                return kind(run)
        except Exception as error:
            tell("behind", reason(error))
        if ended.wait(_LONGEST_PAUSE):
            return None


class Entries:
    """What a run directory has that is not in the record yet, in the order of the images seen.

    done: images up to which the record has what each source gives; `done` moves that forward.
    """

    def __init__(self, run: RunDirectory, done: dict[str, int]) -> None:
        self._run, self._done = run, done
        self._position = 0  # in metrics.jsonl, which only grows while a training runs
        self._logged_to = 0  # images of its last row
        self._waiting: list[Entry] = []

    def new(self, *, last: bool) -> list[Entry]:
        """Those that nothing can come before any more; all of them at the `last` call.

        Steps must never go back, and a preview may be seen before a row that was written earlier:
        so what is later than the last row waits.
        """
        waiting = {entry[:2] for entry in self._waiting}
        for entry in (*self._rows(), *self._scores(), *self._samples()):
            if entry.images > self._done[entry.source] and entry[:2] not in waiting:
                self._waiting.append(entry)
        self._waiting.sort(key=lambda entry: (entry.images, _SOURCES.index(entry.source)))
        return [entry for entry in self._waiting if last or entry.images <= self._logged_to]

    def done(self, entry: Entry) -> None:
        """This one is in the record."""
        self._waiting.remove(entry)
        self._done[entry.source] = entry.images

    def _rows(self) -> Iterator[Entry]:
        for row in self._new_lines():
            self._logged_to = images = int(row.pop("images"))
            values = {
                _NAMES.get(name, f"progress/{name}"): value
                for name, value in row.items()
                if json_lines.number(value) is not None
            }
            yield Entry(images, "metrics", values)

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), self._run.metrics.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._position += len(line)
                row = json_lines.parsed(line) or {}
                if json_lines.number(row.get("images")) is not None:
                    yield row

    def _scores(self) -> Iterator[Entry]:
        for row in self._run.score_rows():
            yield Entry(row["images"], "scores", {f"scores/{row['label']}": row["value"]})

    def _samples(self) -> Iterator[Entry]:
        for path in self._run.previews():
            yield Entry(int(path.stem), "samples", {}, path)


def settings_of(run: RunDirectory) -> dict[str, Scalar]:
    """The run's configuration by dotted names, its preset, and the versions and device.

    A record may be public: so paths are the names of their files alone, and the command and the
    machine's name, which a provenance has, too, are left out.
    """
    last: dict[str, Any] = next(reversed(run.starts()), {})
    provenance = {name: last.get(name) for name in _SENT}
    preset = "".join(run.presets()[-1:])
    config = to_dict(renamed(run.read_config()))
    return dict(_flat({"preset": preset, **config, "provenance": provenance}, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value) if isinstance(value, list | tuple) else value
