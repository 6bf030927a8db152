"""Where packets go under iptables mode, by the kernel itself: a table of worlds and probes, in both flavours.

The rows re-state kube-proxy's own packet-flow cases (shared/reference/kube-proxy.md §6.1) as far as traffic
policies and terminating endpoints are not concerned.
"""

from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.kernel.iptables import Flavour
from kubeproxy.model.objects import Protocol
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service
from tests.netns.iptables_bed import (
    BALANCER,
    BE1,
    BE2,
    BE3,
    EXTERNAL,
    NODE_PORT,
    SETTINGS,
    VIP,
    Row,
    check,
    everywhere,
    programmed,
)
from tests.netns.packet_lab import ALT_NODE_IP, NODE_IP, OUTSIDE, PODS, PacketLab, packet_lab

pytestmark = pytest.mark.netns

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
