"""Whatever JSON comes in, nobody raises, the others are served, and each fault is told once.

Objects go the whole way: bytes, decoder, World, wanted states, rules, a model kernel that refuses what the real
one refuses.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import key_of
from kubeproxy.testing.build import endpoint_slice, service
from tests.property.agent_bed import FakeKernel
from tests.property.door_bed import DECODE, Written, agent_with_good_service, batch, check, hear_hostile
from tests.property.runs import PATIENCE, runs
from tests.property.strategies_histories import Batch
from tests.property.strategies_hostile import hostile_objects

pytestmark = [pytest.mark.unit, PATIENCE]

GOOD_ALONE = agent_with_good_service(FakeKernel())


@runs()
@given(st.lists(hostile_objects(), min_size=2, max_size=12))
def test_nothing_that_anybody_writes_hurts_the_others(written: list[Written]) -> None:
    agent = agent_with_good_service(FakeKernel())
    hear_hostile(agent, written)
    check(agent, GOOD_ALONE)


@runs()
@given(st.one_of(*(st.tuples(st.just(kind), st.binary(max_size=200)) for kind in DECODE)))
def test_bytes_are_decoded_or_refused(case: tuple[str, bytes]) -> None:
    batch(*case)


HUGE = {
    "10,000 endpoints": (
        service("ns/big", "10.96.9.9", "80"),
        endpoint_slice(
            "ns/big", "80", [f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(1, 10001)]
        ),
    ),
    "5,000 source ranges": (
        service(
            "ns/big",
            "10.96.9.9",
            "80",
            load_balancer_ips=("198.19.9.9",),
            source_ranges=tuple(f"172.{16 + (n >> 8)}.{n & 255}.0/24" for n in range(5000)),
        ),
        endpoint_slice("ns/big", "80", ["10.244.0.11"]),
    ),
    "300 ports": (
        service("ns/big", "10.96.9.9", ",".join(f"p{n}={n}" for n in range(1, 301)), node_port=20000),
        endpoint_slice("ns/big", ",".join(f"p{n}={n}" for n in range(1, 301)), ["10.244.0.11", "10.244.0.12"]),
    ),
    "a name of 253 characters": (
        service(f"ns/{'a' * 253}", "10.96.9.9", "80"),
        endpoint_slice(f"ns/{'a' * 253}", "80", ["10.244.0.11"]),
    ),
}


@pytest.mark.parametrize("what", HUGE)
def test_sizes_that_nobody_expects_are_served(what: str) -> None:
    agent = agent_with_good_service(FakeKernel())
    big, piece = HUGE[what]
    agent.hear(Batch(services={key_of(big): big}, slices={key_of(piece): piece}))
    check(agent, GOOD_ALONE)
    nat = agent.kernel.saved(Family.V4)["nat"]
    assert any("10.96.9.9" in rule for rules in nat.values() for rule in rules)
    assert agent.world.rejections() == ()
    agent.hear(Batch(services={key_of(big): None}, slices={key_of(piece): None}))
    agent.settle()
    assert agent.state() == GOOD_ALONE.state()
