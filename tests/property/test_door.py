"""Whatever JSON comes in, nobody raises, the others are served, and each fault is told once.

Objects go the whole way: bytes, decoder, World, wanted states, rules, a model kernel that refuses what the real
one refuses.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.decode import (
    DecodeError,
    decode_node,
    decode_proxy_slice,
    decode_service,
    decode_service_cidr,
)
from kubeproxy.model.desired import desired
from kubeproxy.model.objects import ServiceType, key_of, name_of
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service
from tests.property.agent_bed import Agent, FakeKernel
from tests.property.runs import PATIENCE, runs
from tests.property.strategies_histories import Batch
from tests.property.strategies_hostile import hostile_objects
from tests.property.strategies_model import NODE_NAME

pytestmark = [pytest.mark.unit, PATIENCE]

SETTINGS = Settings(node_name=NODE_NAME, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"))
# Its namespace and name come first of all, so that a place which somebody else claims too stays its own.
GOOD = service(
    "0/0",
    "10.96.200.1,fd00:10:96::c8:1",
    "80",
    node_port=31999,
    type=ServiceType.LOAD_BALANCER,
    load_balancer_ips=("198.19.200.1",),
    source_ranges=("192.168.56.0/24",),
)
SLICES = [endpoint_slice("0/0", "80", [ip], suffix=ip[0]) for ip in ("10.244.9.9", "fd00:10:244::99")]
Written = tuple[str, dict[str, Any]]
DECODE: dict[str, Callable[[bytes], Any]] = {
    "service": decode_service,
    "slice": decode_proxy_slice,
    "node": decode_node,
    "cidr": decode_service_cidr,
}


def batch(kind: str, data: bytes) -> Batch:
    """Decode as an informer does; an object without identity is left out there, and counted."""
    try:
        value = DECODE[kind](data)
    except DecodeError:
        return Batch()
    match kind:
        case "service":
            return Batch(services={key_of(value): value})
        case "slice":
            return Batch(slices={key_of(value): value})
        case "node":
            return Batch(node=(value,))
        case _:
            return Batch(cidrs={name_of(value): value})


def agent_with_good_service() -> Agent:
    agent = Agent(FakeKernel(), SETTINGS)
    agent.hear(Batch(services={key_of(GOOD): GOOD}, slices={key_of(piece): piece for piece in SLICES}))
    return agent


def good_rules(agent: Agent) -> dict[tuple[Family, str, str], list[str]]:
    """Return every rule that names the good Service, one of its addresses or its endpoint."""
    marks = re.compile(r"10\.96\.200\.1|c8:1|198\.19\.200\.1|31999|10\.244\.9\.9|:99\b|\b0/0\b|KUBE-\w+-\w{16}\b")
    found = {}
    for family in Family:
        for table, chains in agent.kernel.saved(family).items():
            for chain, rules in chains.items():
                found[family, table, chain] = sorted(rule for rule in rules if marks.search(rule))
    return found


GOOD_ALONE = agent_with_good_service()
GOOD_ALONE.settle()


def check(agent: Agent) -> None:
    """The good Service is served as if it were alone, and nothing is told twice."""
    agent.settle()
    for family in Family:
        alone = desired(GOOD_ALONE.world, SETTINGS, family, [key_of(GOOD)])
        now = desired(agent.world, SETTINGS, family, [key_of(GOOD)])
        assert {n: s.cluster for n, s in now.items()} == {n: s.cluster for n, s in alone.items()}
    for place, rules in good_rules(GOOD_ALONE).items():
        now = good_rules(agent).get(place, [])
        assert set(rules) <= set(now), place
    told = [str(each) for each in agent.world.rejections()]
    assert [line for line, count in Counter(told).items() if count > 1] == []
    assert all(line.isprintable() and line.isascii() and len(line) < 700 for line in told), told


@runs()
@given(st.lists(hostile_objects(), min_size=2, max_size=12))
def test_nothing_that_anybody_writes_hurts_the_others(written: list[Written]) -> None:
    agent = agent_with_good_service()
    agent.settle()
    for kind, value in written:
        agent.hear(batch(kind, json.dumps(value).encode()))
    check(agent)


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
    agent = agent_with_good_service()
    big, piece = HUGE[what]
    agent.hear(Batch(services={key_of(big): big}, slices={key_of(piece): piece}))
    check(agent)
    nat = agent.kernel.saved(Family.V4)["nat"]
    assert any("10.96.9.9" in rule for rules in nat.values() for rule in rules)
    assert agent.world.rejections() == ()
    agent.hear(Batch(services={key_of(big): None}, slices={key_of(piece): None}))
    agent.settle()
    assert agent.state() == GOOD_ALONE.state()
