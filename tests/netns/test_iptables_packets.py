"""Where packets go under iptables mode, by the kernel itself: a table of worlds and probes, in both flavours.

The rows re-state kube-proxy's own packet-flow cases (shared/reference/kube-proxy.md §6.1) as far as traffic
policies and terminating endpoints are not concerned.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Settings, desired, stream
from kubeproxy.model.objects import EndpointSlice, Node, Protocol, Record, Service
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.packet_lab import ALT_NODE_IP, NODE_IP, OUTSIDE, PODS, PacketLab, packet_lab

pytestmark = pytest.mark.netns

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))
VIP, EXTERNAL, BALANCER, NODE_PORT = "10.96.0.10", "1.2.3.4", "5.6.7.8", 30080
BE1, BE2, BE3 = "10.244.0.11@node1", "10.244.0.12@node1", "10.244.1.11@node2"
DROP_SECONDS = 0.4


class Row(Record, frozen=True, kw_only=True):
    """A world, and what each probe must find.

    A probe is `SOURCE [PROTOCOL] ADDRESS:PORT`; an expectation names all backends that must answer (and no
    other may), then `same` or `masq` for the client's address as they see it, then their port if it matters;
    or REFUSED, or DROPPED.
    """

    name: str
    objects: tuple[Service | EndpointSlice, ...]
    probes: dict[str, str]
    settings: Settings = SETTINGS
    node_ips: tuple[str, ...] = (NODE_IP,)


def everywhere(**fields: object) -> Service:
    return service(
        "web", VIP, node_port=NODE_PORT, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,), **fields
    )


DNS = "dns-tcp=53>5353/TCP,dns=53/UDP,dns-sctp=53/SCTP"
RANGED = everywhere(source_ranges=(f"{OUTSIDE}/32",))
ALL_WAYS = (f"{EXTERNAL}:80", f"{BALANCER}:80", f"{NODE_IP}:{NODE_PORT}")

ROWS = [
    Row(
        name="simple cluster IP",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE3])),
        probes={f"pod {VIP}:80": "be3 same", f"pod {VIP}:81": "DROPPED", f"pod UDP {VIP}:80": "DROPPED"},
    ),
    Row(
        name="a pod reaches itself through its own service, masqueraded",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE1])),
        probes={f"be1 {VIP}:80": "be1 masq", f"be2 {VIP}:80": "be1 same"},
    ),
    Row(
        name="so it does when no slice says on which node it runs",
        objects=(service("web", VIP), endpoint_slice("web", "80", ["10.244.0.11"])),
        probes={f"be1 {VIP}:80": "be1 masq", f"be1 {PODS['be1']}:80": "be1 same"},
    ),
    Row(
        name="several endpoints all get requests",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE1, BE2, BE3])),
        probes={f"pod {VIP}:80": "be1,be2,be3 same"},
    ),
    Row(
        name="the target port differs, in two slices even",
        objects=(
            service("web", VIP, "443"),
            endpoint_slice("web", "443>8080", [BE1], suffix="a"),
            endpoint_slice("web", "443>80", [BE3], suffix="b"),
        ),
        probes={f"pod {VIP}:443": "be1,be3 same"},
    ),
    Row(
        name="TCP, UDP and SCTP share a port",
        objects=(service("dns", VIP, DNS), endpoint_slice("dns", DNS, [BE1])),
        probes={
            f"pod TCP {VIP}:53": "be1 same 5353",
            f"pod UDP {VIP}:53": "be1 same 53",
            f"pod SCTP {VIP}:53": "be1 same 53",
        },
    ),
    Row(
        name="nobody there: every address refuses",
        objects=(everywhere(),),
        probes={
            **{f"pod {way}": "REFUSED" for way in (f"{VIP}:80", *ALL_WAYS)},
            **{f"outside {way}": "REFUSED" for way in ALL_WAYS},
            f"node {VIP}:80": "REFUSED",
        },
    ),
    Row(
        name="nobody there, by UDP",
        objects=(service("dns", VIP, "53/UDP"),),
        probes={f"pod UDP {VIP}:53": "REFUSED", f"node UDP {VIP}:53": "REFUSED"},
    ),
    Row(
        name="node port, external and load balancer address from everywhere, masqueraded",
        objects=(everywhere(), endpoint_slice("web", "80>8080", [BE1, BE3])),
        probes={
            **{f"{who} {way}": "be1,be3 masq 8080" for who in ("outside", "pod") for way in ALL_WAYS},
            f"node {NODE_IP}:{NODE_PORT}": "be1,be3 masq",
            f"outside {ALT_NODE_IP}:{NODE_PORT}": "be1,be3 masq",
        },
    ),
    Row(
        name="node port by UDP",
        objects=(service("dns", VIP, "53/UDP", node_port=30053), endpoint_slice("dns", "53/UDP", [BE1])),
        probes={f"outside UDP {NODE_IP}:30053": "be1 masq 53"},
    ),
    Row(
        name="node ports answer on localhost",
        objects=(everywhere(), endpoint_slice("web", "80", [BE1])),
        probes={f"localhost 127.0.0.1:{NODE_PORT}": "be1 masq"},
    ),
    Row(
        name="node ports on localhost can be switched off",
        objects=(everywhere(), endpoint_slice("web", "80", [BE1])),
        settings=msgspec.structs.replace(SETTINGS, localhost_nodeports=False),
        probes={f"localhost 127.0.0.1:{NODE_PORT}": "REFUSED", f"node {NODE_IP}:{NODE_PORT}": "be1 masq"},
    ),
    Row(
        name="node ports on chosen addresses only",
        objects=(everywhere(), endpoint_slice("web", "80", [BE1])),
        settings=msgspec.structs.replace(SETTINGS, nodeport_addresses=("192.168.56.0/24",)),
        probes={
            f"outside {NODE_IP}:{NODE_PORT}": "be1 masq",
            f"outside {ALT_NODE_IP}:{NODE_PORT}": "REFUSED",
        },
    ),
    Row(
        name="source ranges guard the load balancer address, and nothing else",
        objects=(RANGED, endpoint_slice("web", "80", [BE1])),
        probes={
            f"outside {BALANCER}:80": "be1 masq",
            f"blocked {BALANCER}:80": "DROPPED",
            f"pod {BALANCER}:80": "DROPPED",
            f"node {BALANCER}:80": "DROPPED",
            f"blocked {NODE_IP}:{NODE_PORT}": "be1 masq",
            f"blocked {EXTERNAL}:80": "be1 masq",
        },
    ),
    Row(
        name="a node in the source ranges is let in",
        objects=(everywhere(source_ranges=(f"{NODE_IP}/32",)), endpoint_slice("web", "80", [BE1])),
        probes={f"node {BALANCER}:80": "be1 masq", f"outside {BALANCER}:80": "DROPPED"},
    ),
    Row(
        name="cluster IP from outside the pod network is masqueraded",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE3])),
        probes={f"node {VIP}:80": "be3 masq", f"outside {VIP}:80": "be3 masq", f"pod {VIP}:80": "be3 same"},
    ),
    Row(
        name="nobody is masqueraded when the pod network is unknown",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE3])),
        settings=Settings(node_name="node1"),
        probes={f"pod {VIP}:80": "be3 same", f"outside {VIP}:80": "be3 same"},
    ),
    Row(
        name="masquerade all",
        objects=(service("web", VIP), endpoint_slice("web", "80", [BE3])),
        settings=msgspec.structs.replace(SETTINGS, masquerade_all=True),
        probes={f"pod {VIP}:80": "be3 masq", f"node {VIP}:80": "be3 masq"},
    ),
    Row(
        name="an endpoint on the host's network is the node itself",
        objects=(service("host", VIP, "80>8088"), endpoint_slice("host", "80>8088", [f"{NODE_IP}@node1"])),
        probes={f"pod {VIP}:80": "node same", f"node {VIP}:80": "node masq", f"node {NODE_IP}:8088": "node same"},
    ),
    Row(
        name="an endpoint at loopback is left out, so nobody is there",
        objects=(service("evil", VIP, "80>8088"), endpoint_slice("evil", "80>8088", ["127.0.0.1"])),
        probes={f"pod {VIP}:80": "REFUSED"},
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with packet_lab() as built:
        yield built


def backend_in(lab: PacketLab, flavour: Flavour, settings: Settings = SETTINGS) -> IptablesBackend:
    tables = Iptables(SystemExec(), Family.V4, flavour)
    return IptablesBackend(tables, Ipset(Family.V4), ProcSysctls(), settings, Family.V4)


def sync(lab: PacketLab, backend: IptablesBackend, from_: World, settings: Settings = SETTINGS) -> None:
    def work() -> None:
        plan = backend.diff(stream(from_, settings, Family.V4), None)
        assert plan is not None
        backend.apply(plan)

    lab.run("node", work)


@contextlib.contextmanager
def programmed(lab: PacketLab, row: Row, flavour: Flavour) -> Iterator[IptablesBackend]:
    built = world(*row.objects)
    built.apply_node(Node(name="node1", internal_ips=row.node_ips))
    backend = backend_in(lab, flavour, row.settings)
    sync(lab, backend, built, row.settings)
    try:
        yield backend
    finally:
        lab.run("node", backend.cleanup)


def check(lab: PacketLab, probe: str, expected: str) -> None:
    """Probe until every expected backend has answered; complain about anything else."""
    source, *middle, destination = probe.split()
    address, _, port = destination.rpartition(":")
    protocol = Protocol(middle[0]) if middle else Protocol.TCP
    names, *how = expected.split()
    if not how:
        timeout = DROP_SECONDS if expected == "DROPPED" else 2.0
        found = lab.probe(source, protocol, address, int(port), timeout)
        assert found == expected, f"{probe}: expected {expected}, got {found}"
        return
    missing = set(names.split(","))
    for _ in range(60):
        found = lab.probe(source, protocol, address, int(port))
        assert not isinstance(found, str), f"{probe}: expected {expected}, got {found}"
        who, masq, reached = found
        assert who in names.split(","), f"{probe}: {who} answered instead of {names}"
        assert [masq, str(reached)][: len(how)] == how, f"{probe}: expected {how}, got {found}"
        missing.discard(who)
        if not missing:
            return
    raise AssertionError(f"{probe}: {missing} never answered")


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_packets_go_where_the_world_says(lab: PacketLab, row: Row, flavour: Flavour) -> None:
    with programmed(lab, row, flavour):
        for probe, expected in row.probes.items():
            check(lab, probe, expected)


@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_client_stays_with_its_endpoint_when_asked_to(lab: PacketLab, flavour: Flavour) -> None:
    sticky = service("web", VIP, node_port=NODE_PORT, session_affinity=True)
    row = Row(name="", objects=(sticky, endpoint_slice("web", "80", [BE1, BE2, BE3])), probes={})
    with programmed(lab, row, flavour):
        for source, address, port in (("pod", VIP, 80), ("outside", NODE_IP, NODE_PORT), ("be1", VIP, 80)):
            answers = {lab.probe(source, Protocol.TCP, address, port)[0] for _ in range(12)}
            assert len(answers) == 1, f"{source}: {answers}"


@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_new_agent_takes_over_without_a_lost_request(lab: PacketLab, flavour: Flavour) -> None:
    objects = service("web", VIP), endpoint_slice("web", "80", [BE1, BE2])
    row = Row(name="", objects=objects, probes={})
    with programmed(lab, row, flavour):
        answers = []
        for turn in range(30):
            if turn % 3 == 0:
                sync(lab, backend_in(lab, flavour), world(*objects))
            answers.append(lab.probe("pod", Protocol.TCP, VIP, 80))
        assert all(not isinstance(each, str) for each in answers), answers


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
def test_syncs_and_cleanup_leave_others_rules_alone(lab: PacketLab, flavour: Flavour) -> None:
    tables = Iptables(SystemExec(), Family.V4, flavour)

    def saved() -> list[str]:
        found = [tables.save(table) for table in ("nat", "filter", "mangle")]
        lines = [line for text in found for line in text.splitlines() if not line.startswith("#")]
        return [line.partition(" [")[0] for line in lines]  # without counters

    lab.run("node", lambda: tables.restore(FOREIGN))
    before = lab.run("node", saved)
    row = ROWS[8]
    with programmed(lab, row, flavour) as backend:
        rules = lab.run("node", saved)
        assert set(before) <= set(rules)
        built = world(*row.objects)
        sync(lab, backend, built)
        assert lab.run("node", saved) == rules  # no jump is added twice
        assert lab.run("node", backend.observe) == ""
        lab.run("node", lambda: [tables.run("-t", "nat", verb) for verb in ("-F", "-X")])
        assert "nat" in lab.run("node", backend.observe)
        lab.run("node", lambda: tables.restore(FOREIGN_NAT))
        sync(lab, backend, built)
        check(lab, f"pod {VIP}:80", "be1,be3 same")
    assert lab.run("node", saved) == before
    assert lab.run("node", lambda: SystemExec().run(["ipset", "list", "-n"]).stdout) == ""
    lab.run("node", lambda: tables.restore(UNDO))


@pytest.mark.parametrize("flavour", list(Flavour))
def test_a_partial_plan_is_what_the_kernel_then_holds(lab: PacketLab, flavour: Flavour) -> None:
    built = world(service("web", VIP), endpoint_slice("web", "80", [BE1]))
    row = Row(name="", objects=(), probes={})
    with programmed(lab, row, flavour) as backend:

        def partial(*objects: Service | EndpointSlice | None) -> None:
            touched = set()
            for each in objects:
                assert each is not None
                identity = (each.namespace, each.name)
                apply = built.apply_services if isinstance(each, Service) else built.apply_slices
                touched |= apply({identity: each})  # type: ignore[operator]
            plan = backend.diff(stream(built, SETTINGS, Family.V4, touched), touched)
            assert plan is not None
            lab.run("node", lambda: backend.apply(plan))

        sync(lab, backend, built)
        check(lab, f"pod {VIP}:80", "be1 same")
        partial(endpoint_slice("web", "80", [BE2, BE3]))
        check(lab, f"pod {VIP}:80", "be2,be3 same")
        partial(everywhere())
        check(lab, f"outside {NODE_IP}:{NODE_PORT}", "be2,be3 masq")
        partial(endpoint_slice("web", "80", []))
        check(lab, f"outside {NODE_IP}:{NODE_PORT}", "REFUSED")
        partial(endpoint_slice("web", "80", [BE1]), service("api", "10.96.0.11"))
        check(lab, f"be1 {VIP}:80", "be1 masq")
        check(lab, "pod 10.96.0.11:80", "REFUSED")


READER = """
import iptc, json, sys
table = iptc.easy.dump_table("nat", ipv6=False)
json.dump({chain: rules for chain, rules in table.items() if chain.startswith("KUBE-")}, sys.stdout, default=str)
"""


def destinations(chains: dict[str, list[dict[str, object]]], chain: str) -> set[str]:
    """Follow decoded rules from a chain to every DNAT that can be reached."""
    found: set[str] = set()
    for rule in chains[chain]:
        target = rule.get("target")
        if isinstance(target, dict) and "DNAT" in target:
            found.add(target["DNAT"]["to-destination"])
        elif isinstance(target, str) and target.startswith("KUBE-S"):
            found |= destinations(chains, target)
    return found


def test_a_reader_that_is_not_ours_finds_what_we_meant(lab: PacketLab) -> None:
    """python-iptables decodes the legacy tables; its DNATs must be the ServiceStates' endpoints."""
    many = [f"10.244.{i >> 8}.{i & 255}" for i in range(150)]
    objects = (
        service("dns", VIP, DNS),
        endpoint_slice("dns", DNS, [BE1, BE2]),
        service("big", "10.96.0.11"),
        endpoint_slice("big", "80", many),
        service("sticky", "10.96.0.12", session_affinity=True),
        endpoint_slice("sticky", "80>8080", [BE1, BE3]),
    )
    with programmed(lab, Row(name="", objects=objects, probes={}), Flavour.LEGACY):
        argv = ["ip", "netns", "exec", lab.name("node"), sys.executable, "-c", READER]
        chains = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)
    read = {}
    for rule in chains["KUBE-SERVICES"][:-1]:
        protocol = rule["protocol"]
        match = rule["dst"], protocol.upper(), int(rule[protocol]["dport"])
        read[match] = destinations(chains, rule["target"])
    states = desired(world(*objects), SETTINGS, Family.V4).values()
    meant = {
        (f"{each.cluster_ip}/32", each.name.protocol.value, each.port): {target.text for target in each.endpoints}
        for each in states
    }
    assert read == meant
