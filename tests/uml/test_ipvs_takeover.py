"""From mode to mode, and from kube-proxy's ipvs mode to each of ours, on a busy node: no connection notices.

The node has virtual servers that are somebody else's; nobody touches these.
"""

import signal
from collections.abc import Callable

import pytest

from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from tests.netns.takeover_bed import EXTERNAL, NAMESPACES, VIP, Machine, routes
from tests.netns.traffic import ECHO_PORT, Traffic, lost, traffic
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import kube_proxy, local, on_node, servers
from tests.waiting import until

RATE = 200
"""New connections a second."""
Record = Callable[[str, object], None]


def test_iptables_to_ipvs_to_a_restart_to_iptables(lab: Lab, machine: Machine, record_property: Record) -> None:
    took = {"iptables": machine.agent("iptables")}
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        machine.end(signal.SIGTERM)
        took["to ipvs"] = machine.agent("ipvs")
        until(lambda: "KUBE-SVC-" not in machine.rules(Flavour.LEGACY), "nothing is left of iptables mode")
        running.hold_more()
        running.settle(1)
        machine.end(signal.SIGKILL)
        took["restart"] = machine.agent("ipvs")
        running.settle(1)
        assert machine.told("waiting") == []
        machine.end(signal.SIGTERM)
        took["to iptables"] = machine.agent("iptables")
        until(lambda: bool(machine.told("waiting")), "connections through virtual servers are told of")
        waiting = machine.told("waiting")
        running.settle(1)
        assert local(lab) == {*VIP.values(), *EXTERNAL.values()}
        assert "-w 1" not in "".join(line for line in servers(lab) if f":{ECHO_PORT} " in line)
    record_property("traffic", running.verdict())
    record_property("seconds until each had taken over", {name: round(each, 1) for name, each in took.items()})
    record_property("told", waiting)
    assert machine.told("leftovers") == []


@pytest.mark.parametrize("mode", ["ipvs", "iptables"])
def test_kube_proxys_ipvs_mode_is_taken_over(
    lab: Lab, machine: Machine, mode: str, record_property: Record
) -> None:
    kube_proxy(lab)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        took = machine.agent(mode)
        until(lambda: ":KUBE-LOAD-BALANCER " not in machine.rules(Flavour.LEGACY), "kube-proxy's chains are gone")
        running.settle(1)
        addresses = on_node(lab, "ip", "addr", "show", "kube-ipvs0")
        sets = on_node(lab, "ipset", "list", "-n").split()
        assert not {"KUBE-NODE-PORT-TCP", "KUBE-6-NODE-PORT-TCP", "KUBE-EXTERNAL-IP"} & set(sets)
        assert (VIP[Family.V4] in addresses) is (mode == "iptables")  # its own are needed while connections pass
        assert bool(machine.told("waiting")) is (mode == "iptables")
        assert machine.told("leftovers") == []
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", round(took, 1))


def test_the_traffic_notices_a_gap(lab: Lab) -> None:
    """Otherwise no loss would prove nothing: here kube-proxy's virtual servers lead nowhere for 50 ms."""
    kube_proxy(lab)
    with Traffic(lab, NAMESPACES, routes(Family), RATE, held=1) as running:
        running.settle(0.5)
        assert not lost(running.verdict())
        on_node(lab, "ipvsadm", "-D", "-t", f"{VIP[Family.V4]}:80")
        running.settle(0.05)
        kube_proxy(lab)
        running.settle(0.5)
        assert running.verdict()["refused"]
