"""Memory while training: its peak in the metrics."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddpm_cli.core.config import run as c
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.training import CONFIG, train_run


def table(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_row_has_the_peak_of_the_process(tmp_path: Path) -> None:
    train_run(tmp_path, replace(CONFIG, budget=c.Budget(images=16)))
    resource = pytest.importorskip("resource")
    peak = RunDirectory(tmp_path).rows()[-1]["peak_memory"]
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, rel=0.1)
    assert table(RunDirectory(tmp_path))[-1]["peak_memory"] == str(peak)


def test_a_gpu_is_asked_anew_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter starts again; nothing waits for the GPU."""
    resets: list[object] = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    gpu = torch.device("cuda", 1)
    assert (devices.peak_memory(gpu), resets) == (7, [gpu])
    assert devices.peak_memory(torch.device("mps")) is None


def test_a_run_without_the_column_is_resumed(tmp_path: Path) -> None:
    """The table gets the column when a row has it, and earlier rows have nothing there."""
    config, run = replace(CONFIG, budget=c.Budget(images=16)), RunDirectory(tmp_path)
    state = train_run(tmp_path, config)
    earlier = [{k: v for k, v in row.items() if k != "peak_memory"} for row in run.rows()]
    lines = (json.dumps(row) + "\n" for row in earlier)
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    run.rewind_rows(16)
    assert "peak_memory" not in table(run)[0]

    train_run(tmp_path, replace(config, budget=c.Budget(images=32)), state)
    rows = table(run)
    assert [bool(row["peak_memory"]) for row in rows] == [False, False, True, True]
    assert [row["images"] for row in rows] == ["8", "16", "24", "32"]
    assert all(None not in row for row in rows)  # no row is longer than the header
