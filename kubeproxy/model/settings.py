"""What the administrator chose for this node: static for the life of a process, both families in one value."""

from enum import StrEnum

from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Record

PRIMARY = "primary"
"""The one word that --nodeport-addresses takes beside CIDRs: the node's own addresses."""


class LocalMode(StrEnum):
    """How traffic of this cluster's pods is told from other traffic (upstream's --detect-local-mode)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class Settings(Record, frozen=True, kw_only=True):
    """What the model and the backends need of the configuration."""

    node_name: str
    bind_address: str = ""
    """The node's address in its family, where it is not to be taken from the Node object."""
    detect_local: LocalMode = LocalMode.CLUSTER_CIDR
    cluster_cidrs: tuple[str, ...] = ()
    """Where pods live, at most one per family counts."""
    pod_bridge: str = ""
    """The bridge that local pods are behind (mode BridgeInterface)."""
    pod_interface_prefix: str = ""
    """What the interfaces of local pods begin with (mode InterfaceNamePrefix)."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    nodeport_addresses: tuple[str, ...] = ()
    """CIDRs of the local addresses that node ports answer on, or `primary`; empty means every local address."""
    localhost_nodeports: bool = True
    """Whether node ports answer on 127.0.0.1 too (iptables mode, IPv4 only)."""
    allow_external_ips: bool = True
    """Whether spec.externalIPs are served (feature gate AllowServiceExternalIPs)."""
    ipvs: IpvsSettings | None = None
    """What concerns ipvs mode alone; None in the others."""
