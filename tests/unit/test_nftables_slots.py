"""Who keeps its place in a list when others come and go."""

from sys import byteorder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.nftables import numbers
from kubeproxy.dataplane.nftables.names import ENDPOINT_NUMBERS, FIRST_ENDPOINT
from kubeproxy.dataplane.nftables.numbers import Numbers, numbers_of
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


@given(st.lists(st.integers(0, 12), max_size=30))
def test_of_those_that_want_the_same_number_each_has_the_next_that_is_free(wanted: list[int]) -> None:
    start = ENDPOINT_NUMBERS - 6  # behind the last comes the first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "_digest", lambda text: (start + wanted[int(text)]) % ENDPOINT_NUMBERS)
        found = numbers_of(map(str, range(len(wanted))))
    taken: list[int] = []
    for want in wanted:
        taken.append(next(each for each in range(want, 99) if each not in taken))
    assert [int.from_bytes(each, byteorder) for each in found.values()] == [
        FIRST_ENDPOINT + (start + each) % ENDPOINT_NUMBERS for each in taken
    ]


def test_endpoints_chosen_to_want_the_same_number_do_not_cost_the_square_of_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numbers, "_digest", lambda text: 7)
    texts = [f"10.0.{i >> 8}.{i & 255}:80" for i in range(60_000)]
    held = Numbers(texts)  # minutes, if each passed all before it
    after = held.followed([texts[0]], [])
    assert len({*after.values()}) == len(texts) - 1
