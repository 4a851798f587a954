"""gpu_day.sh, which is for a GPU: its dry run on the CPU reaches every part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu_day.__main__ import PARTS
from tests.benchmarks.gpu_day.day import Row
from tests.benchmarks.gpu_day.split import kind
from tests.benchmarks.gpu_day.training import VARIANTS
from tests.support import ranks
from tests.support.pages import TOP


def test_every_part_of_a_dry_run_writes_its_rows(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        ["bash", TOP / "tests" / "benchmarks" / "gpu_day.sh", "--dry", "--out", tmp_path],
        env=inherited | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [Row(**row) for row in json.loads((tmp_path / "gpu_day.json").read_text())["rows"]]
    table = (tmp_path / "gpu_day.md").read_text()
    assert table in done.stdout
    assert table.count("\n| ") == len(rows) + 2  # the header's two lines

    measured = {row.part for row in rows if row.value is not None}
    assert measured == {part.name for part in PARTS}
    assert not [row for row in rows if row.case.startswith(("failed", "stopped", "not run", "out"))]
    cases = {row.case: row.value for row in rows if row.part == "training"}
    for name in VARIANTS:
        assert cases[f"cifar10 128 bf16 {name}"]


def test_a_part_that_fails_or_hangs_does_not_end_the_others() -> None:
    program = """
import multiprocessing, os, sys, time
multiprocessing.current_process()._config["daemon"] = False  # or it may not start processes
from tests.benchmarks.gpu_day import __main__ as day, features, machine, sampling, training
def killed(_): os.kill(os.getpid(), 9)
machine.run, training.run = killed, lambda _: [] + 1
sampling.run, features.run = lambda _: time.sleep(60), lambda own: own.add("fine", 1.0)
day.PARTS = tuple(day.Part(name, 1) for name in ("machine", "training", "sampling", "features"))
day.GRACE = day.LEAST = 0
sys.argv = ["gpu_day.sh", "--dry", "--out", "out"]
day.main()
sys.exit()
"""
    (done,) = ranks.run(1, program)
    assert done.code == 0, done.err
    rows = [Row(**row) for row in json.loads(Path("out/gpu_day.json").read_text())["rows"]]
    assert [(row.part, row.case) for row in rows] == [
        ("machine", "failed"),
        ("training", "failed"),
        ("sampling", "stopped"),
        ("features", "fine"),
    ]
    assert ["exit code -9" in rows[0].note, "TypeError" in rows[1].note] == [True, True]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_nhwckrsc_nhwc", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, float, true>", "layout"),
        ("void at::native::RowwiseMomentsCUDAKernel<float>(long, float)", "normalisation"),
        ("void at::native::vectorized_elementwise_kernel<4, SiluFunctor>", "pointwise"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor<float>>", "optimiser"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", "attention"),
        ("triton_poi_fused_silu_0", "fused"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel: str, expected: str) -> None:
    assert kind(kernel).startswith(expected)
