"""Every name that ipvs mode gives to a kernel object stands here, once.

Where upstream's ipvs mode has the same thing, it has the same name: who knows kube-proxy finds the way, and one
takes over from the other on a running node.
"""

from enum import StrEnum

from kubeproxy.model.addresses import Family

DEVICE = "kube-ipvs0"
"""The dummy device that virtual addresses are local on."""

NFT_TABLE = "kube-proxy-ipvs"
"""Where a node has no iptables: the table of nftables, in the families ip and ip6, that has rules and sets."""

MAX_SET_NAME = 31


class Set(StrEnum):
    """The ipsets, by what a packet or an address is in there for. `set_name` gives the kernel's name."""

    ADDRESSES = "IPVS-IPS"
    """Virtual addresses that are local here."""
    SERVERS = "VIRTUAL-SERVERS"
    """Every virtual server by address that we made: so ours are told from others' after a restart too."""
    CLUSTER_IP = "CLUSTER-IP"
    """Whoever is not a pod is masqueraded on the way to these."""
    MASQUERADE = "MASQUERADE"
    """Everybody is."""
    NO_LOCAL = "NO-LOCAL"
    """Dropped: the policy is Local, and every endpoint is on another node."""
    NO_ENDPOINTS = "NO-ENDPOINTS"
    """Refused: there is no endpoint anywhere."""
    SHORT_CIRCUIT = "SHORT-CIRCUIT"
    """Pods and the node itself are sent to the cluster's endpoints: the entry's mark is a virtual server."""
    GUARDED = "LOAD-BALANCER-FW"
    """Load balancer addresses with source ranges."""
    ADMITTED = "LOAD-BALANCER-SOURCE-CIDR"
    """Which source comes through to which of them."""
    LOOP_BACK = "LOOP-BACK"
    """Endpoints that may be clients of their own Service."""
    HEALTH_CHECKS = "HEALTH-CHECK-NODE-PORT"
    """Where load balancers ask whether this node has endpoints."""


def set_name(family: Family, which: Set) -> str:
    """Return the kernel's name of a set; as upstream has it, one that is too long is cut."""
    return (("KUBE-" if family is Family.V4 else "KUBE-6-") + which)[:MAX_SET_NAME]


# Chains of the nat table are upstream's, and those of the filter table too, as far as it has them.
# The guard and the short circuit come before any translation, so they are in mangle.
INGRESS = "KUBE-IPVS-INGRESS"  # mangle PREROUTING: source ranges, short circuit of pods, nobody local
EGRESS = "KUBE-IPVS-EGRESS"  # mangle OUTPUT: the same for what this node itself sends
MARK_SHORT_CIRCUIT = "KUBE-IPVS-SHORT-CIRCUIT"  # gives a packet the mark of a virtual server
ACCESS = "KUBE-IPVS-FILTER"  # filter INPUT: what of a virtual address may be spoken to
OUT_ACCESS = "KUBE-IPVS-OUT-FILTER"  # filter OUTPUT: the same for this node itself
NODE_PORT = "KUBE-NODE-PORT"  # filter INPUT: health check node ports

MARK_BASE, MARK_MASK = 0x6B000000, 0xFF000000
"""What the marks of our short circuits have in common, the masquerade bit left out."""
MARKS = 1 << 22
"""How many numbers they have: of three bytes the masquerade bit may take one, and one is to spare."""


def short_circuit_mark(number: int, masquerade_bit: int) -> int:
    """Return the mark of the ``number``-th short circuit, 0 to `MARKS` - 1."""
    assert 0 <= number < MARKS
    low = number & ((1 << masquerade_bit) - 1)
    spread = (number - low) << 1 | low  # the bit stays clear
    return (MARK_BASE | spread) & ~(1 << masquerade_bit)


def is_short_circuit(mark: int, masquerade_bit: int) -> bool:
    """Return whether a virtual server for a mark is of ours, be it for pods or for the node itself."""
    bits = MARK_MASK & ~(1 << masquerade_bit)
    return mark & bits == MARK_BASE & bits
