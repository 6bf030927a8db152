"""What ports ask for together: counted, and with one owner for each virtual server."""

import pytest

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.dataplane.ipvs.unions import Turnover, Unions
from kubeproxy.kernel.ipvs_types import Destination, Server, ServerKey
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

A, B, C = (ServicePortName("default", name, "", Protocol.TCP) for name in "abc")
PLACE = ServerKey(Protocol.TCP, "192.168.0.2", 30080)
MEMBER = ("192.168.0.2", Protocol.TCP, 30080)


def virtual(endpoint: str, *, node_port: bool = False, entries: tuple[Set, ...] = ()) -> Virtual:
    return Virtual(
        Server(PLACE),
        (Destination(endpoint, 8080),),
        roles=entries,
        is_node_port=node_port,
    )


def test_what_two_ports_ask_for_goes_with_the_last_of_them() -> None:
    unions = Unions()
    part = Part(addresses=("10.96.0.1",), entries=((Set.HEALTH_CHECKS, 31000),))
    delta = unions.apply({A: part, B: part})
    assert (delta.added, delta.addresses_added) == ([(Set.HEALTH_CHECKS, 31000)], ["10.96.0.1"])
    assert unions.sizes[Set.HEALTH_CHECKS] == 1
    delta = unions.apply({A: None})
    assert (delta.removed, delta.addresses_removed) == ([], [])
    delta = unions.apply({B: None})
    assert (delta.removed, delta.addresses_removed) == ([(Set.HEALTH_CHECKS, 31000)], ["10.96.0.1"])
    assert (unions.entries, unions.addresses, unions.parts) == ({}, {}, {})


def test_an_address_beats_a_node_port_and_its_entries_alone_count() -> None:
    unions = Unions()
    unions.apply({A: Part(virtuals=(virtual("10.1.0.1", node_port=True, entries=(Set.MASQUERADE,)),))})
    delta = unions.apply({B: Part(virtuals=(virtual("10.1.0.2", entries=(Set.NO_LOCAL,)),))})
    assert unions.virtuals[PLACE].owner == B
    assert (delta.added, delta.removed) == ([(Set.NO_LOCAL, MEMBER)], [(Set.MASQUERADE, MEMBER)])
    # A change of the loser is nothing to the kernel.
    changed = virtual("10.1.0.9", node_port=True, entries=(Set.MASQUERADE,))
    delta = unions.apply({A: Part(virtuals=(changed,))})
    assert (delta.virtuals, delta.added, delta.removed) == ({}, [], [])
    delta = unions.apply({B: None})
    assert delta.virtuals[PLACE].after is not None
    assert delta.virtuals[PLACE].after.virtual == changed
    assert (delta.added, delta.removed) == ([(Set.MASQUERADE, MEMBER)], [(Set.NO_LOCAL, MEMBER)])
    delta = unions.apply({A: None})
    assert list(delta.virtuals.values()) == [Turnover(delta.virtuals[PLACE].before, None)]
    assert (unions.virtuals, unions.entries) == ({}, {})


@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_a_place_changes_hands_in_one_step_whoever_is_heard_first(order: tuple[ServicePortName, ...]) -> None:
    unions = Unions()
    unions.apply({A: Part(virtuals=(virtual("10.1.0.1"),)), C: Part()})
    changes = {A: Part(), B: Part(virtuals=(virtual("10.1.0.2"),))}
    delta = unions.apply({name: changes[name] for name in order})
    (turn,) = delta.virtuals.values()
    assert turn.before is not None
    assert turn.after is not None
    assert (turn.before.owner, turn.after.owner) == (A, B)
    delta = unions.apply({B: None})
    assert delta.virtuals[PLACE].after is None


def test_among_equals_the_name_decides_and_not_who_came_first() -> None:
    unions = Unions()
    for name in (C, B, A):
        unions.apply({name: Part(virtuals=(virtual("10.1.0.1"),))})
    assert unions.virtuals[PLACE].owner == A
    unions.apply({A: None})
    assert unions.virtuals[PLACE].owner == B
    unions.apply({B: None, C: None})
    assert not unions.virtuals


SHARED = Part(addresses=("10.96.0.1",), entries=((Set.HEALTH_CHECKS, 31000),))
OF_A = Part(virtuals=(virtual("10.1.0.1", node_port=True, entries=(Set.MASQUERADE,)),))
OF_B = Part(virtuals=(virtual("10.1.0.2", entries=(Set.NO_LOCAL,)), virtual("10.1.0.3")))
OF_C = Part(virtuals=(virtual("10.1.0.4", entries=(Set.CLUSTER_IP,)),), addresses=("10.96.0.1",))


@pytest.mark.parametrize(
    "parts",
    [
        {A: SHARED, B: SHARED, C: None},
        {A: OF_A, B: OF_B, C: OF_C},
        {C: OF_C, B: OF_B, A: OF_A},
        {A: OF_A, C: SHARED},
        {B: OF_B},
    ],
)
def test_all_at_once_is_the_same_as_one_after_the_other(parts: dict[ServicePortName, Part | None]) -> None:
    together, singly = Unions(), Unions()
    together.open(parts)
    for name, part in parts.items():
        singly.apply({name: part})
    gone: list[dict[ServicePortName, Part | None]] = [{name: None} for name in parts]
    for change in ({}, *gone):
        assert together.apply(change) == singly.apply(change)
        for each in ("parts", "virtuals", "addresses", "entries"):
            assert getattr(together, each) == getattr(singly, each)
        assert +together.sizes == +singly.sizes


def test_a_port_that_claims_a_place_twice_has_it_once() -> None:
    unions = Unions()
    unions.apply({A: Part(virtuals=(virtual("10.1.0.1"), virtual("10.1.0.2", node_port=True)))})
    assert unions.virtuals[PLACE].virtual == virtual("10.1.0.1")
    unions.apply({A: None})
    assert not unions.virtuals
