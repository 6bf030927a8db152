"""Health check node ports: who has one and what counts (reference/kube-proxy.md §6.2 row 47, §6.3 row 73)."""

import pytest
from msgspec.structs import replace

from kubeproxy.model.addresses import Family
from kubeproxy.model.healthchecks import HealthCheck, health_checks
from kubeproxy.model.objects import Conditions, Endpoint, EndpointSlice, Service, ServiceType, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.large_services import SIZES, treated_as_large

pytestmark = pytest.mark.unit

WEB = ("default", "web")
READY = Conditions()
TERMINATING = Conditions(ready=False, serving=True, terminating=True)
PUBLISHED = Conditions(ready=True, serving=True, terminating=True)


def balanced(**fields: object) -> Service:
    chosen = {
        "type": ServiceType.LOAD_BALANCER,
        "external_policy": TrafficPolicy.LOCAL,
        "health_check_node_port": 31000,
    }
    return service("web", "10.96.0.1,fd00::1", "http=80,https=443", **(chosen | fields))


def local(address: str, conditions: Conditions = READY, node: str = "node1") -> Endpoint:
    return Endpoint(address=address, node_name=node, conditions=conditions)


def piece(*endpoints: Endpoint | str, ports: str = "http=8080", suffix: str = "a") -> EndpointSlice:
    return endpoint_slice("web", ports, endpoints, suffix=suffix)


@pytest.mark.parametrize("large", SIZES)
@pytest.mark.parametrize(
    ("slices", "count"),
    [
        ([], 0),
        ([piece("10.0.0.1@node1", "10.0.0.2@node1", "10.0.0.3@node2", "10.0.0.4")], 2),
        # One address behind two ports is one endpoint, in one slice or in two.
        ([piece("10.0.0.1@node1", ports="http=8080,https=8443")], 1),
        ([piece("10.0.0.1@node1"), piece("10.0.0.1@node1", ports="https=8443", suffix="b")], 1),
        # Rules may still use what terminates (row 47); a load balancer should not.
        ([piece(local("10.0.0.1", TERMINATING), local("10.0.0.2", TERMINATING))], 0),
        ([piece(local("10.0.0.1", TERMINATING), local("10.0.0.2"))], 1),
        ([piece(local("10.0.0.1", PUBLISHED))], 1),
        ([piece(local("10.0.0.1", Conditions(ready=False, serving=False)))], 0),
        ([piece("fd00::9@node1")], 0),
        # A slice without ports says nothing of any.
        ([replace(piece("10.0.0.1@node1"), ports=())], 0),
        # Of two entries the one that does not terminate counts, of two such the last by slices' names.
        ([piece(local("10.0.0.1", TERMINATING)), piece("10.0.0.1@node1", suffix="b")], 1),
        ([piece("10.0.0.1@node1"), piece(local("10.0.0.1", TERMINATING), suffix="b")], 1),
        ([piece("10.0.0.1@node1", suffix="b"), piece("10.0.0.1@node2")], 1),
        ([piece("10.0.0.1@node1"), piece("10.0.0.1@node2", suffix="b")], 0),
        ([piece("10.0.0.1@node1"), piece("10.0.0.1@node2", ports="http=8081", suffix="b")], 1),
    ],
)
def test_ready_addresses_on_this_node_count_once(slices: list[EndpointSlice], count: int, large: int) -> None:
    with treated_as_large(large):
        found = health_checks(world(balanced(), *slices), "node1", Family.V4)
    assert found == {WEB: HealthCheck(port=31000, endpoints=count)}


def test_a_family_counts_its_own() -> None:
    built = world(balanced(), piece("10.0.0.1@node1"), piece("fd00::9@node1", "fd00::a@node1", suffix="b"))
    assert health_checks(built, "node1", Family.V6) == {WEB: HealthCheck(port=31000, endpoints=2)}


@pytest.mark.parametrize(
    "fields",
    [
        {"type": ServiceType.NODE_PORT},
        {"external_policy": TrafficPolicy.CLUSTER},
        {"health_check_node_port": 0},
        {"proxy_name": "other"},
        {"cluster_ips": ()},
    ],
)
def test_only_a_balanced_service_with_policy_local_has_one(fields: dict[str, object]) -> None:
    changed = {"cluster_ips": None} | fields
    ips = changed.pop("cluster_ips")
    it = balanced(**changed) if ips is None else service("web", "", "80", type=ServiceType.LOAD_BALANCER)
    assert health_checks(world(it), "node1", Family.V4) == {}
    assert health_checks(world(it), "node1", Family.V4, [WEB]) == {WEB: None}


def test_a_service_that_is_gone_has_none_any_more() -> None:
    built = world(balanced())
    assert health_checks(built, "node1", Family.V4, [("default", "other")]) == {("default", "other"): None}
    built.apply_services({WEB: None})
    assert health_checks(built, "node1", Family.V4, [WEB]) == {WEB: None}


def test_a_virtual_address_is_no_endpoint() -> None:
    found = health_checks(world(balanced(), piece("10.96.0.1@node1", "10.0.0.1@node1")), "node1", Family.V4)
    assert found == {WEB: HealthCheck(port=31000, endpoints=1)}
