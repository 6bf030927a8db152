"""JSON that no API server would have let in: valid objects in which a few fields were made hostile.

Each object is valid but for the fields that were drawn, since one that is wrong everywhere fails at its first
field and tries nothing else.
"""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from tests.property.strategies_model import own_address
from tests.scenarios.addresses import HOSTS, NODE, V4, V6

HOSTILE_TEXTS = [
    "",
    " ",
    "None",
    "\x00",
    "a\nb",
    "\x1b[31m",
    '" -j ACCEPT -m comment --comment "',
    "-A INPUT -j ACCEPT",
    "COMMIT",
    "$(reboot)",
    "%s%n{0}",
    "١٠.٠.٠.١",
    "x" * 63,
    "x" * 64,
    "x." * 126 + "x",
    "x" * 253,
    "x" * 5000,
    "-lead",
    "UPPER",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
]
HOSTILE_IPS = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "169.254.169.254",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:10.0.0.1",
    "010.244.000.011",
    "10.244.0.256",
    "10.244.0",
    "0x7f000001",
    "10.0.0.1/8",
    NODE.v4,
    NODE.v6,
    "",
    "None",
    "10.0.0.1 -j ACCEPT",
    "1" * 4000,
]
HOSTILE_CIDRS = [
    "0.0.0.0/0",
    "::/0",
    " 10.0.0.0/8",
    "10.0.0.1/8\t",
    "10.0.0.0/33",
    "10.0.0.0",
    "/",
    "::/129",
    "10.0.0.0/-1",
    "",
]
HOSTILE_NUMBERS = [0, -1, 1, 65535, 65536, 2**31, 2**63, -(2**63), 30001, 80]


NAMES = ("s0", "s1")
ABSENT = "(absent)"
Path = tuple[str | int, ...]


def _meta(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "namespace": "ns", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}


def _service(index: int) -> dict[str, Any]:
    def both(way: str) -> list[str]:
        return [own_address(way, index, family) for family in (V4, V6)]

    return {
        "metadata": _meta(NAMES[index], {"app": "web"}),
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": own_address("cluster", index, V4),
            "clusterIPs": both("cluster"),
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30001 + 2 * index},
                {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30002 + 2 * index},
            ],
            "externalIPs": both("external"),
            "loadBalancerSourceRanges": ["192.168.56.0/24", "2001:db8:56::/64"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000 + index,
            "externalName": "example.org",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in both("balancer")]}},
    }


def _slice(index: int, family: Family) -> dict[str, Any]:
    conditions = {"ready": True, "serving": True, "terminating": False}
    hints = {"forZones": [{"name": "a"}], "forNodes": [{"name": "node1"}]}
    labels = {"kubernetes.io/service-name": NAMES[index]}
    return {
        "metadata": _meta(f"{NAMES[index]}-{family.value}", labels),
        "addressType": family.label,
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 8080},
            {"name": "dns", "protocol": "UDP", "port": 5353},
        ],
        "endpoints": [
            {"addresses": [HOSTS[host].address(family)], "conditions": conditions, "nodeName": node, "zone": "a"}
            | {"hints": hints, "targetRef": {"kind": "Pod", "name": host}}
            for host, node in (("be1", "node1"), ("be3", "node2"))
        ],
    }


NODE_OBJECT: dict[str, Any] = {
    "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "a"}},
    "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]},
    "status": {
        "addresses": [
            {"type": kind, "address": ip} for kind, ip in (("InternalIP", NODE.v4), ("ExternalIP", NODE.v6))
        ]
    },
}
CIDR_OBJECT: dict[str, Any] = {
    "metadata": {"name": "kubernetes"},
    "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/96"]},
}
VALID: list[tuple[str, dict[str, Any]]] = [
    *(("service", _service(index)) for index in (0, 1)),
    *(("slice", _slice(index, family)) for index in (0, 1) for family in Family),
    ("node", NODE_OBJECT),
    ("cidr", CIDR_OBJECT),
]
"""A kind and an object of it."""


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Go through every place in an object."""
    if at:
        yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _paths(child, (*at, key))


def _get(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _worse(value: Any) -> list[Any]:
    """Return what may be put in a value's place."""
    if isinstance(value, bool):
        return [not value, None, "true", 1]
    if isinstance(value, int):
        return [*HOSTILE_NUMBERS, None, "80", 0.5]
    if isinstance(value, str):
        # The addresses are another Service's, or its own where an endpoint's should be.
        taken = [own_address(way, 0, family) for way in ("cluster", "external", "balancer") for family in (V4, V6)]
        return [*HOSTILE_TEXTS, *HOSTILE_IPS, *HOSTILE_CIDRS, *taken, "None", "FQDN", "ExternalName", None, 7]
    if isinstance(value, list):
        return [[], None, [None], value * 2, value * 150, value[:1], {}, "text"]
    return [{}, None, [], "text"]


@st.composite
def hostile_objects(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a kind and an object of it, with up to four fields changed for the worse."""
    kind, valid = draw(st.sampled_from(VALID))
    found = copy.deepcopy(valid)
    for _ in range(draw(st.sampled_from(range(5)))):
        places = list(_paths(found))
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        parent = _get(found, tuple(parents))
        worse = draw(st.sampled_from([*_worse(parent[last]), ABSENT]))
        if worse == ABSENT:
            del parent[last]
        else:
            parent[last] = worse
    return kind, found
