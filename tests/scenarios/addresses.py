"""Who is where in the lab, in each IP family; plain data, the same for packets and for predictions about them."""

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record

V4, V6 = Family.V4, Family.V6


class Host(Record, frozen=True, kw_only=True):
    """One address of the lab in both families, and the namespace that it belongs to."""

    namespace: str
    v4: str
    v6: str
    interface: str = ""
    """By which interface its packets reach the node; "" for the node's own."""

    def address(self, family: Family) -> str:
        return self.v4 if family is V4 else self.v6


def _pod(name: str, number: int) -> Host:
    return Host(namespace=name, v4=f"10.244.0.{number}", v6=f"fd00:10:244::{number}", interface=POD_PREFIX + name)


def _far(number: int) -> Host:
    return Host(namespace="far", v4=f"10.244.1.{number}", v6=f"fd00:10:244:1::{number}", interface="far0")


def _outside(number: int, net: int = 56) -> Host:
    return Host(
        namespace="outside", v4=f"192.168.{net}.{number}", v6=f"2001:db8:{net}::{number}", interface="eth0"
    )


POD_PREFIX, BRIDGE = "kpod-", "cbr0"
NODE = Host(namespace="node", v4="192.168.56.11", v6="2001:db8:56::11")
ALT = Host(namespace="node", v4="192.168.57.11", v6="2001:db8:57::11")
GATEWAY = Host(namespace="node", v4="10.244.0.1", v6="fd00:10:244::1")
"""What the node calls itself towards its pods; also what they see when it masquerades."""
TUNNEL = Host(namespace="node", v4="10.244.0.0", v6="fd00:10:244::f")
"""The same towards pods of another node."""
LOOPBACK = Host(namespace="node", v4="127.0.0.1", v6="::1")
WAY_OUT = Host(namespace="node", v4="192.168.99.1", v6="fd00:99::1")
"""Where its default route leaves."""
OWN = {
    family: frozenset(host.address(family) for host in (NODE, ALT, GATEWAY, TUNNEL, LOOPBACK, WAY_OUT))
    for family in Family
}
"""All of the node's addresses."""
EXTRA_CLIENTS = 20

HOSTS = {
    "node": NODE,
    "alt": ALT,
    "localhost": LOOPBACK,
    "pod": _pod("pod", 2),
    "be1": _pod("be1", 11),
    "be2": _pod("be2", 12),
    "bridged": Host(namespace="bridged", v4="10.244.0.5", v6="fd00:10:244::5", interface=BRIDGE),
    "farpod": _far(2),
    "be3": _far(11),
    "be4": _far(12),
    "outside": _outside(200),
    "blocked": _outside(201),
    "altout": _outside(200, 57),
    **{f"client{i}": _outside(100 + i) for i in range(EXTRA_CLIENTS)},
}
"""`pod`, `be1`, `be2`, `bridged` (behind a bridge) are on this node; `farpod`, `be3`, `be4` on another."""

BACKENDS = ("be1", "be2", "be3", "be4")
PORTS = (80, 8080, 53, 5353)
"""What backends listen on."""
MORE_PORTS = range(9000, 9030)
"""What they listen on as well once a row expects an answer from there."""
HOST_PORT = 8088
"""What the node's own process, a pod on the host's network, listens on."""

CROWD_NETWORK = {V4: "10.245.0.0/16", V6: "fd00:10:245::/64"}
"""Pods of another node, as many as there are addresses; all are called `crowd`."""
POD_NETWORK = {V4: "10.244.0.0/16", V6: "fd00:10:244::/48"}
NODE_POD_NETWORK = {V4: "10.244.0.0/24", V6: "fd00:10:244::/64"}
SERVICE_NETWORK = {V4: "10.96.0.0/16", V6: "fd00:10:96::/96"}
SECOND_SERVICE_NETWORK = {V4: "203.0.113.0/24", V6: "fd00:20:96::/112"}
_CLUSTER = {V4: "10.96.{}.{}", V6: "fd00:10:96::{:x}:{:x}"}
_EXTERNAL = {V4: "198.18.{}.{}", V6: "2001:db8:e::{:x}:{:x}"}
_BALANCER = {V4: "198.19.{}.{}", V6: "2001:db8:b::{:x}:{:x}"}
WORLD_BEYOND = {
    V4: (SERVICE_NETWORK[V4], SECOND_SERVICE_NETWORK[V4], "198.18.0.0/15"),
    V6: (SERVICE_NETWORK[V6], SECOND_SERVICE_NETWORK[V6], "2001:db8:e::/64", "2001:db8:b::/64"),
}
"""What the node's default route leads to: whoever gets there was not touched, and is answered by `wan`."""


def virtual(way: str, family: Family, row: int, number: int) -> str:
    """Return a Service's own address: ``way`` is cluster, external or balancer; ``number`` counts within a row."""
    forms = {"cluster": _CLUSTER, "external": _EXTERNAL, "balancer": _BALANCER}
    return forms[way][family].format(row, number)


def crowd(number: int, family: Family) -> str:
    """Return the address of one pod of the crowd."""
    return f"10.245.{number >> 8}.{number & 255}" if family is V4 else f"fd00:10:245::{number:x}"


def name_of(address: str) -> str:
    """Return whose address this is; `wan` when nobody's in the lab."""
    if address.startswith(("10.245.", "fd00:10:245:")):
        return "crowd"
    return _NAMES.get(address, "wan")


_NAMES = {host.address(family): name for name, host in HOSTS.items() for family in Family}
_NAMES |= {address: "node" for own in OWN.values() for address in own}
