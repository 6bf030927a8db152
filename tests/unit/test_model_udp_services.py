"""Which flows are stale, as a table (upstream's cleaner: reference/kube-proxy.md §6.2 row 50) and by histories."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import Conditions, Endpoint, EndpointSlice, Node, Protocol, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.udp_services import UdpServices
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.large_services import SIZES, treated_as_large

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1")
DNS = ("default", "dns")
NAME = ServicePortName("default", "dns", "", Protocol.UDP)
NODE_IP, VIP, EXTERNAL, BALANCER = "192.168.56.11", "10.96.0.10", "1.2.3.4", "5.6.7.8"
LOCAL = (NODE_IP, "127.0.0.1")
POD1, POD2, GONE = "10.244.0.11", "10.244.0.12", "10.244.0.99"


def everywhere(port: str = "53>5353/UDP", **fields: object) -> Service:
    return service(
        "dns", VIP, port, node_port=30053, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,), **fields
    )


def dns_slice(*endpoints: str | Endpoint, port: str = "53>5353/UDP") -> EndpointSlice:
    return endpoint_slice("dns", port, endpoints)


def taken_over(built: World, settings: Settings = SETTINGS, family: Family = Family.V4) -> UdpServices:
    services = UdpServices(settings, family)
    services.update(built, node_state(built, settings, family), None)
    return services


def flow(to: str, by: str = "", protocol: Protocol = Protocol.UDP, zone: int = 0) -> Flow:
    """Build a flow `to` an `address:port`, answered `by` another, or not translated."""
    (address, port), (answerer, answerer_port) = (each.rsplit(":", 1) for each in (to, by or to))
    return Flow(
        protocol=protocol,
        source="10.244.0.2",
        source_port=40000,
        destination=address,
        port=int(port),
        answerer=answerer,
        answerer_port=int(answerer_port),
        zone=zone,
    )


WAYS = (f"{VIP}:53", f"{EXTERNAL}:53", f"{BALANCER}:53", f"{NODE_IP}:30053")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("by", "stale"),
    [
        (f"{POD1}:5353", False),
        (f"{POD2}:5353", True),  # it does not serve
        (f"{GONE}:5353", True),
        (f"{POD1}:53", True),  # its port was another once
        ("", True),  # it came before there was an endpoint
    ],
)
def test_flows_stay_with_endpoints_that_serve_and_no_others(way: str, by: str, stale: bool) -> None:
    unready = Endpoint(address=POD2, conditions=Conditions(ready=False, serving=False))
    services = taken_over(world(everywhere(), dns_slice(POD1, unready)))
    assert services.is_stale(flow(way, by), LOCAL) is stale


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.SCTP])
def test_only_udp_is_looked_at(way: str, protocol: Protocol) -> None:
    ports = "a=53/TCP,b=53/UDP,c=53/SCTP"
    services = taken_over(world(everywhere(ports), dns_slice(POD1, port=ports)))
    assert not services.is_stale(flow(way, f"{GONE}:53", protocol), LOCAL)
    only_tcp = taken_over(world(everywhere("53/TCP"), dns_slice(POD1, port="53/TCP")))
    assert not only_tcp.is_stale(flow(way, f"{GONE}:53"), LOCAL)
    assert only_tcp.due() is None


@pytest.mark.parametrize(
    ("conditions", "stale"),
    [
        (Conditions(ready=True, serving=True), False),
        (Conditions(ready=False, serving=True, terminating=True), False),
        (Conditions(ready=False, serving=False, terminating=True), True),
        (Conditions(ready=False, serving=False), True),
        (Conditions(ready=True, serving=False), False),  # publishNotReadyAddresses: the rules choose it
    ],
)
def test_who_may_answer(conditions: Conditions, stale: bool) -> None:
    other = Endpoint(address=POD2, conditions=conditions)
    services = taken_over(world(everywhere(), dns_slice(POD1, other)))
    assert services.is_stale(flow(f"{VIP}:53", f"{POD2}:5353"), LOCAL) is stale


def test_policies_and_topology_end_no_flow() -> None:
    far = Endpoint(address=POD1, node_name="node2", hint_zones=("elsewhere",))
    near = Endpoint(address=POD2, node_name="node1", hint_zones=("here",))
    local = msgspec.structs.replace(everywhere(), internal_policy="Local", external_policy="Local")
    built = world(local, dns_slice(far, near))
    built.apply_node(Node(name="node1", internal_ips=(NODE_IP,), zone="here"))
    services = taken_over(built)
    assert not any(services.is_stale(flow(way, f"{POD1}:5353"), LOCAL) for way in WAYS)


def test_without_any_endpoint_nothing_is_stale() -> None:
    for built in (
        world(everywhere()),
        world(everywhere(), dns_slice(Endpoint(address=POD1, conditions=Conditions(ready=False, serving=False)))),
    ):
        services = taken_over(built)
        assert services.due() is None
        assert not any(services.is_stale(flow(way, f"{GONE}:5353"), LOCAL) for way in WAYS)


def test_flows_of_nobody_and_of_others_are_left_alone() -> None:
    services = taken_over(world(everywhere(), dns_slice(POD1), service("web", "10.96.0.11", "53/UDP")))
    for other in (
        flow("8.8.8.8:53"),
        flow(f"{VIP}:54", f"{GONE}:54"),
        flow("10.96.0.11:53", f"{GONE}:53"),
        flow(f"{POD1}:5353"),
    ):
        assert not services.is_stale(other, LOCAL)


@pytest.mark.parametrize(
    ("settings", "address", "stale"),
    [
        (SETTINGS, NODE_IP, True),
        (SETTINGS, "192.168.56.12", False),  # forwarded to another node's port
        (SETTINGS, "127.0.0.1", True),
        (SETTINGS, "127.0.0.53", True),
        (msgspec.structs.replace(SETTINGS, localhost_nodeports=False), "127.0.0.1", False),
        (msgspec.structs.replace(SETTINGS, nodeport_addresses=("192.168.57.0/24",)), NODE_IP, False),
        (msgspec.structs.replace(SETTINGS, nodeport_addresses=("192.168.56.0/24",)), NODE_IP, True),
    ],
)
def test_node_ports_count_where_they_answer(settings: Settings, address: str, stale: bool) -> None:
    services = taken_over(world(everywhere(), dns_slice(POD1)), settings)
    assert services.is_stale(flow(f"{address}:30053"), LOCAL) is stale
    assert services.is_stale(flow(f"{address}:30053", f"{GONE}:5353"), LOCAL) is stale


def test_a_virtual_ip_beats_a_node_port_of_the_same_number() -> None:
    # This node's address is another Service's external IP, on the very port that is a node port.
    other = service("log", "10.96.0.11", "30053/UDP", external_ips=(NODE_IP,))
    built = world(everywhere(), dns_slice(POD1), other, endpoint_slice("log", "30053>514/UDP", [POD2]))
    services = taken_over(built)
    assert not services.is_stale(flow(f"{NODE_IP}:30053", f"{POD2}:514"), LOCAL)
    assert services.is_stale(flow(f"{NODE_IP}:30053", f"{POD1}:5353"), LOCAL)


def test_another_zones_entries_count_when_they_are_translated() -> None:
    services = taken_over(world(everywhere(), dns_slice(POD1)))
    assert services.is_stale(flow(f"{VIP}:53", f"{GONE}:5353", zone=7), LOCAL)
    assert not services.is_stale(flow(f"{VIP}:53", zone=7), LOCAL)


def test_ipv6() -> None:
    dual = msgspec.structs.replace(everywhere(), cluster_ips=(VIP, "fd00:96::a"), external_ips=("2001:db8::1",))
    built = world(dual, dns_slice(POD1), endpoint_slice("dns", "53>5353/UDP", ["fd00::11"], suffix="six"))
    services = taken_over(built, family=Family.V6)
    for to in ("fd00:96::a:53", "2001:db8::1:53", "fd00:1::1:30053"):
        assert services.is_stale(flow(to, "fd00::99:5353"), ("fd00:1::1", "::1"))
        assert not services.is_stale(flow(to, "fd00::11:5353"), ("fd00:1::1", "::1"))
    assert not services.is_stale(flow("::1:30053"), ("fd00:1::1", "::1"))
    assert not services.is_stale(flow(f"{VIP}:53"), ())


def test_an_endpoint_that_is_the_services_own_address_answers_nobody() -> None:
    services = taken_over(world(everywhere(), dns_slice(POD1, VIP, port="53/UDP")))
    assert services.is_stale(flow(f"{VIP}:53"), LOCAL)


# When it is worth reading the kernel's table.

Change = tuple[Service | EndpointSlice | None, ...]


def change(services: UdpServices, built: World, *objects: Service | EndpointSlice, left_out: bool = False) -> bool:
    """Bring changed objects in; return whether some flow may be stale now."""
    keys = set()
    for each in objects:
        identity = (each.namespace, each.name)
        is_service = isinstance(each, Service)
        keys |= built.apply_services({identity: each}) if is_service else built.apply_slices({identity: each})
    services.update(built.part(keys), node_state(built, SETTINGS, Family.V4), keys, {NAME} if left_out else ())
    due = services.due() is not None
    services.done()
    return due


def started(*objects: Service | EndpointSlice) -> tuple[UdpServices, World]:
    built = world(*objects)
    services = taken_over(built)
    services.done()
    return services, built


def test_a_full_sync_trusts_nothing() -> None:
    services = taken_over(world(everywhere(), dns_slice(POD1)))
    match = services.due()
    assert match is not None
    assert match.ports == {53, 30053}
    assert services.due() == match, "until it is done"


def test_what_can_make_flows_stale_is_due() -> None:
    services, built = started(everywhere(), dns_slice(POD1))
    assert not change(services, built)
    assert not change(services, built, dns_slice(POD1, POD2)), "one came: no flow was another's"
    assert change(services, built, dns_slice(POD2)), "one left"
    assert change(services, built, dns_slice(POD2, port="53>53/UDP")), "the target port changed"
    assert not change(services, built, dns_slice(port="53>53/UDP")), "nobody is left to send anybody to"
    assert change(services, built, dns_slice(POD2)), "the first came"
    more = msgspec.structs.replace(everywhere(), external_ips=(EXTERNAL, "1.2.3.5"))
    assert change(services, built, more), "an address was added"
    assert not change(services, built, everywhere()), "an address was taken away"
    assert not change(services, built, msgspec.structs.replace(everywhere(), internal_policy="Local"))
    assert not change(services, built, service("web", "10.96.0.12"), endpoint_slice("web", "80", [POD1]))
    assert change(
        services, built, service("log", "10.96.0.13", "514/UDP"), endpoint_slice("log", "514/UDP", [POD1])
    )


def test_flows_that_were_due_stay_so_whatever_else_is_touched() -> None:
    built = world(everywhere(), dns_slice(POD1))
    services = taken_over(built)
    before = services.due()
    built.apply_services({("default", "web"): service("web", "10.96.0.12")})
    for scope in ({("default", "web")}, {DNS}):
        services.update(built.part(scope), node_state(built, SETTINGS, Family.V4), scope)
        assert services.due() == before
    built.apply_services({DNS: None})
    services.update(built.part({DNS}), node_state(built, SETTINGS, Family.V4), {DNS})
    assert services.due() is None
    assert services.owner(flow(f"{VIP}:53"), LOCAL) is None


def test_a_port_that_is_left_out_keeps_its_flows_until_it_is_in_again() -> None:
    services, built = started(everywhere(), dns_slice(POD1))
    assert not change(services, built, dns_slice(POD2), left_out=True)
    assert not services.is_stale(flow(f"{VIP}:53", f"{POD1}:5353"), LOCAL)
    touched = msgspec.structs.replace(everywhere(), affinity_seconds=5)
    assert change(services, built, touched)
    assert services.is_stale(flow(f"{VIP}:53", f"{POD1}:5353"), LOCAL)


def test_an_address_that_changes_its_owner_is_due() -> None:
    older = service("old", "10.96.0.20", "53/UDP", external_ips=(EXTERNAL,), created="2026-01-01T00:00:00Z")
    younger = service("new", "10.96.0.21", "53/UDP", external_ips=(EXTERNAL,), created="2026-01-02T00:00:00Z")
    pieces = endpoint_slice("old", "53/UDP", [POD1]), endpoint_slice("new", "53/UDP", [POD2])
    services, built = started(older, younger, *pieces)
    assert services.is_stale(flow(f"{EXTERNAL}:53", f"{POD2}:53"), LOCAL)
    assert change(services, built, msgspec.structs.replace(older, external_ips=()))
    assert services.is_stale(flow(f"{EXTERNAL}:53", f"{POD1}:53"), LOCAL)
    assert not services.is_stale(flow(f"{EXTERNAL}:53", f"{POD2}:53"), LOCAL)


# Any history: nothing that is stale is ever missed by what is due, and the index equals one built anew.

NAMES = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["", "10.96.0.1", "10.96.0.2"]),
        st.sampled_from(["53/UDP", "54/UDP", "53/TCP", "x=53/UDP,y=54/UDP"]),
        st.sampled_from([0, 30053]),
        st.frozensets(st.sampled_from([POD1, POD2]), max_size=2),
    ),
    max_size=12,
)
FLOWS = [
    flow(f"{to}:{port}", by and f"{by}:{target}")
    for to, ports in (("10.96.0.1", (53, 54)), ("10.96.0.2", (53, 54)), (NODE_IP, (30053, 30054)))
    for port in ports
    for by in ("", POD1, POD2)
    for target in (53, 54)
]


@pytest.mark.parametrize("large", SIZES)
@given(STEPS)
def test_no_history_leaves_a_stale_flow_behind(
    large: int,
    steps: list[tuple[str, str, str, int, frozenset[str]]],
) -> None:
    with treated_as_large(large):
        built, services = World(), UdpServices(SETTINGS, Family.V4)
        tracked = list(FLOWS)
        for name, vip, ports, node_port, pods in steps:
            key = ("default", name)
            piece = endpoint_slice(name, ports, sorted(pods)) if pods else None
            touched = built.apply_services({key: service(name, vip, ports, node_port=node_port) if vip else None})
            touched |= built.apply_slices({("default", f"{name}-abcde"): piece})
            node = node_state(built, SETTINGS, Family.V4)
            services.update(built.part(touched), node, touched)
            match = services.due()
            if match is not None:
                tracked = [each for each in tracked if not (match.admits(each) and services.is_stale(each, LOCAL))]
            services.done()
            fresh = UdpServices(SETTINGS, Family.V4)
            fresh.update(built, node, None)
            assert [fresh.is_stale(each, LOCAL) for each in FLOWS] == [services.is_stale(e, LOCAL) for e in FLOWS]
            assert not [str(each) for each in tracked if fresh.is_stale(each, LOCAL)]
            # Traffic goes on, by the rules of now or by none.
            tracked += [each for each in FLOWS if each not in tracked and not fresh.is_stale(each, LOCAL)]
