from __future__ import annotations

import pytest

from tame.utils.checks import InputError
from tame.utils.registry import Registry


@pytest.fixture
def colours() -> Registry[int]:
    registry = Registry[int]("colour")
    registry.register("red")(1)
    registry.register("green")(2)
    return registry


def test_a_registered_entry_is_found_by_name(colours: Registry[int]) -> None:
    assert colours.get("red") == 1
    assert "red" in colours and "blue" not in colours


def test_names_are_sorted_and_iterable(colours: Registry[int]) -> None:
    assert colours.names() == list(colours) == ["green", "red"]


def test_the_decorator_returns_what_it_registers(colours: Registry[int]) -> None:
    assert colours.register("blue")(3) == 3


def test_a_second_entry_of_a_name_is_refused_and_the_first_kept(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour 'red' is already registered"):
        colours.register("red")(9)
    assert colours.get("red") == 1


def test_an_unknown_name_shows_the_nearest_and_all_known(colours: Registry[int]) -> None:
    with pytest.raises(InputError, match=r"^unknown colour 'grean'; did you mean 'green'\? Known: green, red$"):
        colours.get("grean")


def test_an_unknown_name_without_a_near_one_shows_all_known(colours: Registry[int]) -> None:
    with pytest.raises(InputError, match=r"^unknown colour 'xyz'\. Known: green, red$"):
        colours.get("xyz")
