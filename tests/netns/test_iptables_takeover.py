"""Iptables mode over time: changes, restarts, flushes, other people's rules, and a reader that is not ours."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kubeproxy import cleanup
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired, wanted
from kubeproxy.model.objects import EndpointSlice, Protocol, Service
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.iptables_bed import (
    BE1,
    BE2,
    BE3,
    NODE_PORT,
    SETTINGS,
    VIP,
    backend_in,
    check,
    everywhere,
    programmed,
    sync,
)
from tests.scenarios.addresses import NODE
from tests.scenarios.lab import Lab
from tests.scenarios.lab import lab as build_lab

pytestmark = pytest.mark.netns

DNS = "dns-tcp=53>5353/TCP,dns=53/UDP,dns-sctp=53/SCTP"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build_lab() as built:
        yield built


FOREIGN_NAT = """*nat
:DOCKER - [0:0]
-A DOCKER -j RETURN
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
COMMIT
"""
FOREIGN = f"""{FOREIGN_NAT}*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -s 10.9.9.9/32 -j DROP
COMMIT
"""
UNDO = """*nat
-F DOCKER
-X DOCKER
-D POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
COMMIT
*filter
-D INPUT -s 10.9.9.9/32 -j DROP
-X KUBE-FIREWALL
COMMIT
"""


@pytest.mark.parametrize("flavour", list(Flavour))
def test_syncs_and_cleanup_leave_others_rules_alone(lab: Lab, flavour: Flavour) -> None:
    tables = Iptables(SystemExec(), Family.V4, flavour)

    def saved() -> list[str]:
        found = [tables.save(table) for table in ("nat", "filter", "mangle")]
        lines = [line for text in found for line in text.splitlines() if not line.startswith("#")]
        return [line.partition(" [")[0] for line in lines]  # without counters

    lab.run("node", lambda: tables.restore(FOREIGN))
    before = lab.run("node", saved)
    objects = (everywhere(), endpoint_slice("web", "80>8080", [BE1, BE3]))
    with programmed(lab, objects, flavour) as backend:
        rules = lab.run("node", saved)
        assert set(before) <= set(rules)
        built = world(*objects)
        sync(lab, backend, built)
        assert lab.run("node", saved) == rules  # no jump is added twice
        assert lab.run("node", backend.observe) == ""
        lab.run("node", lambda: tables.run("-t", "nat", "-F"))
        assert "nat" in lab.run("node", backend.observe)
        lab.run("node", lambda: tables.run("-t", "nat", "-X"))
        assert lab.run("node", backend.observe) == ""  # a full sync follows, whatever is found
        lab.run("node", lambda: tables.restore(FOREIGN_NAT))
        sync(lab, backend, built)
        check(lab, f"pod {VIP}:80", "be1,be3 same")
    assert lab.run("node", saved) == before
    assert lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout) == ""
    lab.run("node", lambda: tables.restore(UNDO))


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_fingerprint_tells_that_rules_have_vanished(lab: Lab, flavour: Flavour, family: Family) -> None:
    tables = Iptables(SystemExec(), family, flavour)

    def fingerprint() -> bytes:
        return lab.run("node", lambda: tables.fingerprint("mangle"))

    lab.run("node", lambda: tables.restore("*mangle\n:OURS - [0:0]\n-A OURS -j RETURN\nCOMMIT\n"))
    full = fingerprint()
    assert fingerprint() == full
    lab.run("node", lambda: tables.run("-t", "mangle", "-F", "OURS"))
    assert fingerprint() != full
    lab.run("node", lambda: tables.run("-t", "mangle", "-X", "OURS"))


@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_partial_plan_is_what_the_kernel_then_holds(lab: Lab, flavour: Flavour) -> None:
    built = world(service("web", VIP), endpoint_slice("web", "80", [BE1]))
    objects = ()
    with programmed(lab, objects, flavour) as backend:

        def partial(*objects: Service | EndpointSlice | None) -> None:
            touched = set()
            for each in objects:
                assert each is not None
                identity = (each.namespace, each.name)
                apply = built.apply_services if isinstance(each, Service) else built.apply_slices
                touched |= apply({identity: each})  # type: ignore[operator]
            plan = backend.diff(wanted(built, SETTINGS, Family.V4, touched), touched)
            assert plan is not None
            lab.run("node", lambda: backend.apply(plan))

        sync(lab, backend, built)
        check(lab, f"pod {VIP}:80", "be1 same")
        partial(endpoint_slice("web", "80", [BE2, BE3]))
        check(lab, f"pod {VIP}:80", "be2,be3 same")
        partial(everywhere())
        check(lab, f"outside {NODE.v4}:{NODE_PORT}", "be2,be3 masq")
        partial(endpoint_slice("web", "80", []))
        check(lab, f"outside {NODE.v4}:{NODE_PORT}", "REFUSED")
        partial(endpoint_slice("web", "80", [BE1]), service("api", "10.96.0.11"))
        check(lab, f"be1 {VIP}:80", "be1 masq")
        check(lab, "pod 10.96.0.11:80", "REFUSED")


READER = """
import iptc, json, sys
table = iptc.easy.dump_table("nat", ipv6=False)
json.dump({chain: rules for chain, rules in table.items() if chain.startswith("KUBE-")}, sys.stdout, default=str)
"""


def destinations(chains: dict[str, list[dict[str, Any]]], chain: str) -> set[str]:
    """Follow decoded rules from a chain to every DNAT that can be reached."""
    found: set[str] = set()
    for rule in chains[chain]:
        target = rule.get("target")
        if isinstance(target, dict) and "DNAT" in target:
            found.add(target["DNAT"]["to-destination"])
        elif isinstance(target, str) and target.startswith("KUBE-S"):
            found |= destinations(chains, target)
    return found


def dispatched(chains: dict[str, list[dict[str, Any]]], chain: str) -> Iterator[dict[str, Any]]:
    """Follow decoded rules from a shared chain to every rule that leads to a Service."""
    for rule in chains[chain]:
        target = rule["target"]
        to = target["goto"] if isinstance(target, dict) else target
        if to.startswith("KUBE-TREE-"):
            yield from dispatched(chains, to)
        elif to != "KUBE-NODEPORTS":
            yield rule


def test_a_reader_that_is_not_ours_finds_what_we_meant(lab: Lab) -> None:
    """python-iptables decodes the legacy tables; its DNATs must be the ServiceStates' endpoints."""
    many = [f"10.244.{i >> 8}.{i & 255}" for i in range(150)]
    crowd = [
        (service(f"s{i}", f"10.96.{i % 7}.{i + 20}"), endpoint_slice(f"s{i}", "80", many[i : i + 2]))
        for i in range(140)
    ]
    objects = (
        *itertools.chain.from_iterable(crowd),
        service("dns", VIP, DNS),
        endpoint_slice("dns", DNS, [BE1, BE2]),
        service("big", "10.96.0.11"),
        endpoint_slice("big", "80", many),
        service("sticky", "10.96.0.12", session_affinity=True),
        endpoint_slice("sticky", "80>8080", [BE1, BE3]),
    )
    with programmed(lab, objects, Flavour.LEGACY):
        argv = ["ip", "netns", "exec", lab.name("node"), sys.executable, "-c", READER]
        chains = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)
    read = {}
    assert len(chains["KUBE-SERVICES"]) < 32
    for rule in dispatched(chains, "KUBE-SERVICES"):
        protocol = rule["protocol"]
        match = rule["dst"], protocol.upper(), int(rule[protocol]["dport"])
        read[match] = destinations(chains, rule["target"])
    states = desired(world(*objects), SETTINGS, Family.V4).values()
    meant = {
        (f"{each.cluster_ip}/32", each.name.protocol.value, each.port): {target.text for target in each.cluster}
        for each in states
    }
    assert read == meant


def test_cleanup_finds_what_was_written_in_either_flavour(lab: Lab) -> None:
    objects = (service("web", VIP), endpoint_slice("web", "80", [BE1]))
    with programmed(lab, objects, Flavour.NFT):
        # Legacy goes first and must leave the set, which the rules in nft still need.
        for flavour in (Flavour.LEGACY, Flavour.NFT):
            lab.run("node", backend_in(flavour).cleanup)
        assert lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout) == ""
        saves = lab.run("node", lambda: SystemExec().run(["iptables-nft-save"]).stdout)
        assert "KUBE" not in saves


@pytest.mark.parametrize(("kind", "adopted"), [("hash:ip,port,ip maxelem 65536", True), ("hash:ip", False)])
def test_a_set_that_is_there_is_adopted_if_it_is_of_our_type(lab: Lab, kind: str, adopted: bool) -> None:
    """kube-proxy's IPVS mode has a set of this name and type, and another size."""
    name, entries = "KUBE-LOOP-BACK", [("10.244.0.2", Protocol.TCP, 80)]
    sets = Ipset(Family.V4)
    lab.run("node", lambda: SystemExec().run(["ipset", "create", name, *kind.split()]))
    if adopted:
        lab.run("node", lambda: (sets.create(name, SetType.ENDPOINTS), sets.add(name, entries)))
        assert lab.run("node", lambda: sets.members(name)) == set(entries)
    else:
        with pytest.raises(KernelError, match="of another type has this name; ipset destroy KUBE-LOOP-BACK"):
            lab.run("node", lambda: sets.create(name, SetType.ENDPOINTS))
    assert lab.run("node", lambda: sets.destroy(name))


@pytest.mark.parametrize("family", list(Family))
def test_cleanup_makes_no_legacy_table_that_nobody_uses(family: Family) -> None:
    def in_use() -> frozenset[str]:
        return Iptables(SystemExec(), family, Flavour.LEGACY).in_use()

    with build_lab() as fresh:
        assert fresh.run("node", in_use) == frozenset()
        fresh.run("node", lambda: cleanup.main([]))
        assert fresh.run("node", in_use) == frozenset()
        fresh.run("node", lambda: Iptables(SystemExec(), family, Flavour.LEGACY).save("mangle"))
        assert fresh.run("node", in_use) == frozenset(("mangle",))
