"""What load balancers are told is what a merge of the Service's endpoints would say, whoever is named twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.endpoints import merge
from kubeproxy.model.healthchecks import HealthCheck, health_checks
from kubeproxy.model.objects import Conditions, Endpoint, EndpointSlice, ServiceType, SlicePort, TrafficPolicy
from kubeproxy.model.topology import ready_on
from kubeproxy.model.world import World
from kubeproxy.testing.build import service
from tests.large_services import SIZES, treated_as_large
from tests.property.runs import PATIENCE

pytestmark = [pytest.mark.unit, PATIENCE]

WEB = ("default", "web")
PORTS = (SlicePort(name="http", port=80), SlicePort(name="http", port=81), SlicePort(name="", port=80))
ENDPOINTS = st.builds(
    Endpoint,
    address=st.sampled_from([f"10.0.0.{i}" for i in range(4)]),
    node_name=st.sampled_from(("node1", "node1", "node2", "")),
    conditions=st.builds(Conditions, ready=st.booleans(), terminating=st.booleans()),
)
SLICES = st.builds(
    EndpointSlice,
    namespace=st.just("default"),
    name=st.sampled_from("abcd"),
    service=st.just("web"),
    address_type=st.sampled_from(("IPv4", "IPv4", "IPv4", "IPv6")),
    headless=st.sampled_from((False, False, False, True)),
    ports=st.lists(st.sampled_from(PORTS), max_size=2, unique=True).map(tuple),
    endpoints=st.lists(ENDPOINTS, max_size=5).map(tuple),
)


@given(slices=st.lists(SLICES, max_size=4, unique_by=lambda piece: piece.name), large=st.sampled_from(SIZES))
def test_as_many_are_told_as_a_merge_has_ready_on_the_node(slices: list[EndpointSlice], large: int) -> None:
    web = service(
        "web",
        "10.96.0.1",
        "80",
        type=ServiceType.LOAD_BALANCER,
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=31000,
    )
    world = World()
    with treated_as_large(large):
        world.apply_services({WEB: web})
        world.apply_slices({("default", piece.name): piece for piece in slices})
        found = health_checks(world, "node1", Family.V4)
    merged = merge(world.slices_of(WEB), Family.V4).values()
    ready = {each.endpoint.address for endpoints in merged for each in ready_on(endpoints, "node1")}
    assert found == {WEB: HealthCheck(port=31000, endpoints=len(ready))}
