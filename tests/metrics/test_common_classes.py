"""The classes that two inputs have in common: by name, by index, and several of one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs.classes import common_classes, parse_groups, resolved_groups
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages


def images(names: Sequence[str], labels: Sequence[object]) -> ImageSet:
    array = np.array(labels, np.int64)
    return GeneratedImages("set", len(array), lambda part: [], {}, array, tuple(names))


def common(real: ImageSet, fake: ImageSet) -> tuple[tuple[str, ...], list[object], list[object]]:
    """The names, and the labels of both in them."""
    found = common_classes(real, fake)
    assert real.labels is not None
    assert fake.labels is not None
    return found.names, found.of_real(real.labels).tolist(), found.of_fake(fake.labels).tolist()


def test_by_name_in_the_order_of_real() -> None:
    real, fake = images(["dog", "cat"], [0, 1, 1]), images(["cat", "cow", "dog"], [0, 1, 2, -1])
    assert common(real, fake) == (("dog", "cat", "cow"), [0, 1, 1], [1, 2, 0, -1])


@pytest.mark.parametrize("swapped", [False, True])
def test_numbers_are_indices_of_the_others_names(swapped: bool) -> None:
    named, numbered = images(["dog", "cat", "cow"], [2, 1]), images(["0", "2"], [0, 1, 1])
    real, fake = (numbered, named) if swapped else (named, numbered)
    names, of_real, of_fake = common(real, fake)
    by_name = [[names[i] for i in labels] for labels in (of_real, of_fake)]  # type: ignore[misc]
    expected = [["cow", "cat"], ["dog", "cow", "cow"]]
    assert by_name == (expected[::-1] if swapped else expected)
    assert f"the classes of {'REAL' if swapped else 'FAKE'} are numbers" in (
        common_classes(real, fake).notice
    )


def test_numbers_on_both_sides_are_names() -> None:
    real, fake = images(["1", "5"], [0, 1]), images(["5", "1"], [0, 1])
    assert common(real, fake) == (("1", "5"), [0, 1], [1, 0])
    assert common_classes(real, fake).notice == ""


@pytest.mark.parametrize("names", [["a", "b"], ["0", "3"], ["-1"], ["99999999999999999999"], ["²"]])
def test_nothing_in_common(names: list[str]) -> None:
    with pytest.raises(DdpmError, match="REAL has dog, cat, cow; FAKE has "):
        common_classes(images(["dog", "cat", "cow"], [0]), images(names, [0]))


def test_several_classes_of_an_image() -> None:
    """Attributes as vectors on both sides, in another order, and as the names of a manifest."""
    real = images(["Male", "Smiling"], [[1, 1], [0, 1], [0, 0]])
    other = images(["Smiling", "Male"], [[1, 1], [1, 0], [0, 0]])
    expected = [[1, 1], [0, 1], [0, 0]]
    assert common(real, other) == (("Male", "Smiling"), expected, expected)
    manifest = images(["Smiling+Male", "Smiling", "none"], [0, 1, 2])
    assert common(real, manifest) == (("Male", "Smiling"), expected, expected)
    assert common(manifest, real) == (("Smiling", "Male"), *[[[1, 1], [1, 0], [0, 0]]] * 2)


def test_a_name_with_a_plus_stays_whole_where_images_have_one_class() -> None:
    real, fake = images(["a+b", "a", "b"], [0, 1, 2]), images(["b", "a+b"], [0, 1])
    assert common(real, fake) == (("a+b", "a", "b"), [0, 1, 2], [2, 0])


def test_groups_are_of_names_or_indices() -> None:
    names = ("cat", "7", "tench, Tinca tinca")
    groups = resolved_groups(parse_groups(" a = cat , 2,2 ;b=7; "), names)
    assert groups == {"a": ("cat", "tench, Tinca tinca"), "b": ("7",)}  # 7 is a name here
