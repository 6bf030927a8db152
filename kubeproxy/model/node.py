"""What the rules that all Services share depend on: the node's own facts, for one family.

Settings are what was chosen, the Node and the ServiceCIDRs are what the cluster says; a NodeState is the two
together. It is compared as a whole: when it differs from what was written, everything is written again.
"""

from collections.abc import Collection
from enum import Enum
from ipaddress import ip_network

from kubeproxy.model.addresses import Family, family_of, within
from kubeproxy.model.objects import Node, Record
from kubeproxy.model.settings import PRIMARY, LocalMode, Settings
from kubeproxy.model.world import World

_UNSPECIFIED = ("", "0.0.0.0", "::")


class LocalKind(Enum):
    """By what a packet of one of this cluster's pods is known."""

    NONE = "none"
    """By nothing: nobody is taken for a pod, and nobody for a stranger."""
    SOURCE = "source"
    """Its source address is within a CIDR."""
    INTERFACE = "interface"
    """It comes from an interface of exactly this name."""
    PREFIX = "prefix"
    """It comes from an interface whose name begins so."""


class LocalTraffic(Record, frozen=True):
    """How pods' traffic is told from other traffic."""

    kind: LocalKind = LocalKind.NONE
    value: str = ""


class NodeState(Record, frozen=True, kw_only=True):
    """One family's facts about this node."""

    family: Family
    name: str
    zone: str = ""
    node_ip: str = ""
    """This node's address; a loopback address while nobody knows it."""
    local: LocalTraffic = LocalTraffic()
    masquerade_all: bool = False
    masquerade_bit: int = 14
    nodeport_cidrs: tuple[str, ...] = ()
    """Where node ports answer; empty means every local address. On loopback only as the next field has it."""
    nodeports_on_loopback: bool = False
    """Whether node ports answer on 127.0.0.0/8 (iptables mode, IPv4 only)."""
    service_cidrs: tuple[str, ...] = ()
    """Where cluster IPs are from; an address in there that no Service has leads nowhere."""

    @property
    def mark(self) -> int:
        """The packet mark that asks for masquerading."""
        return 1 << self.masquerade_bit

    def answers_node_ports(self, address: str, local: Collection[str]) -> bool:
        """Return whether node ports answer at an address, ``local`` being this machine's."""
        if within(address, self.family.loopback):
            return self.nodeports_on_loopback
        chosen = self.nodeport_cidrs
        return address in local and (not chosen or any(within(address, cidr) for cidr in chosen))


def node_state(world: World, settings: Settings, family: Family) -> NodeState:
    """Return what the shared rules of one family depend on at present."""
    node_ip = _node_ip(world.node, settings, family)
    cidrs = _nodeport_cidrs(settings, family, node_ip)
    return NodeState(
        family=family,
        name=settings.node_name,
        zone=world.node.zone if world.node else "",
        node_ip=node_ip,
        local=_local_traffic(world.node, settings, family),
        masquerade_all=settings.masquerade_all,
        masquerade_bit=settings.masquerade_bit,
        nodeport_cidrs=cidrs,
        nodeports_on_loopback=_answers_on_loopback(settings, family, cidrs),
        service_cidrs=tuple(sorted(cidr for cidr in world.service_ranges() if family_of(cidr) is family)),
    )


def node_ips(node: Node | None, family: Family) -> tuple[str, ...]:
    """Return a Node's addresses of one family, internal ones first."""
    addresses = (*node.internal_ips, *node.external_ips) if node else ()
    return tuple(ip for ip in addresses if family_of(ip) is family)


def _node_ip(node: Node | None, settings: Settings, family: Family) -> str:
    """Upstream's order: what was bound to, what the Node says, loopback."""
    bound = settings.bind_address
    if bound not in _UNSPECIFIED and family_of(bound) is family:
        return bound
    loopback = ip_network(family.loopback).network_address + (family is Family.V4)
    return next(iter(node_ips(node, family)), str(loopback))


def _local_traffic(node: Node | None, settings: Settings, family: Family) -> LocalTraffic:
    match settings.detect_local:
        case LocalMode.BRIDGE_INTERFACE:
            return LocalTraffic(LocalKind.INTERFACE, settings.pod_bridge)
        case LocalMode.INTERFACE_NAME_PREFIX:
            return LocalTraffic(LocalKind.PREFIX, settings.pod_interface_prefix)
        case LocalMode.NODE_CIDR:
            cidrs = node.pod_cidrs if node else ()
        case LocalMode.CLUSTER_CIDR:
            cidrs = settings.cluster_cidrs
    own = next((cidr for cidr in cidrs if family_of(cidr) is family), "")
    return LocalTraffic(LocalKind.SOURCE, own) if own else LocalTraffic()


def _nodeport_cidrs(settings: Settings, family: Family, node_ip: str) -> tuple[str, ...]:
    """As upstream has it, a /0 makes the others void, and a family that is not named at all is not restricted."""
    if settings.nodeport_addresses == (PRIMARY,):
        return (f"{node_ip}/{family.host_bits}",)
    own = tuple(cidr for cidr in settings.nodeport_addresses if family_of(cidr) is family)
    return () if any(cidr.endswith("/0") for cidr in own) else own


def _answers_on_loopback(settings: Settings, family: Family, cidrs: tuple[str, ...]) -> bool:
    if settings.ipvs is not None:  # IPVS would send what comes from loopback out with that source
        return False
    if family is not Family.V4 or not settings.localhost_nodeports or settings.nodeport_addresses == (PRIMARY,):
        return False
    return not cidrs or any(ip_network(family.loopback).overlaps(ip_network(cidr)) for cidr in cidrs)
