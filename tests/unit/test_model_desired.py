import msgspec
import pytest

from kubeproxy.model.addresses import Family
from kubeproxy.model.decode import decode_service
from kubeproxy.model.desired import ServiceState, desired
from kubeproxy.model.diff import diff
from kubeproxy.model.endpoints import merge
from kubeproxy.model.ipvs import SCHEDULERS, IpvsSettings
from kubeproxy.model.objects import Conditions, EndpointSlice, Node, Protocol, Service, ServiceType
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint, endpoint_slice, service, world

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16", "fd00:244::/48"))


def states(*objects: Service | EndpointSlice, family: Family = Family.V4) -> dict[str, ServiceState]:
    found = desired(world(*objects), SETTINGS, family)
    return {f"{name}/{name.protocol}": state for name, state in found.items()}


def backends(state: ServiceState) -> list[str]:
    return [each.text for each in state.reachable]


@pytest.mark.parametrize("scheduler", ["", *SCHEDULERS])
def test_a_services_scheduler_reaches_ipvs_mode_and_differs_in_no_other(scheduler: str) -> None:
    annotations = {"kubeproxy/ipvs-scheduler": scheduler, "other": "x"}
    metadata = {"name": "web", "namespace": "ns", "annotations": annotations}
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    decoded = decode_service(msgspec.json.encode({"metadata": metadata, "spec": spec}))
    assert decoded.faults == ()
    in_ipvs = msgspec.structs.replace(SETTINGS, ipvs=IpvsSettings())
    (state,) = desired(world(decoded), in_ipvs, Family.V4).values()
    assert state.scheduler == scheduler
    plain = msgspec.structs.replace(decoded, scheduler="")
    assert desired(world(decoded), SETTINGS, Family.V4) == desired(world(plain), SETTINGS, Family.V4)


# Which Services are skipped.


@pytest.mark.parametrize(
    "skipped",
    [
        service("web", ""),
        service("web", "", headless=True),
        service("web", "10.96.0.1", type=ServiceType.EXTERNAL_NAME),
        service("web", "10.96.0.1", proxy_name="other"),
        service("web", "fd00::1"),
    ],
    ids=["no cluster IP", "headless", "ExternalName", "another proxy's", "of the other family"],
)
def test_services_that_are_not_ours_to_forward(skipped: Service) -> None:
    assert states(skipped) == {}


def test_a_dual_stack_service_exists_in_both_families() -> None:
    both = service("web", "10.96.0.1,fd00::1", external_ips=("1.2.3.4", "2001:db8::1"))
    v4, v6 = states(both)["default/web/TCP"], states(both, family=Family.V6)["default/web/TCP"]
    assert (v4.cluster_ip, v4.external_ips) == ("10.96.0.1", ("1.2.3.4",))
    assert (v6.cluster_ip, v6.external_ips) == ("fd00::1", ("2001:db8::1",))


def test_a_source_range_of_everybody_voids_the_list() -> None:
    some = service("web", "10.96.0.1", source_ranges=("10.0.0.0/8",), load_balancer_ips=("5.6.7.8",))
    everybody = msgspec.structs.replace(some, source_ranges=("10.0.0.0/8", "0.0.0.0/0"))
    other_family = msgspec.structs.replace(some, source_ranges=("10.0.0.0/8", "::/0"))
    assert states(some)["default/web/TCP"].source_ranges == ("10.0.0.0/8",)
    assert states(everybody)["default/web/TCP"].source_ranges == ()
    assert states(other_family)["default/web/TCP"].source_ranges == ("10.0.0.0/8",)


def test_an_address_that_is_claimed_twice_by_one_service_counts_once() -> None:
    twice = service("web", "10.96.0.1", external_ips=("1.2.3.4",), load_balancer_ips=("1.2.3.4", "10.96.0.1"))
    state = states(twice)["default/web/TCP"]
    assert (state.external_ips, state.load_balancer_ips) == ((), ("1.2.3.4",))


def test_the_nodes_own_address_in_the_source_ranges() -> None:
    built = world(service("web", "10.96.0.1", source_ranges=("192.168.0.0/24",), load_balancer_ips=("5.6.7.8",)))
    (state,) = desired(built, SETTINGS, Family.V4).values()
    assert not state.node_in_ranges
    built.apply_node(Node(name="node1", internal_ips=("fd00::9", "192.168.0.2")))
    (state,) = desired(built, SETTINGS, Family.V4).values()
    assert state.node_in_ranges


def test_affinity_seconds_are_zero_without_affinity() -> None:
    assert states(service("web", "10.96.0.1"))["default/web/TCP"].affinity_seconds == 0
    sticky = service("web", "10.96.0.1", session_affinity=True, affinity_seconds=60)
    assert states(sticky)["default/web/TCP"].affinity_seconds == 60


# Endpoints.


def test_ports_and_protocols_find_their_own_endpoints() -> None:
    port = "dns=53>5353/TCP,dns-udp=53/UDP,dns-sctp=53/SCTP"
    found = states(service("dns", "10.96.0.10", port), endpoint_slice("dns", port, ["10.244.0.2"]))
    assert backends(found["default/dns:dns/TCP"]) == ["10.244.0.2:5353"]
    assert backends(found["default/dns:dns-udp/UDP"]) == ["10.244.0.2:53"]
    assert backends(found["default/dns:dns-sctp/SCTP"]) == ["10.244.0.2:53"]


def test_endpoints_are_sorted_by_their_text() -> None:
    piece = endpoint_slice("web", "80", ["10.0.0.2", "10.0.0.10", "10.0.0.1"])
    assert backends(states(service("web", "10.96.0.1"), piece)["default/web/TCP"]) == [
        "10.0.0.10:80",
        "10.0.0.1:80",
        "10.0.0.2:80",
    ]


def test_slices_of_one_service_are_merged() -> None:
    # A named target port may be another number on other pods: two slices for one port name.
    pieces = [
        endpoint_slice("web", "http=80>8080", ["10.0.0.1", "10.0.0.2"], suffix="a"),
        endpoint_slice("web", "http=80>9090", ["10.0.0.3"], suffix="b"),
    ]
    found = states(service("web", "10.96.0.1", "http=80"), *pieces)["default/web:http/TCP"]
    assert backends(found) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090"]


@pytest.mark.parametrize("suffixes", ["ab", "ba"])
def test_a_running_endpoint_beats_a_terminating_one_of_the_same_address(suffixes: str) -> None:
    gone = endpoint("10.0.0.1")
    gone = msgspec.structs.replace(gone, conditions=Conditions(ready=False, serving=True, terminating=True))
    pieces = [
        endpoint_slice("web", "80", [gone], suffix=suffixes[0]),
        endpoint_slice("web", "80", ["10.0.0.1"], suffix=suffixes[1]),
    ]
    merged = merge(pieces, Family.V4)["", Protocol.TCP]
    assert [each.endpoint.conditions.terminating for each in merged] == [False]


def test_only_ready_endpoints_serve() -> None:
    piece = endpoint_slice("web", "80", [endpoint("10.0.0.1", ready=False), "10.0.0.2"])
    assert backends(states(service("web", "10.96.0.1"), piece)["default/web/TCP"]) == ["10.0.0.2:80"]


def test_slices_of_another_family_or_of_a_headless_service_are_ignored() -> None:
    v6 = endpoint_slice("web", "80", ["fd00::5"], suffix="six")
    headless = msgspec.structs.replace(endpoint_slice("web", "80", ["10.0.0.1"]), headless=True)
    assert backends(states(service("web", "10.96.0.1"), v6, headless)["default/web/TCP"]) == []


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    found = states(service("web", "fd00::1"), endpoint_slice("web", "80", ["fd00::5"]), family=Family.V6)
    assert backends(found["default/web/TCP"]) == ["[fd00::5]:80"]


def test_an_endpoint_may_be_local_when_it_is_or_when_nobody_knows() -> None:
    piece = endpoint_slice("web", "80", ["10.0.0.1@node1", "10.0.0.2@node2", "10.0.0.3"])
    found = states(service("web", "10.96.0.1"), piece)["default/web/TCP"]
    assert [each.may_be_local for each in found.cluster] == [True, False, True]


def test_only_the_asked_services_are_computed() -> None:
    built = world(service("a", "10.96.0.1"), service("b", "10.96.0.2"))
    found = desired(built, SETTINGS, Family.V4, only=[("default", "b"), ("default", "gone")])
    assert [str(name) for name in found] == ["default/b"]


def test_equal_worlds_give_equal_states_whatever_the_order_of_slices() -> None:
    pieces = [endpoint_slice("web", "80", [f"10.0.0.{i}"], suffix=str(i)) for i in range(5)]
    web = service("web", "10.96.0.1")
    assert states(web, *pieces) == states(*reversed(pieces), web)


def test_diff_tells_added_changed_and_removed() -> None:
    found = diff({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5})
    assert (found.added, found.changed, found.removed) == ({"d": 5}, {"c": (3, 4)}, {"a": 1})
    assert found
    assert not diff({"a": 1}, {"a": 1})
