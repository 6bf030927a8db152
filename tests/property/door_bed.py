"""One good Service among whatever JSON comes: it is served as if it were alone, and each fault is told once."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.dispatch import EVERY
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
from tests.property.agent_bed import Agent, Kernel
from tests.property.strategies_histories import Batch
from tests.property.strategies_model import NODE_NAME

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


def agent_with_good_service(kernel: Kernel) -> Agent:
    """Return an agent that serves one Service, which must not suffer from whatever comes."""
    agent = Agent(kernel, SETTINGS)
    agent.hear(Batch(services={key_of(GOOD): GOOD}, slices={key_of(piece): piece for piece in SLICES}))
    agent.settle()
    return agent


def good_rules(agent: Agent) -> dict[tuple[Family, str, str], list[str]]:
    """Return every rule that names the good Service, one of its addresses or its endpoint.

    One that stands in a branch of a chain that Services share counts as that chain's.
    """
    marks = re.compile(r"10\.96\.200\.1|c8:1|198\.19\.200\.1|31999|10\.244\.9\.9|:99\b|\b0/0\b|KUBE-\w+-\w{16}\b")
    found: dict[tuple[Family, str, str], list[str]] = defaultdict(list)
    for family in Family:
        saved = agent.kernel.run(lambda family=family: agent.kernel.saved(family))  # type: ignore[misc]
        for table, chains in saved.items():
            for chain, rules in chains.items():
                found[family, table, root_of(table, chain)] += [rule for rule in rules if marks.search(rule)]
    return found


def root_of(table: str, chain: str) -> str:
    """Return the shared chain of which this one is a branch, or the chain itself."""
    if not chain.startswith(names.BRANCH_PREFIX):
        return chain
    letter = chain.removeprefix(names.BRANCH_PREFIX)[0]
    return next(each.chain for each in EVERY if (each.table, each.letter) == (table, letter))


def check(agent: Agent, good_alone: Agent) -> None:
    """The good Service is served as if it were alone, and nothing is told twice."""
    agent.settle()
    for family in Family:
        alone = desired(good_alone.world, SETTINGS, family, [key_of(GOOD)])
        now = desired(agent.world, SETTINGS, family, [key_of(GOOD)])
        assert {n: s.cluster for n, s in now.items()} == {n: s.cluster for n, s in alone.items()}
    for place, rules in good_rules(good_alone).items():
        now = good_rules(agent).get(place, [])
        assert set(rules) <= set(now), place
    told = [str(each) for each in agent.world.rejections()]
    assert [line for line, count in Counter(told).items() if count > 1] == []
    assert all(line.isprintable() and line.isascii() and len(line) < 700 for line in told), told


def hear_hostile(agent: Agent, written: list[Written]) -> None:
    """Let an agent hear of objects, one after the other."""
    for kind, value in written:
        agent.hear(batch(kind, json.dumps(value).encode()))
