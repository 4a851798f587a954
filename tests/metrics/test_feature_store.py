"""Features on disk, gathered from all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore
from ddpm_cli.core.runtime import distributed


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first of two ranks, of which the other has BLOCK rows of ones; the rows reduced."""
    rows = list[int]()

    def all_gather(value: Any) -> list[Any]:
        return [value, BLOCK if isinstance(value, int) else None]

    def all_reduce_sum(block: Tensor) -> Tensor:
        rows.append(len(block))
        return block + (sum(rows) > BLOCK)

    monkeypatch.setattr(distributed, "all_gather", all_gather)
    monkeypatch.setattr(distributed, "all_reduce_sum", all_reduce_sum)
    return rows


def store() -> FeatureStore:
    features = FeatureStore(2)
    features.append(torch.arange(2 * BLOCK).view(BLOCK, 2))
    return features


def test_rows_are_gathered_in_the_order_of_ranks(reduced: list[int]) -> None:
    gathered = store().gather_to_rank0()
    assert len(gathered) == 2 * BLOCK
    assert torch.equal(gathered.block(0, BLOCK).flatten(), torch.arange(2.0 * BLOCK))
    assert (gathered.block(BLOCK, 2 * BLOCK) == 1).all()


def test_a_full_disk_is_said_when_no_rank_waits(
    reduced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = store()

    def full(self: FeatureStore, _: Tensor) -> None:
        raise DdpmError("no space left")

    monkeypatch.setattr(FeatureStore, "append", full)
    with pytest.raises(DdpmError, match="no space left"):
        own.gather_to_rank0()
    assert reduced == [BLOCK, BLOCK]
