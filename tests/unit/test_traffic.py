"""Connections by Service: the World joined with what the kernel counts, in ipvs mode and in every other."""

import struct
from collections.abc import Iterable

import msgspec
import pytest

from kubeproxy.kernel.conntrack_messages import CTA_PROTOINFO, is_established
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.kernel.ipvs_types import (
    Command,
    Counted,
    Destination,
    Server,
    ServerKey,
    Statistics,
    Verb,
    mark_key,
)
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.netlink_messages import NLA_F_NESTED, attribute, netfilter_head
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.flows import Flow
from kubeproxy.model.objects import Protocol, TrafficPolicy
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import crowd, endpoint_slice, service, world
from kubeproxy.trace.question import BadQuestion
from kubeproxy.traffic import flows
from kubeproxy.traffic.answer import Look, Port
from kubeproxy.traffic.directory import Directory
from kubeproxy.traffic.machine import look_at_flows, look_at_ipvs
from kubeproxy.traffic.question import MOST, Question, parse
from kubeproxy.traffic.virtual_servers import GONE, NOT_THERE, SHORT_CIRCUIT
from tests.backend_node import web, web_slice
from tests.ipvs_node import NODE_IP, VIP, Node

pytestmark = pytest.mark.unit

ALL = Question()
WEB = Question(service=("default", "web"))


def ipvs_look(node: Node, question: Question = ALL) -> Look:
    found = wanted(node.world, node.settings, Family.V4)
    return look_at_ipvs(node.servers, node.sets, Directory(found.node, found.ports), question)


def conntrack_look(objects: World, table: FakeConntrack, question: Question = ALL) -> Look:
    found = wanted(objects, Settings(node_name="node1"), Family.V4)
    return look_at_flows(table, Directory(found.node, found.ports), question)


def flow(destination: str, port: int, answerer: str, source_port: int = 1, **fields: object) -> Flow:
    whole = {"protocol": Protocol.TCP, "source": "10.244.0.9", "answerer_port": 8080, **fields}
    return Flow(destination=destination, port=port, answerer=answerer, source_port=source_port, **whole)  # type: ignore[arg-type]


def rows(port: Port) -> list[tuple[str, str, str, int | None, int | None, int | None, bool]]:
    return [
        (
            server.way,
            server.address,
            each.endpoint,
            each.weight,
            each.counts.active,
            each.counts.inactive,
            each.draining,
        )
        for server in port.servers
        for each in server.destinations
    ]


class TestIpvs:
    def test_servers_destinations_and_connections_of_a_service(self) -> None:
        node = Node(web(node_port=30080), web_slice("10.244.0.2@node1"))
        node.full()
        node.servers.set_connections(VIP, "10.244.0.2", 8080, active=3, inactive=1)
        (port,) = ipvs_look(node).ports
        assert (port.service, port.protocol, port.family, port.note) == ("default/web", "TCP", "IPv4", "")
        assert rows(port) == [
            ("cluster IP", "10.96.0.1:80", "10.244.0.2:8080", 1, 3, 1, False),
            ("node port", f"{NODE_IP}:30080", "10.244.0.2:8080", 1, 0, 0, False),
        ]
        assert [server.scheduler for server in port.servers] == ["rr", "rr"]
        assert (port.servers[0].counts.active, port.servers[0].counts.inactive) == (3, 1)

    def test_what_drains_is_marked(self) -> None:
        node = Node(web(), web_slice())
        node.full()
        node.servers.set_connections(VIP, "10.244.1.2", 8080, active=1)
        node.put(web_slice("10.244.0.2@node1"))
        (port,) = ipvs_look(node).ports
        assert rows(port) == [
            ("cluster IP", "10.96.0.1:80", "10.244.1.2:8080", 0, 1, 0, True),
            ("cluster IP", "10.96.0.1:80", "10.244.0.2:8080", 1, 0, 0, False),
        ]

    def test_a_service_that_is_gone_while_its_connections_go_on(self) -> None:
        node = Node(web(), web_slice("10.244.0.2@node1"))
        node.full()
        node.servers.set_connections(VIP, "10.244.0.2", 8080, active=1)
        node.remove("web")
        (port,) = ipvs_look(node).ports
        assert (port.service, port.note) == ("", GONE)
        assert rows(port) == [("", "10.96.0.1:80", "10.244.0.2:8080", 0, 1, 0, True)]

    def test_short_circuits_are_their_services_own(self) -> None:
        node = Node(
            web(node_port=30080, external_policy=TrafficPolicy.LOCAL),
            web_slice("10.244.0.2@node1", "10.244.1.2@node2"),
        )
        node.full()
        (port,) = ipvs_look(node).ports
        by_way = {way: {row[2] for row in rows(port) if row[0] == way} for way in (row[0] for row in rows(port))}
        both = {"10.244.0.2:8080", "10.244.1.2:8080"}
        assert by_way == {"cluster IP": both, "node port": {"10.244.0.2:8080"}, SHORT_CIRCUIT: both}
        assert sum(server.way == SHORT_CIRCUIT for server in port.servers) == 2

    def test_other_peoples_virtual_servers_are_apart_and_their_weight_zero_is_their_own(self) -> None:
        node = Node(web(), web_slice())
        node.full()
        theirs = ServerKey(Protocol.TCP, "192.0.2.9", 99)
        for key in (theirs, mark_key(Family.V4, 7)):
            node.servers.run(
                [
                    Command(Verb.ADD_SERVER, Server(key, "wlc")),
                    Command(Verb.ADD_DESTINATION, Server(key), Destination("192.0.2.1", 9, 0)),
                ]
            )
        look = ipvs_look(node)
        assert [port.service for port in look.ports] == ["default/web"]
        assert [server.address for server in look.foreign] == ["192.0.2.9:99", "mark 0x7"]
        assert not look.foreign[0].destinations[0].draining
        assert ipvs_look(node, WEB).foreign == ()

    def test_a_service_without_a_virtual_server_is_said_to_have_none(self) -> None:
        node = Node(web(), web_slice())
        (port,) = ipvs_look(node, WEB).ports
        assert (port.servers, port.note) == ((), NOT_THERE)

    def test_udp_has_no_active_connections_and_not_none_of_them(self) -> None:
        node = Node(service("web", "10.96.0.1", "53>53/UDP"), endpoint_slice("web", "53/UDP", ["10.244.0.2"]))
        node.full()
        key = ServerKey(Protocol.UDP, "10.96.0.1", 53)
        node.servers.set_connections(key, "10.244.0.2", 53, inactive=4)
        (port,) = ipvs_look(node).ports
        assert rows(port) == [("cluster IP", "10.96.0.1:53", "10.244.0.2:53", 1, None, 4, False)]
        assert port.servers[0].counts.active is None

    def test_the_busiest_come_first_and_destinations_are_read_of_those_alone(self) -> None:
        node = Node(
            *[service(f"s{i}", f"10.96.0.{i}") for i in range(1, 6)],
            *[endpoint_slice(f"s{i}", "80", ["10.244.0.2"]) for i in range(1, 6)],
        )
        node.full()
        rates = {"10.96.0.4": 50, "10.96.0.2": 7}
        counted = node.servers.counted_servers
        read: list[ServerKey] = []
        destinations = node.servers.destinations

        def with_rates(family: Family) -> dict[ServerKey, Counted]:
            return {
                key: Counted(each.server, Statistics(connections_rate=rates.get(key.address, 0)))
                for key, each in counted(family).items()
            }

        node.servers.counted_servers = with_rates  # type: ignore[method-assign]
        node.servers.destinations = lambda key: read.append(key) or destinations(key)  # type: ignore[method-assign, func-returns-value]
        look = ipvs_look(node, Question(top=3))
        assert [port.service for port in look.ports] == ["default/s4", "default/s2", "default/s1"]
        assert look.left_off == 2
        assert [key.address for key in read] == ["10.96.0.4", "10.96.0.2", "10.96.0.1"]

    def test_a_list_that_changes_under_the_reading_is_read_again(self) -> None:
        node = Node(web(), web_slice())
        node.full()
        node.servers.failures = [DumpInterrupted("changed"), DumpInterrupted("changed")]
        assert len(ipvs_look(node).ports) == 1
        node.servers.failures = [DumpInterrupted("changed")] * 3
        with pytest.raises(DumpInterrupted):
            ipvs_look(node)

    def test_without_sets_nothing_is_ours(self) -> None:
        node = Node(web(), web_slice())
        node.full()
        node.sets.sets.clear()
        look = ipvs_look(node)
        assert [port.note for port in look.ports] == [NOT_THERE]
        assert [server.address for server in look.foreign] == ["10.96.0.1:80"]


WORLD = (
    service("web", "10.96.0.1", "80>8080", node_port=30080),
    endpoint_slice("web", "80>8080", ["10.244.0.2", "10.244.1.2"]),
)


class TestFlows:
    def test_flows_count_for_the_address_spoken_to_and_the_endpoint_that_answers(self) -> None:
        table = FakeConntrack(
            flow("10.96.0.1", 80, "10.244.0.2", 1),
            flow("10.96.0.1", 80, "10.244.0.2", 2),
            flow("192.168.0.2", 30080, "10.244.1.2", 3),
            flow("10.96.0.1", 81, "10.244.0.2", 4),  # nobody's port
            flow("192.0.2.1", 80, "192.0.2.1", 5, answerer_port=80),  # not translated
        )
        (port,) = conntrack_look(world(*WORLD), table).ports
        assert rows(port) == [
            ("cluster IP", "10.96.0.1:80", "10.244.0.2:8080", None, 0, 2, False),
            ("cluster IP", "10.96.0.1:80", "10.244.1.2:8080", None, 0, 0, False),
            ("node port", "192.168.0.2:30080", "10.244.0.2:8080", None, 0, 0, False),
            ("node port", "192.168.0.2:30080", "10.244.1.2:8080", None, 0, 1, False),
        ]
        counts = port.servers[0].counts
        assert (counts.inactive, counts.connections, counts.connections_rate, counts.bytes_in_rate) == (
            2,
            None,
            None,
            None,
        )

    def test_established_ones_are_active(self) -> None:
        found = wanted(world(*WORLD), Settings(node_name="node1"), Family.V4)
        table = FakeConntrack(*(flow("10.96.0.1", 80, "10.244.0.2", number) for number in range(3)))
        directory = Directory(found.node, found.ports)
        (port,) = flows.look(directory, table.flows, lambda each: each.source_port > 0, WEB).ports
        assert rows(port)[0][4:6] == (2, 1)
        assert (port.servers[0].counts.active, port.servers[0].counts.inactive) == (2, 1)

    def test_who_is_no_endpoint_any_more_drains(self) -> None:
        (port,) = conntrack_look(world(*WORLD), FakeConntrack(flow("10.96.0.1", 80, "10.244.9.9"))).ports
        assert rows(port)[0] == ("cluster IP", "10.96.0.1:80", "10.244.9.9:8080", None, 0, 1, True)

    def test_a_node_port_that_nobody_uses(self) -> None:
        (port,) = conntrack_look(world(*WORLD), FakeConntrack()).ports
        assert [(server.address, server.counts.inactive) for server in port.servers] == [
            ("10.96.0.1:80", 0),
            ("*:30080", 0),
        ]

    def test_only_the_ports_of_who_is_asked_for_are_read(self) -> None:
        table = FakeConntrack()
        look = conntrack_look(world(*WORLD, service("dns", "10.96.0.2", "53/UDP")), table, WEB)
        assert [port.service for port in look.ports] == ["default/web"]
        assert [(match.protocol, match.ports) for match in table.questions] == [(Protocol.TCP, {80, 30080})]

    def test_the_busiest_come_first(self) -> None:
        objects = crowd(5, 1)
        address = "10.96.0.3"
        look = conntrack_look(objects, FakeConntrack(flow(address, 80, "10.128.0.3")), Question(top=2))
        assert [port.service for port in look.ports] == ["bench/svc-3:http", "bench/svc-0:http"]
        assert look.left_off == 3

    def test_a_table_that_changes_is_counted_as_far_as_it_was_read(self) -> None:
        table = FakeConntrack(flow("10.96.0.1", 80, "10.244.0.2", 1), flow("10.96.0.1", 80, "10.244.0.2", 2))
        table.interruptions = [1]
        (port,) = conntrack_look(world(*WORLD), table).ports
        assert port.servers[0].counts.inactive == 1


def state(protocol: Protocol, *nested: tuple[int, bytes]) -> Flow:
    info = b"".join(attribute(kind | NLA_F_NESTED, value) for kind, value in nested)
    body = netfilter_head(Family.V4) + attribute(3, struct.pack("!I", 8)) + attribute(CTA_PROTOINFO, info)
    return msgspec.structs.replace(flow("10.96.0.1", 80, "10.244.0.2", protocol=protocol), handle=body)


@pytest.mark.parametrize(
    ("protocol", "nested", "answer"),
    [
        (Protocol.TCP, [(1, attribute(1, b"\3"))], True),
        (Protocol.TCP, [(1, attribute(1, b"\7"))], False),
        (Protocol.TCP, [], None),
        (Protocol.SCTP, [(3, attribute(1, b"\4"))], True),
        (Protocol.SCTP, [(3, attribute(1, b"\3"))], False),
        (Protocol.UDP, [], None),
    ],
)
def test_the_state_of_a_tracked_connection(
    protocol: Protocol, nested: Iterable[tuple[int, bytes]], answer: bool | None
) -> None:
    assert is_established(state(protocol, *nested)) is answer


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"top": "0"}, "not between"),
        ({"top": "9" * 9}, "not between"),
        ({"top": "x"}, "not between"),
        ({"service": "web"}, "write namespace/name"),
        ({"namespace": "a/b"}, "is none"),
        ({"namespace": "a" * 400}, "longer"),
        ({"pod": "x"}, "unknown parameter"),
    ],
)
def test_bad_questions(values: dict[str, str], complaint: str) -> None:
    with pytest.raises(BadQuestion, match=complaint):
        parse(values)


def test_questions() -> None:
    assert parse({}).is_open
    assert parse({"service": "ns/web"}) == Question(service=("ns", "web"), top=MOST)
    assert parse({"namespace": "ns", "top": "5"}) == Question(namespace="ns", top=5)
