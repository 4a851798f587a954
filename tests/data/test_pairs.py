"""Images of two sources that go together by their names."""

from pathlib import Path

import numpy as np
import pytest

from ddpm_cli.core.data import files
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.pairs import pair
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.errors import DdpmError


def folder(path: Path, *names: str) -> Source:
    for number, name in enumerate(names):
        files.write_png(path / name, np.full((3, 4, 4), number, np.uint8))
    return open_source(str(path))


def names_of(source: Source) -> list[str]:
    return list(source.files.names)  # type: ignore[attr-defined]


def test_names_in_folders_and_without_them(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", "x/1.png", "x/2.png", "y/3.png")
    for others in (
        folder(tmp_path / "same", "y/3.png", "x/2.png", "x/1.png", "z/9.png"),
        folder(tmp_path / "flat", "3.png", "2.png", "0.png", "1.png"),
    ):
        rows = pair(source, others, "--given-data b")
        paired = [Path(names_of(others)[row]).stem for row in rows]
        assert paired == [Path(name).stem for name in names_of(source)]


def test_a_name_in_another_folder_is_another_image(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", "x/1.png", "y/2.png")
    others = folder(tmp_path / "b", "x/1.png", "x/2.png")
    with pytest.raises(DdpmError, match=r"1 of 2 images: y/2\.png"):
        pair(source, others, "--given-data b")


def test_one_name_twice(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", "x/1.png", "y/1.png")
    with pytest.raises(DdpmError, match="not clear which"):
        pair(source, folder(tmp_path / "b", "1.png", "2.png"), "--given-data b")


def test_arrays_are_paired_in_order(tmp_path: Path) -> None:
    three, two = (ArraySource(np.zeros((n, 4, 4, 3), np.uint8)) for n in (3, 2))
    assert pair(three, three, "--given-data").tolist() == [0, 1, 2]
    with pytest.raises(DdpmError, match="2 images for 3"):
        pair(three, two, "--given-data")
    with pytest.raises(DdpmError, match="not both have names"):
        pair(three, folder(tmp_path / "b", "1.png", "2.png", "3.png"), "--given-data")
