"""The circumstances of a node that rows run in: its settings, its Node object, the cluster's ServiceCIDRs.

All rows of one site are programmed at once; so a row asks for another site only where it is about that.
"""

from typing import Any

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Node, Record, ServiceCIDR
from kubeproxy.model.settings import LocalMode, Settings
from tests.scenarios.addresses import (
    ALT,
    BRIDGE,
    NODE,
    NODE_POD_NETWORK,
    POD_NETWORK,
    POD_PREFIX,
    SERVICE_NETWORK,
    V4,
    V6,
)

NODE_NAME = "node1"


class Site(Record, frozen=True, kw_only=True):
    """Settings never change; Node and ServiceCIDRs have one value a step, the last for all later ones."""

    settings: Settings
    nodes: tuple[Node | None, ...]
    service_cidrs: tuple[dict[str, tuple[str, ...]], ...]
    closed: bool = False
    """Whether the administrator lets nothing in or through but what he, or the proxy, lets."""

    def node(self, step: int) -> Node | None:
        return self.nodes[min(step, len(self.nodes) - 1)]

    def cidrs(self, step: int) -> dict[tuple[str, str], ServiceCIDR]:
        found = self.service_cidrs[min(step, len(self.service_cidrs) - 1)]
        return {("", name): ServiceCIDR(name=name, cidrs=cidrs) for name, cidrs in found.items()}


def node(**fields: Any) -> Node:
    own: dict[str, Any] = {
        "name": NODE_NAME,
        "internal_ips": (NODE.v4, NODE.v6),
        "pod_cidrs": _both(NODE_POD_NETWORK),
        "zone": "a",
    }
    return Node(**(own | fields))


def _both(networks: dict[Family, str]) -> tuple[str, ...]:
    return networks[V4], networks[V6]


KUBERNETES = {"kubernetes": _both(SERVICE_NETWORK)}


def site(
    *nodes: Node | None,
    cidrs: tuple[dict[str, tuple[str, ...]], ...] = (KUBERNETES,),
    closed: bool = False,
    **settings: Any,
) -> Site:
    """Build a site; settings are those of the usual one, save what is named."""
    own: dict[str, Any] = {"node_name": NODE_NAME, "cluster_cidrs": _both(POD_NETWORK)}
    chosen = Settings(**(own | settings))
    return Site(settings=chosen, nodes=nodes or (node(),), service_cidrs=cidrs, closed=closed)


SITES = {
    "usual": site(),
    "masquerade all": site(masquerade_all=True),
    "no detector": site(cluster_cidrs=()),
    "node CIDR": site(detect_local=LocalMode.NODE_CIDR),
    "bridge": site(detect_local=LocalMode.BRIDGE_INTERFACE, pod_bridge=BRIDGE),
    "interface prefix": site(detect_local=LocalMode.INTERFACE_NAME_PREFIX, pod_interface_prefix=POD_PREFIX),
    "primary node ports": site(nodeport_addresses=("primary",)),
    "node port CIDRs": site(nodeport_addresses=("192.168.57.0/24", "2001:db8:57::/64")),
    "node ports on loopback": site(nodeport_addresses=("127.0.0.0/8", "::1/128")),
    "node port CIDRs of everything": site(
        nodeport_addresses=("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"), localhost_nodeports=False
    ),
    "node port CIDRs of IPv4": site(nodeport_addresses=("192.168.57.0/24",)),
    "no localhost node ports": site(localhost_nodeports=False),
    "no external IPs": site(allow_external_ips=False),
    "no ServiceCIDR": site(cidrs=({},)),
    "ServiceCIDRs come": site(
        cidrs=({}, KUBERNETES, KUBERNETES | {"more": ("203.0.113.0/24", "fd00:20:96::/112")})
    ),
    "a ServiceCIDR of everything": site(cidrs=({"all": ("0.0.0.0/0", "::/0")},)),
    "crowds": site(),
    "closed": site(closed=True),
    "another mark": site(masquerade_bit=5),
    "nobody knows the node": site(None),
    "nobody knows the node, nor its pods": site(None, cluster_cidrs=()),
    "the node's address changes": site(
        node(), node(internal_ips=(ALT.v4, ALT.v6)), nodeport_addresses=("primary",)
    ),
    "the node's pod network comes": site(node(pod_cidrs=()), node(), detect_local=LocalMode.NODE_CIDR),
    "the zone changes": site(node(), node(zone="b"), node(zone=""), None),
}
