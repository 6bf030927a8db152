"""From mode to mode, and from kube-proxy's ipvs mode to each of ours, on a busy node: no connection notices.

The node has virtual servers that are somebody else's; nobody touches these.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from tests.netns.takeover_bed import BACKENDS, EXTERNAL, NAMESPACES, NODE_PORT, VIP, Machine, routes
from tests.netns.traffic import ECHO_PORT, Traffic, lost, traffic
from tests.netns.upstream_virtual_servers import install_virtual_servers
from tests.scenarios.addresses import ALT, GATEWAY, HOSTS, NODE, TUNNEL, WAY_OUT
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab
from tests.waiting import until

RATE = int(os.environ.get("KUBEPROXY_RATE", "200"))
"""New connections a second."""
Record = Callable[[str, object], None]

FOREIGN = """-A -t 203.0.113.9:8080 -s wlc -p 60
-a -t 203.0.113.9:8080 -r 203.0.113.99:80 -m -w 7
-A -f 7 -s rr
-a -f 7 -r 203.0.113.99:80 -g -w 3
-A -u [2001:db8:9::9]:53 -s sh
-a -u [2001:db8:9::9]:53 -r [2001:db8:9::99]:53 -m -w 5
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        built.run("node", lambda: SystemExec().run(["ipvsadm", "-R"], stdin=FOREIGN))
        before = foreign(built)
        yield built
        assert foreign(built) == before


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    started = Machine(lab, tmp_path)
    try:
        yield started
    finally:
        started.close()


def foreign(lab: Lab) -> list[str]:
    """Return what stands of others' virtual servers."""
    lines = servers(lab)
    found = [
        line for line in lines if "203.0.113.9" in line or "2001:db8:9:" in line or line.startswith("-A -f 7")
    ]
    assert len(found) == FOREIGN.count("\n"), lines
    return sorted(found)


def servers(lab: Lab) -> list[str]:
    return lab.run("node", lambda: SystemExec().run(["ipvsadm", "-S", "-n"]).stdout).splitlines()


def kube_proxy(lab: Lab) -> None:
    """Do what a kube-proxy in ipvs mode does when it starts."""
    for family in Family:
        tables = Iptables(SystemExec(), family, Flavour.LEGACY)
        own = [host.address(family) for host in (NODE, ALT, GATEWAY, TUNNEL, WAY_OUT)]

        def install(tables: Iptables = tables, family: Family = family, own: list[str] = own) -> None:
            install_virtual_servers(
                tables,
                cluster_ip=VIP[family],
                external_ip=EXTERNAL[family],
                node_addresses=own,
                node_port=NODE_PORT,
                endpoints=[(HOSTS[name].address(family), ECHO_PORT) for name in BACKENDS],
            )

        lab.run("node", install)


def local(lab: Lab) -> set[str]:
    """Return the virtual addresses that are local."""
    found = ""
    for ip in ("-4", "-6"):
        argv = ["ip", ip, "route", "show", "table", "local", "dev", "kube-ipvs0"]
        found += lab.run("node", lambda argv=argv: SystemExec().run(argv, check=False).stdout)
    return {address for address in (*VIP.values(), *EXTERNAL.values()) if f"local {address} " in found}


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
        assert machine.status()["waiting"] == []
        machine.end(signal.SIGTERM)
        took["to iptables"] = machine.agent("iptables")
        until(lambda: bool(machine.status()["waiting"]), "connections through virtual servers are told of")
        waiting = machine.status()["waiting"]
        running.settle(1)
        assert local(lab) == {*VIP.values(), *EXTERNAL.values()}
        assert "-w 1" not in "".join(line for line in servers(lab) if f":{ECHO_PORT} " in line)
    record_property("traffic", running.verdict())
    record_property("seconds until each had taken over", {name: round(each, 1) for name, each in took.items()})
    record_property("told", waiting)
    assert machine.status()["leftovers"] == []


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
        addresses = lab.run("node", lambda: SystemExec().run(["ip", "addr", "show", "kube-ipvs0"]).stdout)
        sets = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout).split()
        assert not {"KUBE-NODE-PORT-TCP", "KUBE-6-NODE-PORT-TCP", "KUBE-EXTERNAL-IP"} & set(sets)
        assert (VIP[Family.V4] in addresses) is (mode == "iptables")  # its own are needed while connections pass
        assert bool(machine.status()["waiting"]) is (mode == "iptables")
        assert machine.status()["leftovers"] == []
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", round(took, 1))


def test_the_traffic_notices_a_gap(lab: Lab) -> None:
    """Otherwise no loss would prove nothing: here kube-proxy's virtual servers lead nowhere for 50 ms."""
    kube_proxy(lab)
    with Traffic(lab, NAMESPACES, routes(Family), RATE, held=1) as running:
        running.settle(0.5)
        assert not lost(running.verdict())
        lab.run("node", lambda: SystemExec().run(["ipvsadm", "-D", "-t", f"{VIP[Family.V4]}:80"]))
        running.settle(0.05)
        kube_proxy(lab)
        running.settle(0.5)
        assert running.verdict()["refused"]
