"""Distil teachers and score the students in the calls that they learned: one JSON line per teacher.

    python -m tests.benchmarks.distillation mnist-test.zip \
        --classifier mnist-classifier.safetensors --teachers runs/digits-s0 runs/digits-s1

Each line has the distances from the held-out images of samples by the teacher (DDIM, 50 calls) and
by the student (in 1, 2 and 4 calls and its own, where it has learned their noise levels), each the
mean of a few sets of them, and what the student cost: `step` is how long a step of its training
takes, in steps of the teacher's, both measured in turns in this process, and `time` the whole
distillation, as a share of the teacher's training. Students that are there are only scored.
`--set PART.NAME=VALUE` changes a setting.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import ddpm_cli as ddpm
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.generation.trained_model import TrainedModel
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Log, Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import session
from ddpm_cli.core.training.preparation import distilling
from ddpm_cli.core.training.preparation.preflight import load_images, preflight
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer
from tests.benchmarks.quality import decoded

CALLS = (1, 2, 4)
TURNS = 15  # pairs of steps that are timed
CPU = Execution(torch.device("cpu"))


def request_of(teacher: Path, out: Path, settings: dict[str, Any]) -> TrainingRequest:
    """What `ddpm distill` asks for."""
    request = TrainingRequest(teacher=teacher, out=out, settings=settings, stall_timeout=0)
    return distilling.with_student(request)


def distil(request: TrainingRequest) -> TrainedModel:
    """The student, which is trained unless it is there."""
    assert request.out is not None
    if not RunDirectory(request.out).weights.is_file():
        plan = preflight(request, 1, CPU, Silent())
        session.train(plan, request, CPU, Log(Silent()), StopRequest())
    return ddpm.load(request.out, device="cpu")


def step_cost(teacher: TrainedModel, student: TrainedModel, request: TrainingRequest) -> float:
    """Seconds of a step of distillation over those of a step of training, the medians of turns."""
    with tempfile.TemporaryDirectory() as folder:
        asked = replace(request, out=Path(folder, "timed"))
        plan = preflight(asked, 1, CPU, Silent())
        images = load_images(plan, asked, CPU.device, Silent())
        students = trainer(student.config, images, Path(folder, "student"))
        teachers = trainer(teacher.config, images, Path(folder, "teacher"))
        seconds: list[list[float]] = [[], []]
        for _ in range(TURNS):
            for times, one in zip(seconds, (students, teachers), strict=True):
                times.append(sum(asdict(one.trial(one.config.optimiser.batch)).values()))
        for one in (students, teachers):
            one.batches.close()
    return median(seconds[0]) / median(seconds[1])


def trainer(config: RunConfig, images: DecodedImages, folder: Path) -> Trainer:
    """A training of this config from random weights."""
    folder.mkdir()
    state, none = TrainingState.initial(config, CPU.device), replace(images, rows=images.rows[:0])
    return Trainer(RunDirectory(folder), config, state, images, none, CPU, Silent())


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each teacher."""
    held_out = decoded(options.held_out)

    def score(model: TrainedModel, calls: int) -> float:
        fakes = [
            model.sample(options.n, steps=calls, seed=i * options.n) for i in range(options.sets)
        ]
        found = ddpm.evaluate_all(held_out, fakes, metrics=["fid"], features=options.classifier)
        return round(mean(one.fid for one in found), 2)

    settings: dict[str, Any] = {"preview": 0}
    for assignment in options.set:
        name, text = assignment.split("=", 1)
        *parents, last = name.split(".")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(text) if text[:1] in "0123456789[-" else text
    for path in options.teachers:
        teacher = ddpm.load(path, device="cpu")
        request = request_of(
            path, (options.out or path.parent) / f"{path.name}-distilled", settings
        )
        student = distil(request)
        step = step_cost(teacher, student, request)
        images = student.model.images
        row: dict[str, Any] = {
            "teacher": str(path),
            "images": images,
            "step": round(step, 2),
            "time": round(step * images / teacher.model.images, 2),
        }
        row["teacher 50"] = score(teacher, 50)
        tuning = student.config.objective.consistency
        assert tuning is not None
        for calls in scored_calls(tuning.calls):
            row[f"student {calls}"] = score(student, calls)
        usual = tuning.calls or 2
        ratio = row[f"student {usual}"] / row["teacher 50"]
        yield row | {f"{usual} calls over teacher": round(ratio, 2)}


def scored_calls(learned: int) -> list[int]:
    """The calls of a student that has learned so many, whose noise levels are among those; 0: any.

    The levels of n calls are some of those of m where n divides m (grids.of_consistency).
    """
    return [calls for calls in sorted({*CALLS, learned or 1}) if learned % calls == 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held_out", help="images to score against")
    parser.add_argument("--classifier", required=True, help="its features serve for the distance")
    parser.add_argument("--teachers", type=Path, nargs="+", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="PART.NAME=VALUE")
    parser.add_argument("-n", type=int, default=500, help="samples of a set")
    parser.add_argument("--sets", type=int, default=2, help="sets of samples, of other seeds")
    parser.add_argument("--out", type=Path, help="folder of the students; default: beside teachers")
    for row in rows(parser.parse_args()):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
