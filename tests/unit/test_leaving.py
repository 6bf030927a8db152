"""Leaving ipvs mode on modelled kernels: what goes at once, what waits, and that nobody else's is touched."""

import errno
from collections.abc import Collection

import pytest

from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.dataplane.leftovers.guard import GUARD, guard
from kubeproxy.dataplane.leftovers.leaving import NOTHING_LEFT, Leaving, Left
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_conntrack import FakeConntrack
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.fake_virtual_addresses import FakeDevice, FakeVirtualAddresses
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb, mark_key
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

V4 = Family.V4
WEB = ServerKey(Protocol.TCP, "10.96.0.10", 80)
IDLE = ServerKey(Protocol.TCP, "10.96.0.11", 80)
DNS = ServerKey(Protocol.UDP, "10.96.0.12", 53)
NODE_PORT = ServerKey(Protocol.TCP, "192.0.2.1", 30080)
FOREIGN = ServerKey(Protocol.TCP, "192.0.2.9", 8080)
MARK = mark_key(V4, 0x6B000001)
FOREIGN_MARK = mark_key(V4, 7)
POD = "10.244.0.2"
SERVERS, ADDRESSES, SHORT = (set_name(V4, each) for each in (Set.SERVERS, Set.ADDRESSES, Set.SHORT_CIRCUIT))


def entry(key: ServerKey) -> tuple[str, Protocol, int]:
    assert key.protocol is not None
    return key.address, key.protocol, key.port


class Node:
    """A node with foreign virtual servers."""

    def __init__(self) -> None:
        self.sets = FakeSets(V4)
        self.servers = FakeVirtualServers()
        self.device = FakeDevice("dummy")
        self.conntrack = FakeConntrack()
        self.serve(FOREIGN, FOREIGN_MARK)

    def serve(self, *keys: ServerKey) -> None:
        for key in keys:
            self.servers.run([Command(Verb.ADD_SERVER, Server(key))])
            self.servers.run([Command(Verb.ADD_DESTINATION, Server(key), Destination(POD, 8080))])

    def ours(self, *keys: ServerKey) -> "Node":
        self.serve(*keys)
        self.sets.create(SERVERS, SetType.PORTS)
        self.sets.create(ADDRESSES, SetType.ADDRESSES)
        self.sets.create(SHORT, SetType.MARKS)
        self.sets.add(SERVERS, [entry(key) for key in keys if key.address])
        for key in keys:
            if key.address.startswith("10."):
                self.device.routes[key.address] = ""
                self.sets.add(ADDRESSES, [key.address])
        return self

    def kube_proxys(self, *keys: ServerKey) -> "Node":
        self.serve(*keys)
        for name, kind in (("CLUSTER-IP", SetType.PORTS), ("EXTERNAL-IP", SetType.PORTS)):
            self.sets.create(f"KUBE-{name}", kind)
        self.sets.create("KUBE-NODE-PORT-TCP", SetType.PORT_NUMBERS)
        self.sets.create(ADDRESSES, SetType.ADDRESSES)
        for key in keys:
            if key.address.startswith("10."):
                self.sets.add("KUBE-CLUSTER-IP", [entry(key)])
                self.device.foreign.add(key.address)
                self.sets.add(ADDRESSES, [key.address])
            else:
                self.sets.add("KUBE-NODE-PORT-TCP", [key.port])
        return self

    def connections(self, key: ServerKey, active: int, inactive: int = 0) -> None:
        self.servers.set_connections(key, POD, 8080, active=active, inactive=inactive)

    def leave(self, *, has_device: bool = True, at_once: bool = False, excluded: Collection[str] = ()) -> Left:
        addresses = FakeVirtualAddresses(V4, self.device)
        local = NODE_PORT.address, *self.device.foreign
        leaving = Leaving(V4, self.sets, self.servers, addresses, self.conntrack, lambda: local, excluded)
        return leaving.leave(has_device=has_device, at_once=at_once)

    def weights(self, key: ServerKey) -> list[int]:
        return [each.destination.weight for each in self.servers.destinations(key)]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_node_ports_number_elsewhere_is_nobodys_of_kube_proxy(at_once: bool) -> None:
    node = Node().kube_proxys(WEB, NODE_PORT)
    elsewhere = ServerKey(Protocol.TCP, "192.0.2.77", NODE_PORT.port)
    node.serve(elsewhere)
    node.leave(at_once=at_once)
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK, elsewhere}
    assert node.weights(elsewhere) == [1]


def test_what_is_in_an_excluded_cidr_is_left_to_whoever_has_it() -> None:
    node = Node().kube_proxys(WEB, IDLE, NODE_PORT)
    node.leave(excluded=("10.96.0.11/32", "192.0.2.0/24"))
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK, IDLE, NODE_PORT}
    assert node.device.foreign == {IDLE.address}
    assert node.device.kind == "dummy"
    # What our own set names is ours wherever it is.
    node = Node().ours(IDLE, NODE_PORT)
    node.leave(excluded=("10.96.0.11/32", "192.0.2.0/24"))
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK}


def test_a_node_that_never_had_an_ipvs_mode_is_not_asked_about_ipvs() -> None:
    node = Node()
    node.sets.create("KUBE-LOOP-BACK", SetType.ENDPOINTS)  # iptables mode has this one too
    node.servers.failures = [KernelError("asked")]
    assert node.leave(has_device=False) == NOTHING_LEFT


def test_what_nobody_passes_goes_and_the_rest_waits_for_its_connections() -> None:
    node = Node().ours(WEB, IDLE, NODE_PORT)
    node.connections(WEB, 3, 2)
    node.connections(NODE_PORT, 0, 1)
    assert node.leave() == Left(established=3, connections=6)
    assert set(node.servers.table) == {WEB, NODE_PORT, FOREIGN, FOREIGN_MARK}
    assert (node.weights(WEB), node.weights(NODE_PORT)) == ([0], [0])
    assert (node.weights(FOREIGN), node.weights(FOREIGN_MARK)) == ([1], [1])
    assert set(node.device.routes) == {WEB.address}
    assert node.sets.sets[SERVERS] == {entry(WEB), entry(NODE_PORT)}
    assert node.sets.sets[ADDRESSES] == {WEB.address}
    done = len(node.servers.log), len(node.sets.applied)
    assert node.leave().waits
    assert (len(node.servers.log), len(node.sets.applied)) == done  # nothing more to do
    node.connections(WEB, 0)
    node.connections(NODE_PORT, 0)
    assert node.leave() == NOTHING_LEFT
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK}
    assert node.device.kind is None


def test_a_cleanup_waits_for_nobody() -> None:
    node = Node().ours(WEB, MARK)
    node.connections(WEB, 3)
    node.connections(MARK, 1)
    assert node.leave(at_once=True) == NOTHING_LEFT
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK}
    assert node.device.kind is None


def test_what_kube_proxys_sets_name_is_left_the_same_way_and_becomes_ours() -> None:
    node = Node().kube_proxys(WEB, IDLE, NODE_PORT)
    node.connections(WEB, 1)
    node.connections(NODE_PORT, 1)
    assert node.leave() == Left(established=2, connections=2)
    assert node.device.foreign == {WEB.address}
    assert node.sets.sets[ADDRESSES] == {WEB.address}
    for name in ("KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-NODE-PORT-TCP"):
        node.sets.destroy(name)  # as the sweep does; our own set tells whose they are from now on
    assert node.leave().connections == 2
    node.connections(WEB, 0)
    node.connections(NODE_PORT, 0)
    assert node.leave() == NOTHING_LEFT
    assert set(node.servers.table) == {FOREIGN, FOREIGN_MARK}
    assert node.device.kind is None


def test_a_mark_keeps_the_addresses_that_lead_to_it() -> None:
    node = Node().ours(WEB, IDLE, MARK)
    node.sets.add(SHORT, [(IDLE.address, Protocol.TCP, 80, MARK.mark, 0xFFFFBFFF)])
    node.connections(MARK, 1)
    assert node.leave() == Left(established=1, connections=1)
    assert set(node.servers.table) == {MARK, FOREIGN, FOREIGN_MARK}
    assert set(node.device.routes) == {IDLE.address}


def test_udp_goes_at_once_when_its_flows_are_forgotten() -> None:
    node = Node().ours(DNS)
    node.connections(DNS, 0, 5)
    flows = [
        node.conntrack.track(
            Flow(
                protocol=Protocol.UDP,
                source="10.244.0.9",
                source_port=4000,
                destination=address,
                port=53,
                answerer=POD,
                answerer_port=53,
            )
        )
        for address in (DNS.address, "10.96.0.99")
    ]
    node.conntrack.before_delete = lambda: node.servers.run(
        [Command(Verb.SET_SERVER, Server(DNS))]  # serves those flows until they are forgotten
    )
    assert node.leave() == NOTHING_LEFT
    assert node.conntrack.tracked == {str(flows[1])}
    assert DNS not in node.servers.table


def test_a_refusal_is_told_with_the_virtual_servers_name_and_changes_nothing_else() -> None:
    node = Node().ours(WEB)
    node.servers.refusals[Verb.DELETE_SERVER] = [errno.EPERM]
    with pytest.raises(KernelError, match=r"virtual server tcp 10.96.0.10:80 stays: Operation not permitted"):
        node.leave()
    assert set(node.device.routes) == {WEB.address}
    assert node.sets.sets[SERVERS] == {entry(WEB)}
    node.servers.refusals[Verb.DELETE_SERVER] = [errno.ESRCH]
    assert node.leave() == NOTHING_LEFT


def test_a_kernel_without_ipvs_has_only_sets_and_a_device() -> None:
    node = Node().ours(WEB)
    node.servers.present = False
    assert node.leave() == NOTHING_LEFT
    assert node.device.kind is None


@pytest.mark.parametrize("family", list(Family))
def test_the_guard_is_written_until_it_stands(family: Family) -> None:
    saved = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    text = guard(family, saved)
    added = [line for line in text.splitlines() if line.startswith(("-A ", "-I "))]
    assert [line.split()[1] for line in added if line.startswith("-I ")] == ["INPUT", "OUTPUT"]
    standing = saved.replace("COMMIT", "\n".join([f"-A {line[3:]}" for line in added]) + "\nCOMMIT")
    assert guard(family, standing) == ""
    assert guard(family, standing.replace("NEW", "INVALID"))
    assert GUARD.owns("filter", "KUBE-IPVS-FILTER")
