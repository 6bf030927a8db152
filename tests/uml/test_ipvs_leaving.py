"""After ipvs mode, on a real kernel: connections end in their own time, nothing wrong answers, nothing is left."""

import socket
import struct

import pytest

from kubeproxy import cleanup
from kubeproxy.dataplane.iptables.names import SETS
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import Kept, Removed, remove
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.takeover_bed import NODE_PORT, VIP, WORLD
from tests.netns.traffic import ECHO_PORT
from tests.scenarios.addresses import HOSTS, virtual
from tests.scenarios.lab import Lab
from tests.scenarios.probes import REFUSED, probe
from tests.uml.ipvs_bed import Inside, kube_proxy, local, on_node, servers
from tests.waiting import until

DNS = {family: virtual("cluster", family, 200, 11) for family in Family}
BE1 = HOSTS["be1"]
SERVICES = world(
    service("web", ",".join(VIP.values()), node_port=NODE_PORT),
    service("dns", ",".join(DNS.values()), "53/UDP"),
    *(
        each
        for family in Family
        for each in (
            endpoint_slice("web", str(ECHO_PORT), [BE1.address(family)], suffix=family.label.lower()),
            endpoint_slice("dns", "53/UDP", [BE1.address(family)], suffix=family.label.lower()),
        )
    ),
)
KEPT = Kept(mode=Mode.IPTABLES, flavour=Flavour.LEGACY)
OWN_PORT = 9999
"""Of a process of the node's that listens at every address."""


class Connection:
    """From the pod to the Service and on to its endpoint; by UDP, from one port all the time."""

    def __init__(self, lab: Lab, family: Family) -> None:
        inet = socket.AF_INET if family is Family.V4 else socket.AF_INET6
        with lab.socket("be1", inet, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((BE1.address(family), ECHO_PORT))
            listener.listen(1)
            self.client = lab.socket("pod", inet, socket.SOCK_STREAM)
            self.client.settimeout(5)
            self.client.connect((VIP[family], 80))
            self.server, _ = listener.accept()
        self.server.settimeout(5)
        self.datagrams = lab.socket("pod", inet, socket.SOCK_DGRAM)
        self.datagrams.settimeout(5)
        self.datagrams.connect((DNS[family], 53))

    def check(self) -> None:
        self.client.send(b"ping")
        assert self.server.recv(10) == b"ping"
        self.server.send(b"pong")
        assert self.client.recv(10) == b"pong"
        self.datagrams.send(b"?")
        assert self.datagrams.recv(100)

    def reset(self) -> None:
        """End at once; IPVS forgets a connection that was reset after ten seconds."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for each in (self.client, self.server, self.datagrams):
            each.close()


def sweep(lab: Lab) -> Removed:
    return lab.run("node", lambda: remove(whole_kernel(), Family, KEPT))


def nothing_is_left(lab: Lab) -> None:
    assert "kube-ipvs0" not in on_node(lab, "ip", "link")
    assert len(servers(lab)) == 6  # the others'
    for save in ("iptables-legacy-save", "ip6tables-legacy-save"):
        assert "KUBE-IPVS" not in on_node(lab, save)


def test_connections_go_on_and_then_everything_goes(lab: Lab) -> None:
    lab.listen("node", (OWN_PORT,))
    for family in Family:
        Inside(lab, "ipvs", family).sync(SERVICES)
    held = [Connection(lab, family) for family in Family]
    for each in held:
        each.check()
    for family in Family:
        Inside(lab, "iptables-legacy", family).sync(SERVICES)
    for _ in range(2):
        found = sweep(lab)
        assert found.complaints == ()
        assert [text.partition(" still")[0] for text in found.waiting] == [
            f"IPVS, {family.label}: 1 connections (1 established)" for family in Family
        ]
        for each in held:
            each.check()
    # The addresses that connections need are local, yet this node's own process is not heard there.
    assert local(lab) == set(VIP.values())
    for family in Family:
        for client in ("pod", "outside", "node"):
            assert probe(lab, client, Protocol.TCP, VIP[family], OWN_PORT) == REFUSED
        assert "-w 0" in "".join(line for line in servers(lab) if BE1.address(family) in line)
        later = Connection(lab, family)  # is iptables mode's
        later.check()
        later.reset()
    assert sum("1 connections" in text for text in sweep(lab).waiting) == 2
    for each in held:
        each.reset()
    until(lambda: sweep(lab) == Removed(), "the last connections have ended")
    nothing_is_left(lab)
    sets = {name for name in on_node(lab, "ipset", "list", "-n").split() if name.startswith("KUBE-")}
    assert sets == {name for family in Family for name in SETS[family]}


@pytest.mark.parametrize("ours", [False, True])
def test_a_cleanup_waits_for_nobody_and_takes_nobody_elses(lab: Lab, ours: bool) -> None:
    kube_proxy(lab)
    if ours:
        for family in Family:
            Inside(lab, "ipvs", family).sync(SERVICES if family is Family.V4 else WORLD)
    held = Connection(lab, Family.V4) if ours else None
    assert lab.run("node", lambda: cleanup.main([])) == 0
    nothing_is_left(lab)
    assert not [name for name in on_node(lab, "ipset", "list", "-n").split() if name.startswith("KUBE-")]
    if held:
        held.reset()
