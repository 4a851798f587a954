"""Collective operations leave what they are given unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.runtime import distributed
from tests.support import ranks

WORLD = """
import json, torch
from ddpm_cli.core.runtime import distributed

with distributed.process_group(torch.device("cpu")):
    given = torch.ones(2, dtype=torch.float64)
    summed = distributed.all_reduce_sum(given)
    history = [1, {"a": 2.0}]
    gathered = distributed.all_gather(history)
    sent = distributed.broadcast_from_rank0(lambda: history)
print(json.dumps([given.tolist(), summed.tolist(), gathered, sent, history]))
"""


def test_in_a_world_of_two() -> None:
    history = [1, {"a": 2.0}]
    for ended in ranks.run(2, WORLD, "--version"):
        assert ended.code == 0, ended.err
        expected = [[1.0, 1.0], [2.0, 2.0], [history, history], history, history]
        assert json.loads(ended.out.splitlines()[0]) == expected


FAILING = """
import os, torch
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import distributed

def fail_on(rank):
    if os.environ["RANK"] == rank:
        raise DdpmError(f"rank {rank} cannot")

def first(rank):
    with distributed.local_rank0_first():
        fail_on(rank)

def work(failing):
    failing()
    distributed.barrier()
    return "done"

with distributed.process_group(torch.device("cpu")):
    for rank in "012":
        print(distributed.attempt(lambda: work(lambda: first(rank))))
        agreed = lambda: distributed.run_on_all_ranks(lambda: fail_on(rank))
        print(distributed.attempt(lambda: work(agreed)))
"""


def test_one_rank_that_fails_does_not_leave_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "SECONDS", 60)
    expected = ["rank 0 cannot"] * 2 + ["rank 1 cannot"] * 2 + ["done"] * 2
    for ended in ranks.run(2, FAILING, "--version"):
        assert ended.code == 0, ended.err
        assert ended.out.splitlines()[:6] == expected


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "values",
    [
        torch.ones(2, dtype=torch.float64),
        torch.ones(2, 2, dtype=torch.float64)[:, 0],
        torch.ones(2, dtype=torch.float64, requires_grad=True),
        torch.ones(2),
        torch.tensor([1, 1]),
    ],
    ids=["float64", "view", "gradient", "float32", "int64"],
)
def test_a_sum_is_a_new_tensor(
    monkeypatch: pytest.MonkeyPatch, values: Tensor, processes: int
) -> None:
    def all_reduce(tensor: Tensor, *args: Any) -> None:
        tensor.mul_(2)

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    summed = distributed.all_reduce_sum(values)
    assert (summed.tolist(), summed.dtype) == ([processes] * 2, torch.float64)
    assert values.tolist() == [1, 1]
    summed += 1  # by a caller, to whom it belongs
    assert values.tolist() == [1, 1]
