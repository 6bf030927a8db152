"""kube-proxy's state on a busy node, taken over by the whole agent, given back and taken over again."""

import signal
from collections.abc import Callable

import pytest

from kubeproxy.dataplane.leftovers.removal import remove_chains
from kubeproxy.dataplane.leftovers.upstream import IPTABLES_OWNED
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.settings import Settings
from tests.netns.takeover_bed import (
    NAMESPACES,
    WORLD,
    Machine,
    kube_proxy,
    kube_proxy_nftables,
    kubelet,
    routes,
)
from tests.netns.traffic import Traffic, lost, traffic
from tests.netns.upstream_iptables import KUBELET_CHAINS
from tests.netns.upstream_ipvs import install_ipvs, set_names
from tests.scenarios.addresses import POD_NETWORK
from tests.scenarios.lab import Lab
from tests.scenarios.modes import IPTABLES
from tests.waiting import until

pytestmark = pytest.mark.netns

RATE = 200


@pytest.mark.parametrize("theirs", list(Flavour))
@pytest.mark.parametrize("ours", list(Flavour))
def test_kube_proxy_is_taken_over_under_load(
    lab: Lab, machine: Machine, ours: Flavour, theirs: Flavour, record_property: Callable[[str, object], None]
) -> None:
    """The kubelet's hint makes ours; where kube-proxy is in the other flavour, that one ends up empty."""
    other = next(flavour for flavour in Flavour if flavour is not ours)
    took = []
    kubelet(lab, ours)
    kube_proxy(lab, theirs)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        running.settle(1)
        for end in (signal.SIGTERM, signal.SIGKILL):
            took.append(machine.agent())
            assert "KUBE-SVC-" in machine.rules(ours)
            until(lambda: not machine.rules(other), f"nothing is left in {other}")
            assert machine.status()["leftovers"] == []
            machine.end(signal.SIGTERM)
            running.settle(0.5)
            took.append(machine.agent())
            machine.end(end)
            kube_proxy(lab, theirs)
            running.settle(1)
        took.append(machine.agent())
        until(lambda: not machine.rules(other), f"nothing is left in {other}")
    record_property("traffic", running.verdict())
    record_property("seconds until taken over", [round(each, 2) for each in took])
    for family in Family:
        tables = Iptables(SystemExec(), family, ours)
        saved = lab.run("node", lambda tables=tables: "".join(map(tables.save, ("filter", "mangle"))))
        assert all(f":{chain} " in saved for chain in KUBELET_CHAINS)


@pytest.mark.parametrize("ours", list(Flavour))
def test_the_nftables_mode_is_taken_over_under_load(
    lab: Lab, machine: Machine, ours: Flavour, record_property: Callable[[str, object], None]
) -> None:
    def is_gone() -> bool:
        return "kube-proxy" not in lab.run("node", lambda: SystemExec().run(["nft", "list", "tables"]).stdout)

    kubelet(lab, ours)
    kube_proxy_nftables(lab)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        for _ in range(2):
            running.settle(0.5)
            machine.agent()
            until(is_gone, "the tables of the nftables mode are gone")
            running.settle(0.5)
            machine.end(signal.SIGTERM)
            kube_proxy_nftables(lab)
            # kube-proxy in nftables mode removes the rules of the iptables mode at its start, and so ours.
            for family in Family:
                tables = Iptables(SystemExec(), family, ours)
                lab.run("node", lambda tables=tables: list(remove_chains(tables, IPTABLES_OWNED)))
        machine.agent()
        until(is_gone, "the tables of the nftables mode are gone")
    record_property("traffic", running.verdict())
    assert "KUBE-SVC-" in machine.rules(ours)


def test_what_cannot_be_removed_is_shown_and_logged_once(lab: Lab, machine: Machine) -> None:
    """The ipvs mode's sets, one of which a rule of the administrator's refers to."""
    tables = Iptables(SystemExec(), Family.V4, Flavour.NFT)
    rule = "INPUT", "-m", "set", "--match-set", "KUBE-CLUSTER-IP", "dst", "-j", "ACCEPT"
    kubelet(lab, Flavour.NFT)
    lab.run("node", lambda: install_ipvs(tables))
    lab.run("node", lambda: tables.run("-A", *rule))
    machine.agent()
    until(lambda: bool(machine.status()["leftovers"]), "a leftover is told")
    assert machine.status()["leftovers"] == [
        "ipsets, IPv4: set KUBE-CLUSTER-IP stays: delete the iptables rule that refers to it"
    ]
    shown = machine.run("status")
    assert shown.returncode == 3
    assert "left by another proxy: ipsets, IPv4: set KUBE-CLUSTER-IP stays" in shown.stdout
    machine.end(signal.SIGTERM)
    assert machine.log().count("KUBE-CLUSTER-IP") == 1
    sets = lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout.split())
    assert set(sets) & set(set_names(Family.V4)) == {"KUBE-CLUSTER-IP", "KUBE-LOOP-BACK"}


@pytest.mark.parametrize("mode", IPTABLES)
@pytest.mark.parametrize("family", list(Family))
def test_rules_take_each_others_place_at_once(lab: Lab, mode: str, family: Family) -> None:
    """The backend alone, to and fro without a pause, in the families that the agent does not serve too."""
    flavour = Flavour(mode.removeprefix("iptables-"))
    settings = Settings(node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()))

    def ours() -> None:
        backend = IPTABLES[mode].backend(family)
        plan = backend.diff(wanted(WORLD, settings, family), None)
        assert plan is not None
        backend.apply(plan)

    kube_proxy(lab, flavour, [family])
    with traffic(lab, NAMESPACES, routes([family]), RATE, held=4) as running:
        running.settle(0.5)
        for _ in range(10):
            lab.run("node", ours)
            kube_proxy(lab, flavour, [family])


def test_the_traffic_notices_a_gap(lab: Lab) -> None:
    """Otherwise a take-over without loss would prove nothing: here the rules are away for 50 ms."""
    tables = Iptables(SystemExec(), Family.V4, Flavour.NFT)
    kube_proxy(lab, Flavour.NFT, [Family.V4])
    with Traffic(lab, NAMESPACES, routes([Family.V4]), RATE, held=1) as running:
        running.settle(0.5)
        assert not lost(running.verdict())
        lab.run("node", lambda: tables.run("-t", "nat", "-F", "KUBE-SERVICES"))
        running.settle(0.05)
        kube_proxy(lab, Flavour.NFT, [Family.V4])
        running.settle(0.5)
        assert lost(running.verdict())
        assert not running.verdict()["broken"]
