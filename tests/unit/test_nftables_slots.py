"""Who keeps its place in a list when others come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.nftables import numbers
from kubeproxy.dataplane.nftables.numbers import numbers_of
from kubeproxy.dataplane.nftables.slots import keep_places

pytestmark = pytest.mark.unit

LISTS = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(LISTS, LISTS)
def test_all_are_there_and_whoever_can_stays(old: list[int], new: list[int]) -> None:
    found = keep_places(old, {each: each for each in new})
    assert sorted(found) == sorted(new)
    for place, each in enumerate(old[: len(new)]):
        assert each not in new or found[place] == each


@given(LISTS, LISTS)
def test_no_more_move_than_must(old: list[int], new: list[int]) -> None:
    found = keep_places(old, {each: each for each in new})
    moved = sum(place >= len(old) or old[place] != each for place, each in enumerate(found))
    beyond = sum(each in new for each in old[len(new) :])
    assert moved == len(set(new) - set(old)) + beyond


def test_endpoints_whose_numbers_would_be_the_same_get_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_digest", lambda text: len(text))
    found = numbers_of(f"10.0.0.{i}:80" for i in range(9))
    assert len(set(found.values())) == 9
