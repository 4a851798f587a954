"""The run directory: the files of one training."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ddpm_cli.core.config import environment, paths
from ddpm_cli.core.config.fields import did_you_mean, near_names
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime import json_lines
from ddpm_cli.core.runtime.files import (
    cannot_write,
    dumps,
    finite,
    read_json,
    write_json,
    write_text,
)

_SUFFIXES = (".safetensors", ".pt", ".superseded")  # of weights files and snapshots
_SNAPSHOTS, _POWER_AVERAGES = "snapshots", "ema"
FOLDERS_OF_WEIGHTS = (_SNAPSHOTS, _POWER_AVERAGES)
"""The folders in a run that hold weights as well."""

Row = dict[str, float | None]


def runs_folder() -> Path:
    """The folder of runs without a path of their own: $DDPM_RUNS, or `runs`."""
    return paths.expanded(environment.value(environment.RUNS) or "runs")


@dataclass(frozen=True)
class RunDirectory:
    """Paths and metrics of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's configuration (config.json)."""
        return self.path / "config.json"

    @property
    def weights(self) -> Path:
        """The newest EMA weights."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The EMA weights of the lowest validation (or smoothed training) loss."""
        return self.path / "best.safetensors"

    @property
    def teacher(self) -> Path:
        """The weights of the model whose guidance a student learns."""
        return self.path / "teacher.safetensors"

    @property
    def snapshots(self) -> Path:
        """The folder of training states."""
        return self.path / _SNAPSHOTS

    @property
    def power_averages(self) -> Path:
        """The folder of averages with power profiles, stored as the training went on."""
        return self.path / _POWER_AVERAGES

    @property
    def resumed(self) -> Path:
        """The last snapshot given to `--resume` that the run was resumed from."""
        return self.path / "resumed.json"

    @property
    def post_mortem(self) -> Path:
        """Why a training diverged."""
        return self.path / "post-mortem.json"

    @property
    def logs(self) -> Path:
        """The output of ranks other than 0, and the stacks of ranks that hung."""
        return self.path / "logs"

    @property
    def log(self) -> Path:
        """What the trainings in this directory said."""
        return self.path / "log.txt"

    @property
    def provenance(self) -> Path:
        """Where the run comes from: a line for each start."""
        return self.path / "provenance.jsonl"

    @property
    def metrics(self) -> Path:
        """The rows of the losses and other numbers, as metrics.csv has them, too."""
        return self.path / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        """Scores of the averaged weights during training, a line each."""
        return self.path / "scores.jsonl"

    @property
    def sampling(self) -> Path:
        """How the run is sampled by default, as a sweep found it."""
        return self.path / "default-sampling.json"

    @property
    def sweeps(self) -> Path:
        """What sweeps measured: a line of points.jsonl for each setting, and pictures."""
        return self.path / "sweeps"

    @property
    def loss_plot(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    @property
    def holdout_plot(self) -> Path:
        """The loss on images held out beside that on images trained on."""
        return self.path / "holdout.png"

    @property
    def statistics(self) -> Path:
        """What the training images look like, in numbers."""
        return self.path / "statistics.json"

    def tracker(self, name: str) -> Path:
        """What is known of the run's record with an experiment tracker."""
        return self.path / "tracking" / f"{name}.json"

    def preview(self, images: int) -> Path:
        """The preview grid sampled after training on `images` images."""
        return self.path / "samples" / f"{images:09d}.png"

    def previews(self) -> list[Path]:
        """The preview grids, by the images seen."""
        return sorted(self.preview(0).parent.glob("[0-9]" * 9 + ".png"))

    def write_config(self, config: RunConfig) -> None:
        """Write config.json."""
        write_json(self.config, to_dict(config))

    def read_config(self) -> RunConfig:
        """Read config.json."""
        return read_config(self.config)

    def read_statistics(self) -> Any:
        """The statistics of the training images as JSON values; None without any."""
        try:
            return read_json(self.statistics)
        except (OSError, ValueError):
            return None

    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl that are complete. Raises OSError where it cannot be read."""
        rows = json_lines.objects(self.metrics)
        return [row for row in rows if json_lines.number(row.get("images")) is not None]

    def score_rows(self) -> list[dict[str, Any]]:
        """The rows of scores.jsonl that are complete. Raises OSError as `rows`."""
        numbers = ("images", "value")
        return [
            row
            for row in json_lines.objects(self.scores)
            if isinstance(row.get("label"), str)
            and all(json_lines.number(row.get(name)) is not None for name in numbers)
        ]

    def starts(self) -> list[dict[str, Any]]:
        """The provenance of each start, the first one first. Raises OSError as `rows`."""
        return json_lines.objects(self.provenance)

    def save_seconds(self) -> float:
        """Seconds that the last snapshot took, from the metrics; 0 without one."""
        rows = self.rows()
        return (rows[-1].get("save_seconds") or 0.0) if rows else 0.0

    def presets(self) -> list[str]:
        """The presets that the run was started with, by its provenance."""
        named = (start.get("preset") for start in self.starts())
        return [preset for preset in named if preset and isinstance(preset, str)]

    def rewind_rows(self, images: int) -> None:
        """Remove the rows after `images` images, which a resumed run logs again."""
        rows = [row for row in self.rows() if (row["images"] or 0) <= images]
        jsonl = (dumps(finite(row), indent=None) + "\n" for row in rows)
        write_text(self.metrics, "".join(jsonl))
        self._write_csv(rows)

    def _write_csv(self, rows: list[Row]) -> None:
        """Write metrics.csv anew."""
        names = list(dict.fromkeys(name for row in rows for name in row))  # older rows have fewer
        lines = [_csv_line(names)] if rows else []
        lines += (_csv_line([row.get(name) for name in names]) for row in rows)
        write_text(self.path / "metrics.csv", "".join(lines))

    def append_row(self, row: Row) -> None:
        """Append a row to metrics.jsonl and metrics.csv."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(dumps(row, indent=None) + "\n")
            with (self.path / "metrics.csv").open("a+", encoding="utf-8") as file:
                file.seek(0)
                names = next(csv.reader(file), [])
                file.seek(0, io.SEEK_END)
                if not names:
                    file.write(_csv_line(list(row)))
                if names and not row.keys() <= set(names):
                    self._write_csv(self.rows())  # earlier rows had fewer
                else:
                    file.write(_csv_line([row.get(name) for name in names or row]))
        except OSError as error:
            raise cannot_write(self.metrics, error) from error


def read_config(path: Path) -> RunConfig:
    """Read a config.json. Raises DdpmError that names the file and the setting at fault."""
    try:
        return from_dict(RunConfig, read_json(path), str(path))
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file{paths.near(path)}") from error
    except (ValueError, OSError) as error:
        raise DdpmError(f"{path} is not a run's config.json: {error}") from error


def find_weights(path: Path | None, name: str | None = None) -> Path:
    """The weights of a run directory or of the newest run, or a weights file or snapshot itself.

    name: other weights of that run than the newest. Raises DdpmError where there are none.
    """
    if name is not None:
        return _named_weights(find_weights(path), name)
    if path is None:
        return _newest_weights()
    path = paths.expanded(path)
    if path.is_dir():
        weights = RunDirectory(path).weights
        if not weights.is_file():
            raise DdpmError(why_no_run(path))
        return weights
    if path.is_file():
        return path
    raise DdpmError(f"{path}: no such run or weights file{existing_runs(path)}")


def _named_weights(newest: Path, name: str) -> Path:
    """Others than a run's newest weights: best, a snapshot by its images, or a file by its path."""
    run = run_of(newest)
    kept = [*sorted(run.path.glob("*.safetensors")), *sorted(run.snapshots.glob("[0-9]*.pt"))]
    found = [path for path in kept if name in (path.stem, path.stem.lstrip("0"))]
    path = paths.expanded(name)
    if not found and not path.is_file():
        known = [path.stem.lstrip("0") for path in kept]
        raise DdpmError(
            f"{run.path} has no weights {name}; it has {listed(known, 10)}"
            f"{did_you_mean(name, known)}"
        )
    return found[0] if found else path


def is_run_or_weights(spec: str) -> bool:
    """Whether this is the path of a run, its snapshots, one of them or a weights file."""
    path = paths.expanded(spec)
    if path.is_file():
        return path.suffix in _SUFFIXES
    run = RunDirectory(path)
    has_weights = run.weights.is_file() and run.config.is_file()
    return has_weights or (path.is_dir() and run_of_snapshot(path) is not None)


def run_of_snapshot(path: Path) -> RunDirectory | None:
    """The run of a snapshot, or of a folder of snapshots; None where it is in no run."""
    return _run_around(path, _SNAPSHOTS) or _run_around(path.parent, _SNAPSHOTS)


def run_of(file: Path) -> RunDirectory:
    """The run of weights, a snapshot or a stored average: of others the folder they lie in."""
    found = (_run_around(file.parent, folder) for folder in FOLDERS_OF_WEIGHTS)
    return next(filter(None, found), RunDirectory(file.parent))


def _run_around(folder: Path, name: str) -> RunDirectory | None:
    """The run in which a folder has this name; None where it has another, or is in no run."""
    place = folder if folder.name else folder.absolute()
    run = RunDirectory(place.parent)
    return run if place.name == name and run.config.is_file() else None


def newest_run() -> Path:
    """The run under runs/ whose weights are the newest. Raises DdpmError where there is none."""
    return _newest_weights().parent


def _newest_weights() -> Path:
    folder = runs_folder()
    runs = _runs_in(folder)
    if not runs:
        here = "" if folder.is_absolute() else " here"
        raise DdpmError(f"there is no trained run under {folder}/{here}; train one with ddpm train")
    return runs[0].weights


def _runs_in(folder: Path) -> list[RunDirectory]:
    """The runs with weights right below a folder, newest first."""
    runs = [
        RunDirectory(path.parent) for path in folder.glob(f"*/{RunDirectory(folder).weights.name}")
    ]
    return sorted(runs, key=lambda run: run.weights.stat().st_mtime, reverse=True)


def why_no_run(folder: Path, missing: str = "") -> str:
    """Why a folder cannot be used as a run, and what can be.

    missing: the file that it lacks, by default the weights.
    """
    run = RunDirectory(folder)
    if (folder / "model_index.json").is_file() or any(folder.glob("diffusion_pytorch_model*")):
        command = f"ddpm convert {quote(str(folder))} --out FILE"
        return f"{folder} is a folder of diffusers: import it with {command}"
    if snapshots := sorted(folder.glob("[0-9]*.pt")):
        return f"{folder} holds snapshots: name one, such as the newest, {snapshots[-1]}"
    if runs := [str(other.path) for other in _runs_in(folder)]:
        return (
            f"{folder} is not a run but holds runs ({len(runs)}, newest first): "
            f"{listed(runs)}; name one of them"
        )
    if run.config.is_file() and not missing:
        return f"{folder} is a run without {run.weights.name}: its training has saved none yet"
    return (
        f"{folder} is not a run: it has no {missing or run.weights.name}; train one with ddpm train"
    )


def existing_runs(wanted: Path) -> str:
    """What may have been meant instead, or else which runs there are."""
    runs = {path.parent.name: str(path.parent) for path in runs_folder().glob("*/config.json")}
    if (same := runs.get(wanted.name)) is not None and wanted.parent == Path():
        return f"; did you mean {same}?"
    if meant := paths.near(wanted):
        return meant
    if near := [runs[name] for name in near_names(wanted.name, runs)]:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {listed(sorted(runs.values()))}" if runs else ""


def _csv_line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
