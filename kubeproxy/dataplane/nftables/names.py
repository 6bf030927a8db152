"""Every name that nftables mode gives to a kernel object stands here, once.

Where upstream's nftables mode has the same thing, it has the same name, and only there. The table's name is
upstream's too, so that one takes over from the other in one transaction; upstream's would fail where a name meant
another thing.
"""

from enum import Enum, StrEnum
from typing import NamedTuple

from kubeproxy.model.objects import Record

COMMENT = "rules for kube-proxy"

# Sets that all Services share.
CLUSTER_IPS = "cluster-ips"
HAIRPIN = "hairpin-connections"
GUARDED_IPS = "guarded-ips"

# Chains that are always there; what hooks the base ones have is in `layout`.
FILTER_PREROUTING = "filter-prerouting-pre-dnat"
FILTER_OUTPUT_PRE_DNAT = "filter-output-pre-dnat"
FILTER_INPUT = "filter-input"
FILTER_FORWARD = "filter-forward"
FILTER_OUTPUT = "filter-output"
NAT_PREROUTING = "nat-prerouting"
NAT_OUTPUT = "nat-output"
NAT_POSTROUTING = "nat-postrouting"
SERVICES = "services"
NODEPORTS = "nodeports"
MASQUERADING = "masquerading"
SERVICE_CHECK = "service-endpoints-check"
NODEPORT_CHECK = "nodeport-endpoints-check"
CLUSTER_IPS_CHECK = "cluster-ips-check"
FIREWALL_CHECK = "firewall-check"
FIREWALL_SOURCES = "firewall-sources"  # its rules are those of the prefix lengths in use


class ListMaps(Record, frozen=True):
    """Where one of a place's lists of endpoints is."""

    endpoints: str
    """Map of place and slot: address and port."""
    choosers: str
    """With affinity: map of the class of how many endpoints: jump to the chain that chooses."""
    sizes: str
    """With affinity: map of place: class of how many endpoints the list has."""
    slots: str
    """With affinity: map of place and slot: the endpoint's number."""
    sticky: str
    """With affinity: map of place and number: address and port."""


def _lists(prefix: str) -> ListMaps:
    kinds = ("endpoints", "choosers", "sticky-sizes", "sticky-slots", "sticky-endpoints")
    return ListMaps(*(f"{prefix}{kind}" for kind in kinds))


class WayNames(Record, frozen=True, kw_only=True):
    """What belongs to one way of addressing a Service."""

    prefix: str
    """Of the chains of its classes."""
    finds: str
    """The chain that finds the class of a packet's place."""
    picks: str
    """Map of class: goto the chain that serves it."""
    short_circuit_picks: str
    """The same for whom policy Local does not bind."""
    services: str
    """Map of place: class."""
    cluster: ListMaps
    """The cluster's endpoints, or internally under policy Local this node's: whatever a place has one list of."""
    local: ListMaps
    """This node's endpoints, of places under externalTrafficPolicy Local."""
    short_circuits: str
    """Map of place: class for whom policy Local does not bind."""
    affinity: str
    """Dynamic map of client and place: the endpoint's number."""
    no_endpoints: str
    no_local: str


class Way(Enum):
    """How a packet addresses a Service: by an address of its own, or by a node port."""

    ADDRESS = WayNames(
        prefix="",
        finds=SERVICES,
        picks="picks",
        short_circuit_picks="short-circuit-picks",
        services="service-classes",
        cluster=_lists(""),
        local=_lists("local-"),
        short_circuits="short-circuit-ips",
        affinity="affinity",
        no_endpoints="rejected-services",
        no_local="dropped-services",
    )
    NODE_PORT = WayNames(
        prefix="nodeport-",
        finds=NODEPORTS,
        picks="nodeport-picks",
        short_circuit_picks="nodeport-short-circuit-picks",
        services="nodeport-classes",
        cluster=_lists("nodeport-"),
        local=_lists("nodeport-local-"),
        short_circuits="short-circuit-nodeports",
        affinity="nodeport-affinity",
        no_endpoints="rejected-nodeports",
        no_local="dropped-nodeports",
    )

    __hash__ = object.__hash__
    """An Enum's own is Python code, and ways are part of keys."""


VERDICT_MAPS = tuple(
    name
    for own in (way.value for way in Way)
    for name in (own.picks, own.short_circuit_picks, own.cluster.choosers, own.local.choosers)
)
"""Each has only the classes that a packet may meet where it is asked: the kernel follows all that it leads to."""


class Kind(StrEnum):
    """What becomes of packets to a place, beside which endpoint they get; or how affinity chooses one."""

    PICK = "pick"
    """Nothing: an endpoint of the cluster's list."""
    CLUSTER = "cluster"
    """The same for a cluster IP: whoever is no pod is masqueraded."""
    MASQUERADE = "masquerade"
    """Everybody is: external addresses under policy Cluster."""
    LOCAL = "local"
    """Policy Local: this node's endpoints; pods and the node itself, which get the cluster's, do not come here."""
    UNTRANSLATED = "untranslated"
    """No endpoint, and no later rule may have it either: the address comes before a node port of that number."""
    CHOOSE = "choose"
    """Not a place's: under affinity a client that is new gets one of the cluster's list."""
    CHOOSE_LOCAL = "local-choose"
    """The same of this node's under policy Local."""


class Class(NamedTuple):
    """Places that one chain serves, or lists that one chooses from."""

    way: Way
    kind: Kind
    size: int = 0
    """Endpoints to choose from; 0 under affinity: another class has it, lest each pair of both have one."""
    seconds: int = 0
    """How long a client stays with its endpoint; 0 without affinity."""

    @property
    def chain(self) -> str:
        """Return the name of its chain."""
        name = f"{self.way.value.prefix}{self.kind}"
        if self.kind is Kind.UNTRANSLATED:
            return name
        return f"{name}-sticky-{self.seconds}" if self.seconds else f"{name}-{self.size}"

    @property
    def maps(self) -> ListMaps:
        """Return where its places' endpoints are."""
        is_local = self.kind in (Kind.LOCAL, Kind.CHOOSE_LOCAL)
        return self.way.value.local if is_local else self.way.value.cluster


CODE_MASK, CODE_BASE = 0xFF000000, 0x6B000000
"""What the numbers that we write into a packet's priority have in common; `nft` shows `6b00:0`."""
FIRST_CLASS, MAX_CLASSES = CODE_BASE + 1, 0x800000 - 1
FIRST_ENDPOINT, ENDPOINT_NUMBERS = CODE_BASE + 0x800000, 0x800000
"""Classes have the lower half of the numbers, endpoints under affinity the upper one."""
