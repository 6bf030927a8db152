"""Every place of a port has all of its endpoints, each in one slot, whatever happened to the port.

Slots are a matter of history, and a port has one history but many places: they come and go, the endpoints are
replaced and the agent starts again, in any order. Under affinity, endpoints want the same few numbers.
"""

from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.nftables import numbers
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from kubeproxy.model.objects import EndpointSlice, Record, Service, ServiceType, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import BackendNode
from tests.large_services import SIZES, treated_as_large
from tests.nftables_node import Node, sizes
from tests.property.runs import LONG, PATIENCE, runs

pytestmark = [pytest.mark.unit, PATIENCE]

Places = dict[tuple[str, str], list[str]]
"""Endpoints, by the prefix of the maps and the place in them."""

POLICIES = st.sampled_from(TrafficPolicy)
ADDRESSES = ("203.0.113.1", "203.0.113.2")


class Look(Record, frozen=True, kw_only=True):
    """How the Service is for a while."""

    endpoints: frozenset[int]
    port: int
    node_port: int
    external: tuple[str, ...]
    balanced: tuple[str, ...]
    inside: TrafficPolicy
    outside: TrafficPolicy
    affinity: bool

    def objects(self) -> tuple[Service, EndpointSlice]:
        """Return it as the API has it; every other endpoint is on this node."""
        written = service(
            "web",
            "10.96.0.1",
            f"http={self.port}>8080",
            node_port=self.node_port,
            type=ServiceType.LOAD_BALANCER,
            external_ips=self.external,
            load_balancer_ips=self.balanced,
            internal_policy=self.inside,
            external_policy=self.outside,
            session_affinity=self.affinity,
            affinity_seconds=60,
        )
        addresses = [f"10.244.0.{each}@node{each % 2 + 1}" for each in sorted(self.endpoints)]
        return written, endpoint_slice("web", "http=80>8080", addresses)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "endpoints": st.frozensets(st.integers(1, 12), max_size=9),
    "port": st.sampled_from((80, 81)),
    "node_port": st.sampled_from((0, 30080, 30081)),
    "external": st.sampled_from(((), ("198.51.100.1",))),
    "balanced": st.sampled_from(((), ADDRESSES[:1], ADDRESSES[1:], ADDRESSES)),
    "inside": POLICIES,
    "outside": POLICIES,
    "affinity": st.booleans(),
}

CHANGES = st.one_of(
    *(st.fixed_dictionaries({name: values}) for name, values in FIELDS.items()),
    st.fixed_dictionaries({}, optional=FIELDS),
)
SYNCS = st.sampled_from(("change", "full sync", "restart"))


@pytest.mark.parametrize("large", SIZES)
@runs(1000 if LONG else 100)
@given(st.builds(Look, **FIELDS), st.lists(st.tuples(CHANGES, SYNCS), max_size=8))
def test_every_place_has_each_endpoint_once(
    large: int, look: Look, history: list[tuple[dict[str, Any], str]]
) -> None:
    collisions = patch.object(numbers, "_digest", lambda text: sum(text.encode()) // 2 % 3)
    with treated_as_large(large), collisions:
        node = Node(*look.objects())
        node.full()
        for change, sync in history:
            look = msgspec.structs.replace(look, **change)
            _bring_in(node, look, sync)
            assert _held(node) == _wanted(node)
            node.table.kernel.disturbed()
            assert node.backend.observe() == ""
        node.restart()
        node.full()
        assert sizes(node.table.commits[-1]) == {}


def _bring_in(node: Node, look: Look, sync: str) -> None:
    written, piece = look.objects()
    touched = node.world.apply_services({("default", "web"): written})
    touched |= node.world.apply_slices({("default", piece.name): piece})
    if sync == "restart":
        node.restart()
    if sync == "change":
        BackendNode.partial(node, touched)
    else:
        node.full()


def _held(node: Node) -> Places:
    """Return what the kernel holds, slot for slot, but sorted."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for prefix in ("", "local-", "nodeport-", "nodeport-local-"):
        for where, endpoint in node.held(f"{prefix}endpoints").items():
            place, _, slot = where.rpartition(" . ")
            found.setdefault((prefix, place), {})[int(slot)] = endpoint
        numbered = node.held(f"{prefix}sticky-endpoints")
        for where, number in node.held(f"{prefix}sticky-slots").items():
            place, _, slot = where.rpartition(" . ")
            found.setdefault((prefix, place), {})[int(slot)] = numbered.pop(f"{place} . {number}")
        assert not numbered, "a number that no slot has"
    assert all(sorted(slots) == list(range(len(slots))) for slots in found.values())
    return {key: sorted(slots.values()) for key, slots in found.items()}


def _wanted(node: Node) -> Places:
    """Return the same as the model wants it."""
    found: Places = {}
    for state in desired(node.world, node.settings, Family.V4).values():
        local, cluster = (
            [f"{each.address} . {each.port}" for each in some] for some in (state.local, state.cluster)
        )
        found["", f"{state.cluster_ip} . tcp . {state.port}"] = local if state.internal_local else cluster
        outside = [
            ("", f"{each} . tcp . {state.port}") for each in (*state.external_ips, *state.load_balancer_ips)
        ]
        if state.node_port:
            outside.append(("nodeport-", f"tcp . {state.node_port}"))
        for prefix, place in outside:
            found[prefix, place] = cluster or local
            if state.external_local and cluster:
                found[f"{prefix}local-", place] = local
    return {key: sorted(endpoints) for key, endpoints in found.items() if endpoints}
