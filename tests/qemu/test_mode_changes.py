"""A busy node goes through all changes among the three modes, on one kernel: no connection notices.

Both families at once. Programs are started warm: loading one takes ten seconds in there, which test nothing.
"""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.netns.takeover_bed import NAMESPACES, VIP, Machine, kubelet, routes
from tests.netns.traffic import traffic
from tests.scenarios.lab import Lab
from tests.scenarios.probes import REFUSED, probe
from tests.uml.ipvs_bed import kube_proxy, local, on_node
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)

RATE = 200
"""New connections a second that are asked for; where this machine cannot, the traffic slows itself."""
OWN_PORT = 9999
"""Of a process of the node's that listens at every address."""
MODES = ("iptables", "ipvs", "nftables", "iptables", "nftables", "ipvs", "iptables")
"""From each to each other one, once."""
ENDS = (signal.SIGTERM, signal.SIGKILL)
"""How agents end, by turns: each mode is left once either way."""
FLAVOURS = list(Flavour) if os.environ.get("KUBEPROXY_LONG") else [Flavour.NFT]
Record = Callable[[str, object], None]


def remains(lab: Lab, machine: Machine, flavour: Flavour) -> set[str]:
    """Return the modes of which there is something on the node, connections through virtual servers left out."""
    tables = on_node(lab, "nft", "list", "tables").split()
    rules = machine.rules(flavour)
    other = machine.rules(next(each for each in Flavour if each is not flavour))
    found = {
        "iptables": "KUBE-SVC-" in rules,
        "ipvs": "KUBE-IPVS-INGRESS" in rules,
        "nftables": "kube-proxy" in tables,
        "the other flavour": bool(other),
        "ipvs by nftables": NFT_TABLE in tables,
    }
    return {name for name, is_there in found.items() if is_there}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_node_changes_among_all_modes(
    lab: Lab, machine: Machine, flavour: Flavour, record_property: Record
) -> None:
    kubelet(lab, flavour)
    machine.agent(MODES[0])
    changes: dict[str, object] = {}
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=1) as running:
        for (before, mode), end in zip(itertools.pairwise(MODES), itertools.cycle(ENDS), strict=False):
            running.settle(0.5)
            print(f"{running.elapsed:.2f} {before} ends by {end.name}")
            machine.end(end)
            took = machine.agent(mode)
            print(f"{running.elapsed:.2f} {mode} serves")
            until(
                lambda mode=mode: remains(lab, machine, flavour) == {mode}, f"nothing but {mode} mode is left", 60
            )
            print(f"{running.elapsed:.2f} {mode} is alone")
            running.hold_more()
            assert machine.told("leftovers") == []
            assert bool(local(lab)) is (mode == "ipvs" or bool(machine.told("waiting")))
            changes[f"{before} to {mode}"] = {"taken over after": round(took, 1), **running.part()}
        running.settle(0.5)
    record_property("traffic", running.verdict())
    record_property("changes", changes)


def test_auto_takes_over_from_kube_proxys_ipvs_mode(lab: Lab, machine: Machine, record_property: Record) -> None:
    """A kernel that has everything gets nftables mode."""
    kube_proxy(lab)
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=1) as running:
        running.settle(0.5)
        took = machine.agent("auto")
        assert machine.told("mode") == "nftables"
        until(
            lambda: ":KUBE-LOAD-BALANCER " not in machine.rules(Flavour.LEGACY), "kube-proxy's chains are gone", 60
        )
        until(lambda: bool(machine.told("waiting")), "connections through virtual servers are told of", 60)
        assert machine.told("leftovers") == []
        running.settle(1)
    record_property("traffic", {**running.verdict(), **running.part()})
    record_property("seconds until taken over", round(took, 1))


def test_ipvs_mode_without_iptables_is_followed_by_nftables_mode(
    lab: Lab, machine: Machine, tmp_path: Path, record_property: Record
) -> None:
    nothing = tmp_path / "no-programs"
    nothing.mkdir()
    lab.listen("node", (OWN_PORT,))
    machine.agent("ipvs", programs=str(nothing))
    assert NFT_TABLE in on_node(lab, "nft", "list", "tables").split()
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=1) as running:
        running.settle(0.5)
        machine.end(signal.SIGTERM)
        machine.agent("nftables", programs=str(nothing))
        until(lambda: bool(machine.told("waiting")), "connections through virtual servers are told of", 60)
        # The table stays as long, for its sets and its guard: this node's own process is not heard at an address
        # that connections keep local.
        assert remains(lab, machine, Flavour.LEGACY) == {"nftables", "ipvs by nftables"}
        for address in (VIP[family] for family in Family):
            assert address in local(lab)
            # Not from where the traffic comes: a refusal that is there before connect() lets go of its socket is
            # lost, and asked for again after a second, which is counted there as a connection that was held up.
            for client in ("be1", "node"):
                assert probe(lab, client, Protocol.TCP, address, OWN_PORT) == REFUSED
        running.hold_more()
        running.settle(1)
        assert machine.told("leftovers") == []
    record_property("traffic", {**running.verdict(), **running.part()})
