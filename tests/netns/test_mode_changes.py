"""nftables mode takes a busy node over from kube-proxy and from our iptables mode, and back: nothing is lost.

Both families at once, new connections at a constant rate and others held open all the time.
"""

import signal
from collections.abc import Callable

import pytest

from kubeproxy.dataplane.nftables.names import CODE_BASE
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol
from tests.netns.takeover_bed import (
    NAMESPACES,
    Machine,
    kube_proxy,
    kube_proxy_nftables,
    kubelet,
    routes,
)
from tests.netns.traffic import traffic
from tests.netns.upstream_nftables import base_name
from tests.scenarios.lab import Lab
from tests.waiting import until

pytestmark = pytest.mark.netns

RATE = 200
Record = Callable[[str, object], None]


def tables(lab: Lab) -> str:
    """Return nftables' own tables, those of iptables-nft left out."""
    listed = lab.run("node", lambda: SystemExec().run(["nft", "list", "ruleset"]).stdout)
    found, own = [], False
    for line in listed.splitlines():
        if line.startswith("table "):
            own = line.split()[2] == "kube-proxy"
        if own:
            found.append(line)
    return "\n".join(found)


def is_ours(lab: Lab) -> bool:
    """Whether the node is served by our tables, with nothing of kube-proxy's in them."""
    text = tables(lab)
    theirs = base_name(ServicePortName("default", "web", "", Protocol.TCP))
    ours = f'comment "default/web" : {CODE_BASE >> 16:x}:'
    return ours in text and text.count("map endpoints {") == len(Family) and theirs not in text


def test_kube_proxys_nftables_mode_is_taken_over(lab: Lab, machine: Machine, record_property: Record) -> None:
    """Its table has our table's name, and is replaced at one moment; and it starts over ours as it is."""
    took = []
    kube_proxy_nftables(lab)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        for end in (signal.SIGTERM, signal.SIGKILL):
            took.append(machine.agent("nftables"))
            assert is_ours(lab)
            machine.end(end)
            running.hold_more()
            running.settle(0.5)
            took.append(machine.agent("nftables"))
            machine.end(end)
            kube_proxy_nftables(lab)
            assert not is_ours(lab)
            running.settle(0.5)
        took.append(machine.agent("nftables"))
        assert machine.told("leftovers") == []
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", [round(each, 2) for each in took])


@pytest.mark.parametrize("theirs", list(Flavour))
def test_kube_proxys_iptables_mode_is_taken_over(
    lab: Lab, machine: Machine, theirs: Flavour, record_property: Record
) -> None:
    kubelet(lab, theirs)
    kube_proxy(lab, theirs)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        for _ in range(2):
            running.settle(0.5)
            machine.agent("nftables")
            until(lambda: not machine.rules(theirs), "nothing of kube-proxy's is left")
            running.hold_more()
            running.settle(0.5)
            assert machine.told("leftovers") == []
            machine.end(signal.SIGTERM)
            kube_proxy(lab, theirs)
    record_property("traffic", running.verdict())


@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_node_changes_between_iptables_and_nftables_mode(
    lab: Lab, machine: Machine, flavour: Flavour, record_property: Record
) -> None:
    took = {}
    kubelet(lab, flavour)
    machine.agent("iptables")
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        for end in (signal.SIGTERM, signal.SIGKILL):
            running.settle(0.5)
            machine.end(end)
            took["nftables"] = machine.agent("nftables")
            until(lambda: not machine.rules(flavour), "nothing is left of iptables mode")
            running.hold_more()
            running.settle(0.5)
            assert is_ours(lab)
            assert machine.told("leftovers") == []
            machine.end(end)
            took["iptables"] = machine.agent("iptables")
            until(lambda: not tables(lab), "nothing is left of nftables mode")
            assert machine.told("leftovers") == []
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", {mode: round(each, 2) for mode, each in took.items()})
