"""Rows of Parquet files by index: in pieces where a row group is large, from threads and copies."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.data.readers import parquet_rows
from ddpm_cli.core.data.readers.opening import open_image_files

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 1000


def values() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [f"{i}-".encode() + rng.bytes(int(rng.integers(0, 200))) for i in range(ROWS)]


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageFiles:
    """Row groups of 300 rows and some 30 kB, in pieces of 8 kB of which two are kept."""
    monkeypatch.setattr(parquet_rows, "_PIECE", 8_000)
    monkeypatch.setattr(parquet_rows, "_KEPT", 16_000)
    table = pa.table({"image": values(), "id": list(range(ROWS))})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=300)
    return open_image_files(tmp_path / "all.parquet")


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "spread"])
def test_every_row_is_its_own_in_any_order(listing: ImageFiles, order: str) -> None:
    rows = {
        "forward": range(ROWS),
        "backward": range(ROWS - 1, -1, -7),
        "shuffled": np.random.default_rng(1).permutation(ROWS)[:100].tolist(),
        "spread": range(0, ROWS, 41),
    }[order]
    expected = values()
    assert [listing.read(i) for i in rows] == [expected[i] for i in rows]


def test_threads_and_other_processes_read_the_same(listing: ImageFiles) -> None:
    expected = values()
    listing.read(500)  # its lock and file stay behind
    copy = pickle.loads(pickle.dumps(listing))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.read, range(ROWS))) == expected


def test_blocks_are_the_row_groups(listing: ImageFiles) -> None:
    assert listing.blocks == (  # type: ignore[attr-defined]
        range(300),
        range(300, 600),
        range(600, 900),
        range(900, ROWS),
    )


def test_rows_that_expand_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A value that is stored once and repeated by every row, as its dictionary allows.
    pq.write_table(pa.table({"image": [b"x" * 10_000] * ROWS}), tmp_path / "bomb.parquet")
    monkeypatch.setattr(parquet_rows, "_EXPANDED", 2_000_000)
    assert (tmp_path / "bomb.parquet").stat().st_size < 20_000
    listing = open_image_files(tmp_path / "bomb.parquet")
    with pytest.raises(UnreadableError, match=r"bomb.parquet.*expand to 2,\d+,\d+ bytes"):
        listing.read(0)
