"""What is kept of large Services is what would be made of them anew, after any history."""

from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeproxy.dataplane.nftables import numbers
from kubeproxy.dataplane.nftables.pages import Pages
from kubeproxy.dataplane.nftables.slots import keep_places
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Target
from kubeproxy.model.endpoints import merge
from kubeproxy.model.objects import Conditions, Endpoint, EndpointSlice, SlicePort
from kubeproxy.model.runs import Run, Runs, difference
from kubeproxy.model.world import World
from tests.large_services import treated_as_large
from tests.property.runs import LONG, PATIENCE, runs

pytestmark = [pytest.mark.unit, PATIENCE]

MANY = 2000 if LONG else 200
OWNER = ("default", "web")
PORTS = (SlicePort(name="http", port=80), SlicePort(name="http", port=81), SlicePort(name="", port=80))

ENDPOINTS = st.builds(
    Endpoint,
    address=st.sampled_from([f"10.0.0.{i}" for i in range(9)]),
    conditions=st.builds(Conditions, ready=st.booleans(), terminating=st.booleans()),
)
PORT_LISTS = st.lists(st.sampled_from(PORTS), max_size=2, unique=True).map(tuple)
SLICES = st.builds(
    EndpointSlice,
    namespace=st.just("default"),
    name=st.just("of its key"),
    service=st.sampled_from(("web", "web", "web", "other")),
    address_type=st.sampled_from(("IPv4", "IPv4", "IPv6")),
    headless=st.sampled_from((False, False, True)),
    ports=PORT_LISTS,
    endpoints=st.lists(ENDPOINTS, max_size=6).map(tuple),
)
Change = EndpointSlice | Endpoint | int | tuple[SlicePort, ...] | None
"""A slice in place of another, an endpoint more, the place of one that goes, other ports, or none any more."""
CHANGES = st.dictionaries(
    st.sampled_from("abcd"),
    SLICES | ENDPOINTS | ENDPOINTS | st.integers(0, 5) | PORT_LISTS | st.none(),
    min_size=1,
    max_size=2,
)


def changed(name: str, before: EndpointSlice | None, change: Change) -> EndpointSlice | None:
    """Return what a slice is after a change."""
    if isinstance(change, EndpointSlice):
        return replace(change, name=name)
    if before is None or change is None:
        return None
    if isinstance(change, Endpoint):
        return replace(before, endpoints=(*before.endpoints, change))
    if isinstance(change, int):
        return replace(before, endpoints=before.endpoints[:change] + before.endpoints[change + 1 :])
    return replace(before, ports=change)


POD = Endpoint(address="10.0.0.1")
ONE = EndpointSlice(namespace="default", name="", service="web", ports=PORTS[:1], endpoints=(POD,))


@runs(MANY)
# A slice comes to name an address twice, and the entry that is there already is the one that counts.
@example([ONE], [{"a": replace(POD, conditions=Conditions(ready=False, terminating=True))}], 1)
@given(
    st.lists(SLICES, min_size=3, max_size=4),
    st.lists(CHANGES, max_size=12),
    st.sampled_from((1, 4, 8)),
)
def test_endpoints_are_those_of_a_merge(
    first: list[EndpointSlice], history: list[dict[str, Change]], limit: int
) -> None:
    with treated_as_large(limit):
        world = World()
        for batch in (dict(zip("abcd", first, strict=False)), *history):
            world.apply_slices(
                {
                    ("default", name): changed(name, world.slices.get(("default", name)), change)
                    for name, change in batch.items()
                }
            )
            for family in Family:
                kept = world.endpoints_of(OWNER, family)
                anew = merge(world.slices_of(OWNER), family)
                assert {port: tuple(found) for port, found in kept.items() if found} == {
                    port: tuple(found) for port, found in anew.items() if found
                }
                assert world.part([OWNER]).endpoints_of(OWNER, family) == kept


def target(number: int, *, here: bool = False) -> Target:
    """Return an endpoint; texts are in the order of the numbers."""
    return Target(f"10.0.0.{number:03}:80", f"10.0.0.{number:03}", 80, here)


LISTS = st.dictionaries(st.integers(0, 40), st.booleans(), max_size=25).map(
    lambda chosen: {each.text: each for each in (target(number, here=chosen[number]) for number in sorted(chosen))}
)


def towards(old: dict[str, Target], new: dict[str, Target]) -> dict[str, Target | None]:
    """Return what must be replaced in the one to get the other."""
    return {text: new.get(text) for text in {**old, **new} if old.get(text) != new.get(text)}


@runs(MANY)
@given(LISTS, LISTS)
def test_runs_are_lists(old: dict[str, Target], new: dict[str, Target]) -> None:
    with treated_as_large():
        before, wanted = Runs.of(tuple(old.values())), tuple(new.values())
        after = before.replaced(towards(old, new))
        assert tuple(after) == wanted
        assert after == wanted
        assert wanted == after
        assert after == Runs.of(wanted)
        assert hash(after) == hash(wanted)
        assert (before == after) is (old == new)
        assert [after[index] for index in range(len(after))] == list(wanted)
        assert all(after.get(text) == new.get(text) for text in (*old, *new, "", "~"))
        assert len(after.runs) <= 4 + 4 * len(wanted) // 2
        gone, come = difference(before, after)
        assert (gone, come) == difference(tuple(old.values()), wanted)
        assert {text: come.get(text) for text in gone | come} == towards(old, new)


@runs(MANY)
@given(st.lists(LISTS, min_size=2, max_size=6))
def test_whoever_can_keeps_the_slot(history: list[dict[str, Target]]) -> None:
    with treated_as_large():
        order = Pages.of(tuple(history[0].values()))
        for old, new in pairwise(history):
            before = list(order)
            wanted = keep_places([each.text for each in before], new)
            older, order = order, order.followed(*difference(tuple(old.values()), tuple(new.values())))
            assert list(order) == wanted
            assert list(older) == before
            assert [order[slot] for slot in range(len(order))] == wanted
            differ = [
                slot for slot, (one, two) in enumerate(zip(before, wanted, strict=False)) if one.text != two.text
            ]
            assert list(older.differing(order)) == differ


@runs(MANY)
@given(
    st.lists(st.frozensets(st.integers(0, 60), max_size=30), min_size=2, max_size=6), st.sampled_from((1, 7, 61))
)
def test_numbers_are_those_of_all_endpoints_at_once(history: list[frozenset[int]], digests: int) -> None:
    """Endpoints want few numbers, which follow one another around the end."""

    def digest(text: str) -> int:
        return (int(text) % digests + 60) % 64

    with patch.object(numbers, "_digest", digest), patch.object(numbers, "ENDPOINT_NUMBERS", 64):
        texts = [sorted(str(each) for each in some) for some in history]
        held = numbers.Numbers(texts[0])
        for old, new in pairwise(texts):
            before = numbers.numbers_of(old)
            assert dict(held) == before
            older, held = held, held.followed(sorted({*old} - {*new}), sorted({*new} - {*old}))
            after = numbers.numbers_of(new)
            assert dict(held) == after
            assert {text: older[text] for text in old} == before
            assert all(older.get(text) is None for text in {*new} - {*old})
            union = {*old, *new}
            assert set(older.changed) == {text for text in union if before.get(text) != after.get(text)}


def test_what_was_made_of_a_run_is_made_once_an_argument() -> None:
    run = Run((target(1), target(2)))
    made: list[int] = []

    def make(entries: tuple[Target, ...], argument: int) -> int:
        made.append(argument)
        return len(entries) + argument

    assert [run.derived(make, argument) for argument in (1, 1, 2, 2, 1)] == [3, 3, 4, 4, 3]
    assert made == [1, 2, 1]
